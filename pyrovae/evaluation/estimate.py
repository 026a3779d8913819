"""Estimates of log p(x) per item, with standard errors, protocol, and the rules by which they may be compared."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from pyrovae import checks, frequencies
from pyrovae.columns import what_differs
from pyrovae.evaluation.item_marks import MARKS, columns_in, other_codes_between, what_differs_between
from pyrovae.models.fingerprint import attributes as other_attributes
from pyrovae.models.fingerprint import settings
from pyrovae.models.outline import tree
from pyrovae.models.pair import Pair, as_module
from pyrovae.summary import HasSummary, Rows

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Bound", "Estimate", "pair_hash"]

Bound = Literal["lower", "upper", "exact"]


@dataclass(frozen=True, eq=False, repr=False)  # two Datasets have no truth value of their equality
class Estimate(HasSummary):
    """An estimate of log p(x), or of a bound on it, for each of N items, in nats.

    `pointwise` is an xarray.Dataset over "item" with "value", its Monte Carlo standard error "se",
    and further variables of the estimator. Its attributes are the protocol: the estimator, its
    particles or steps, the seed, the base measure (mass or density, and its scale), the SHA-256 of
    the items and of the pair, and whether all entries are 0 or 1. `str()` is a line for a report. It
    counts the items whose error is unreliable, if the estimator has a variable "unreliable".

    >>> import xarray as xr
    >>> from pyrovae import Estimate
    >>> print(Estimate("elbo", xr.Dataset({"value": ("item", [-3.0, -5.0]), "se": ("item", [0.1, 0.1])})))
    elbo  -4.000 ± 0.071 (Monte Carlo) nats, log density  (2 items)
    """

    kind: str
    pointwise: xr.Dataset

    @property
    def bound(self) -> Bound | None:
        """The relation of the values to log p(x): "lower" or "upper" bounds in expectation, or "exact".

        None if the relation is not known; that of a difference of two estimates is None too.
        """
        bound: Any = self.pointwise.attrs.get("bound")
        return bound or None

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that must agree, with the estimator, for the values of two pairs to be comparable."""
        attributes = self.pointwise.attrs
        return {
            name: attributes[name] for name in str(attributes.get("settings", "")).split(", ") if name in attributes
        }

    @property
    def mean(self) -> float:
        """The mean over items, nats per item; each counts as many times as its weight says, where there are weights."""
        return frequencies.mean(self.pointwise["value"], self.weight)

    @property
    def weight(self) -> np.ndarray | None:
        """How many times each item counts, (N,); None where each counts once."""
        return self.pointwise["weight"].to_numpy() if "weight" in self.pointwise else None

    @property
    def se(self) -> float:
        """Monte Carlo standard error of the mean with the items held fixed: sqrt(sum se_i^2) / N.

        If the draws of an item depend on each other, as in `bdmc`, their spread underestimates the
        error, and this is `se_items`.
        """
        if self.pointwise.attrs.get("se_from_items"):
            return self.se_items
        return frequencies.monte_carlo_error(self.pointwise["se"], self.weight)

    @property
    def se_items(self) -> float:
        """Standard error of the mean with the items as a random sample: sd(value) / sqrt(N); NaN for one item.

        With weights, which are frequencies, N is their sum, and an item counts that many times in the variance.
        """
        return frequencies.standard_error(self.pointwise["value"], self.weight)

    @property
    def bits_per_dimension(self) -> float:
        """-mean / (D log 2) for items of D entries; it is a code length for a mass, and not for a density.

        ValueError for a mixed measure, which has no bits, and for items with missing entries, which have no one D.
        """
        attributes = self.pointwise.attrs
        if attributes.get("base_measure") == "mixed":
            raise ValueError(
                "bits per dimension are of a mass, or of a density of one measure, and these items have discrete "
                "entries beside continuous ones: report nats per item"
            )
        if attributes.get("missing_entries"):
            raise ValueError(
                "bits per dimension are of items that have the same entries, and here entries are missing: report nats "
                "per item"
            )
        return -self.mean / (attributes["num_dimensions"] * math.log(2))

    def named(self, *, data: str | None = None, binarization: str | None = None) -> Estimate:
        """The same estimate with the name of the data, and of their binarisation, in the protocol."""
        names = {"data": data, "binarization": binarization}
        stated = {name: value for name, value in names.items() if value is not None}
        return Estimate(self.kind, self.pointwise.assign_attrs(stated))

    def __sub__(self, other: Estimate) -> Estimate:
        """The paired difference per item, of one pair under two estimators or of two pairs under one estimator.

        Raises ValueError, which says what differs, if the items or the base measures differ, if both the pairs and the
        estimators differ, and if one of the two is itself a difference, since the noise of the two
        may then be dependent.
        """
        if not isinstance(other, Estimate):
            return NotImplemented
        kind = self._kind_of_difference(other)
        attributes, other_attributes = self.pointwise.attrs, other.pointwise.attrs
        value = self.pointwise["value"] - other.pointwise["value"]
        # the noise of two pairs or two protocols is independent; an estimate less itself is exactly 0
        same = attributes == other_attributes and bool(((value == 0) | value.isnull()).all())
        se = np.sqrt(self.pointwise["se"] ** 2 + other.pointwise["se"] ** 2) * float(not same)
        pointwise = value.to_dataset(name="value").assign(se=se)
        if self.weight is not None:
            pointwise["weight"] = self.pointwise["weight"]
        flags = [one.pointwise["unreliable"] for one in (self, other) if "unreliable" in one.pointwise]
        if flags:
            pointwise["unreliable"] = (flags[0] | flags[-1]) & (not same)

        both = {}
        for name in {*attributes, *other_attributes} - {MARKS}:
            if attributes.get(name) != other_attributes.get(name):
                both[name] = f"{attributes.get(name)} - {other_attributes.get(name)}"
        errors = {*str(attributes.get("errors")).split(", "), *str(other_attributes.get("errors")).split(", ")}
        protocol = {"estimator": kind, "difference": 1, "errors": ", ".join(sorted(errors))}
        pointwise.attrs = {**attributes, **both, **protocol}
        for name in ("bound", "settings"):
            pointwise.attrs.pop(name, None)
        if "se_from_items" in both:  # if the error of one is too small, so would be that of the difference
            pointwise.attrs["se_from_items"] = 1
        return Estimate(kind, pointwise)

    def _kind_of_difference(self, other: Estimate) -> str:
        """The name of the difference; ValueError if the two estimates are not comparable."""
        attributes, other_attributes = self.pointwise.attrs, other.pointwise.attrs
        for each in (attributes, other_attributes):
            if missing := {"base_measure", "items_sha256", "pair_sha256"} - {*each}:
                raise ValueError(f"an estimate without a protocol ({', '.join(sorted(missing))}) has no difference")
            if "difference" in each:
                raise ValueError("a difference is subtracted from nothing, nor anything from it: take all of estimates")
        columns, other_columns = columns_in(attributes), columns_in(other_attributes)
        differing = "" if columns is None or other_columns is None else what_differs(columns, other_columns)
        if attributes["base_measure"] != other_attributes["base_measure"]:
            measures = f"a {attributes['base_measure']} and a {other_attributes['base_measure']}"
            because = f" ({differing})" if differing else ""
            raise ValueError(f"{measures} are not measured alike{because}: no difference")
        if attributes.get("masked_sites") != other_attributes.get("masked_sites"):
            raise ValueError("the two estimates leave out different masked sites")
        if attributes["items_sha256"] != other_attributes["items_sha256"]:
            why = what_differs_between(attributes, other_attributes)
            raise ValueError(
                f"the two estimates are of different items{f' ({why})' if why else ''}: give both the same x in the "
                "same order, with the same covariates and exposure where there are any"
            )
        discrete = [each.get("discrete_columns") for each in (attributes, other_attributes)]
        if attributes["base_measure"] == "mixed" and discrete[0] != discrete[1]:
            first, second = (f"({each})" if each else "(none that is known)" for each in discrete)
            because = f" ({differing})" if differing else ""
            raise ValueError(
                f"estimates of tables whose columns are of other kinds are not comparable{because}: discrete are "
                f"{first} in one and {second} in the other, and a probability is no density"
            )
        codes = other_codes_between(attributes, other_attributes)
        if codes:
            raise ValueError(
                f"the codes of the two tables stand for other categories, and no log p is comparable: {codes}"
            )
        if attributes.get("weights_sha256") != other_attributes.get("weights_sha256"):
            raise ValueError("the two estimates weigh the items differently: give both the same weight, or none")
        if attributes["pair_sha256"] == other_attributes["pair_sha256"]:
            if self.kind == other.kind:
                return f"difference between runs of {self.kind}"
            return f"gap {self.kind} - {other.kind}"
        if self.kind != other.kind and self.bound == other.bound == "exact":  # one number, however it is computed
            return "difference in log p(x)"
        if self.kind != other.kind:
            raise ValueError(
                f"{self.kind} of one pair and {other.kind} of another differ in two ways at once: compare two "
                "estimators of one pair, or two pairs under one estimator, as iwae, which is exact for a mixture"
            )
        self._require_alike(other)
        return f"difference in {'log p(x)' if self.kind == 'exact' else self.kind}"

    def _require_alike(self, other: Estimate) -> None:
        """Refuse estimates of two pairs with different settings."""
        settings, other_settings = self.settings, other.settings
        unlike = [name for name in {**settings, **other_settings} if settings.get(name) != other_settings.get(name)]
        if unlike:
            both = ", ".join(f"{name} {settings.get(name)} and {other_settings.get(name)}" for name in unlike)
            raise ValueError(f"two pairs under two estimators: {self.kind} was run with {both}; run both alike")

    def __str__(self) -> str:
        return self.line()

    def _summary_rows(self) -> Rows:
        attributes = self.pointwise.attrs
        relation = {"lower": "lower bound, in expectation", "upper": "upper bound, in expectation", "exact": "exact"}
        return {
            "estimator": lambda: self.kind,
            "mean": lambda: f"{self.mean:.3f} nats per item",
            "standard error, items fixed": lambda: f"{self.se:.3f} nats ({self._errors()})" if self._errors() else None,
            "standard error over items": lambda: f"{self.se_items:.3f} nats",
            "log p(x)": lambda: relation.get(str(self.bound)),
            "items": lambda: f"{self.pointwise.sizes['item']:,}{self._flagged()}",
            "sum of weights": lambda: None if self.weight is None else f"{float(self.weight.sum()):,g}",
            "missing entries": lambda: f"{n:,}" if (n := attributes.get("missing_entries")) else None,
            "base measure": lambda: attributes.get("base_measure"),
            "bits per dimension": lambda: f"{self.bits_per_dimension:.4f}" if self.is_code_length else None,
            "settings": lambda: ", ".join(f"{name}={value}" for name, value in self.settings.items()) or None,
            "data": lambda: attributes.get("data"),
        }

    @property
    def is_code_length(self) -> bool:
        """Whether bits per dimension are the length of a code: of the mass of whole items, and of no difference."""
        attributes = self.pointwise.attrs
        is_mass = attributes.get("base_measure") == "mass" and not attributes.get("missing_entries")
        return is_mass and "difference" not in attributes

    def _errors(self) -> str:
        """What `se` is an error of, as "Monte Carlo"; empty for an estimate without one."""
        if self.pointwise.attrs.get("se_from_items"):
            return "over items"
        errors = set(str(self.pointwise.attrs.get("errors", "Monte Carlo")).split(", ")) - {"none"}
        return ", ".join(sorted(errors))

    def _flagged(self) -> str:
        """The number of items with an unreliable error, as part of a report; empty if there are none."""
        flagged = int(self.pointwise["unreliable"].sum()) if "unreliable" in self.pointwise else 0
        return f", {flagged} unreliable" if flagged else ""

    @checks.flags
    def line(self, *, bits: bool = False) -> str:
        """A line for a report, with the kind of error; with `bits` also in bits per dimension.

        A difference of two pairs has its standard error over items too, by which one is shown to be better; and no
        difference has bits.
        """
        attributes, count = self.pointwise.attrs, self.pointwise.sizes["item"]
        errors = self._errors()
        error = f" ± {self.se:.3f} ({errors})" if errors else ""
        of_weight = "" if self.weight is None else f" of weight {float(self.weight.sum()):g}"
        items = f"({count} item{'s' if count > 1 else ''}{of_weight}{self._flagged()})"
        if "difference" in attributes:
            over = ""
            if count > 1 and errors != "over items" and self.kind.startswith("difference in"):  # of two pairs
                over = f"{',' if error else ''} ± {self.se_items:.3f} (over items)"
            return f"{self.kind}  {self.mean:.3f}{error}{over} nats  {items}"

        measure = attributes.get("base_measure")
        is_mass = measure == "mass"
        quantity = {"mass": "log mass", "mixed": "log mixed density"}.get(str(measure), "log density")
        if attributes.get("missing_entries"):
            quantity += " of what was seen"
        if masked := attributes.get("masked_sites"):
            quantity += f" of what the mask leaves of {masked}"
        extra = ""
        if bits:
            extra = f", {self.bits_per_dimension:.4f} bits per dimension{'' if is_mass else ' of a density'}"
        return f"{self.kind}  {self.mean:.3f}{error} nats{extra}, {quantity}  {items}"


def pair_hash(pair: Pair) -> str:
    """SHA-256 of all that determines a pair's density: its structure, parameters, buffers and other attributes.

    The attributes of a part that count are plain values, tensors, dictionaries, distributions,
    transforms, functions with the variables that they close over, and hooks. Those of the pair
    itself count if its class is a user's. `pyrovae.models.fingerprint.attributes` lists what is not
    seen, such as the code of a class. Attributes that each call of model or guide changes, such as a
    count of calls or the last code, do not count after an estimator has tried the pair on a few
    items; one that the first call fills in and later calls leave alone does count. A density that
    depends on what each call changes is another at each call, which the hash cannot show.

    >>> import pyrovae
    >>> from pyrovae.evaluation.estimate import pair_hash
    >>> vae = pyrovae.mlp_vae((3,), hidden_dims=(4,), likelihood=pyrovae.Normal(scale=0.5))
    >>> before = pair_hash(vae)
    >>> vae.prior.loc.fill_(1.0)
    tensor([1., 1.])
    >>> pair_hash(vae) == before
    False
    """
    module = as_module(pair)
    digest = hashlib.sha256(tree(module).encode())
    digest.update(settings(module, written=False).encode())
    if others := other_attributes(module):
        digest.update(repr(sorted(others.items())).encode())
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
