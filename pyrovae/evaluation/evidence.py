"""Lower bounds on log p(x) from a model/guide pair, each with its standard errors."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyrovae import checks
from pyrovae.models.pair import (
    Pair,
    Particles,
    as_module,
    checked_items,
    dtype_and_device,
    evaluating,
    isolated_store,
    particles,
    settings,
    validation,
)
from pyrovae.seeding import forked, stream

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Estimate", "elbo"]

CHUNK_BYTES = 256 * 2**20  # what one chunk's decoded items may take


@dataclass(frozen=True, eq=False)  # two Datasets have no truth value of their equality
class Estimate:
    """An estimate of log p(x), or of a bound on it, for each of N items, in nats.

    `pointwise`: an xarray.Dataset over "item" with "value", "se" (its Monte Carlo standard error) and the estimator's
    own variables; its attributes say the protocol: estimator, particles, seed, base measure (mass or density), and the
    SHA-256 of items and pair. `str()` is a line for a report.

    >>> import xarray as xr
    >>> print(Estimate("elbo", xr.Dataset({"value": ("item", [-3.0, -5.0]), "se": ("item", [0.1, 0.1])})))
    elbo  -4.000 ± 0.071 (Monte Carlo) nats, log density  (2 items)
    """

    kind: str
    pointwise: xr.Dataset

    @property
    def mean(self) -> float:
        """The mean over items, nats per item."""
        return float(self.pointwise["value"].mean(skipna=False))

    @property
    def se(self) -> float:
        """Monte Carlo standard error of the mean with the items held fixed: sqrt(sum se_i^2) / N."""
        return float(np.sqrt((self.pointwise["se"] ** 2).sum(skipna=False))) / self.pointwise.sizes["item"]

    @property
    def se_items(self) -> float:
        """Standard error of the mean over another draw of items: sd(value) / sqrt(N); NaN for one item."""
        count = self.pointwise.sizes["item"]
        return float(self.pointwise["value"].std(ddof=1, skipna=False)) / math.sqrt(count) if count > 1 else math.nan

    def __sub__(self, other: Estimate) -> Estimate:
        """The paired difference, item by item: of one pair under two estimators, or of two pairs under one.

        Raises ValueError where the items or the base measure differ, where both pair and estimator do, and for a
        difference less another estimate, whose noise they may share.
        """
        if not isinstance(other, Estimate):
            return NotImplemented
        a, b = self.pointwise.attrs, other.pointwise.attrs
        for attributes in (a, b):
            if missing := {"base_measure", "items_sha256", "pair_sha256"} - {*attributes}:
                raise ValueError(f"an estimate without a protocol ({', '.join(sorted(missing))}) has no difference")
            if "difference" in attributes:
                raise ValueError("a difference is subtracted from nothing, nor anything from it: take all of estimates")
        if a["base_measure"] != b["base_measure"]:
            raise ValueError(f"a {a['base_measure']} and a {b['base_measure']} are not measured alike: no difference")
        if a["items_sha256"] != b["items_sha256"]:
            raise ValueError("the two estimates are of different items: give both the same x, in the same order")
        if a["pair_sha256"] == b["pair_sha256"]:
            kind = f"gap {self.kind} - {other.kind}"
        elif self.kind == other.kind:
            kind = f"difference in {self.kind}"
        else:
            raise ValueError(
                f"{self.kind} of one pair and {other.kind} of another differ in two ways at once: compare two "
                "estimators of one pair, or two pairs under one estimator"
            )
        value = self.pointwise["value"] - other.pointwise["value"]
        # the noise of two pairs or two protocols is independent; one estimate less itself has none
        same = a == b and bool((value == 0).all())
        se = np.sqrt(self.pointwise["se"] ** 2 + other.pointwise["se"] ** 2) * float(not same)
        pointwise = value.to_dataset(name="value").assign(se=se)
        both = {k: f"{a.get(k)} - {b.get(k)}" for k in {*a, *b} if a.get(k) != b.get(k)}
        pointwise.attrs = {**a, **both, "estimator": kind, "difference": 1}
        return Estimate(kind, pointwise)

    def __str__(self) -> str:
        count = self.pointwise.sizes["item"]
        measure = "log mass" if self.pointwise.attrs.get("base_measure") == "mass" else "log density"
        return (
            f"{self.kind}  {self.mean:.3f} ± {self.se:.3f} (Monte Carlo) nats, {measure}  "
            f"({count} item{'s' if count > 1 else ''})"
        )


def elbo(pair: Pair, x: Any, *, num_particles: int = 16, seed: int = 0) -> Estimate:
    """The evidence lower bound, per item: E_q[log p(x | z)] - E_q[log q(z | x) - log p(z)] = -(distortion + rate).

    Mean over `num_particles` draws of q(z | x); a lower bound on log p(x) in expectation (Kingma and Welling 2014,
    eq. 3; rate and distortion as in Alemi et al. 2018, section 2).

    Returns an `Estimate` whose `pointwise` also has "rate" and "distortion" with their standard errors "rate_se" and
    "distortion_se"; all are sd / sqrt(K), NaN for one particle. `x`: shape (N, *event_shape), cast to the pair's dtype.
    Raises ValueError where the pair has no p(x) (`is_normalized` is False) and for values outside the likelihood's
    support.

    >>> import pyrovae
    >>> x = pyrovae.data.binarize(pyrovae.data.load("digits").test.x)
    >>> estimate = elbo(pyrovae.mlp_vae((1, 8, 8)), x, num_particles=4)
    >>> estimate.pointwise.sizes["item"], estimate.mean < 0
    (360, True)
    """
    as_module(pair)
    count = checks.whole("num_particles", num_particles)
    checks.whole("seed", seed, least=0)
    _require_density(pair, "elbo")
    x, digest = _checked(pair, x)
    key = stream(seed, "elbo", count, pair_hash := _pair_hash(pair))
    rows: dict[str, list[np.ndarray]] = {
        "value": [],
        "se": [],
        "rate": [],
        "rate_se": [],
        "distortion": [],
        "distortion_se": [],
    }
    for table in _tables(pair, x, count, key):
        rate = (table.log_guide - table.log_prior).double()
        distortion = -table.log_likelihood.double()
        for name, value in (("rate", rate), ("distortion", distortion), ("", -(distortion + rate))):
            rows[f"{name}_se" if name else "se"].append(_se(value))
            if name:
                rows[name].append(value.mean(0).cpu().numpy())
        rows["value"].append(-(rows["distortion"][-1] + rows["rate"][-1]))
    names = {
        "value": "evidence lower bound",
        "rate": "E_q[log q(z | x) - log p(z)]",
        "distortion": "-E_q[log p(x | z)]",
    }
    columns = {name: np.concatenate(parts) for name, parts in rows.items()}
    protocol = {"num_particles": count, "seed": seed, "items_sha256": digest, "pair_sha256": pair_hash}
    return _estimate("elbo", pair, columns, names, protocol)


def _require_density(pair: Pair, estimator: str) -> None:
    if not pair.is_normalized:
        raise ValueError(
            f"{estimator} needs a p(x), and {type(pair).__name__} has none: it puts no density on its codes. Compare "
            "reconstructions instead, or state a likelihood and a density on the codes"
        )


def _checked(pair: Pair, x: Any) -> tuple[Tensor, str]:
    """The items in the pair's dtype and on its device, and the SHA-256 of their values, whatever type they came in."""
    dtype, device = dtype_and_device(pair)
    whole = checked_items(pair, x, dtype=torch.float64).detach().cpu().contiguous()
    digest = hashlib.sha256(repr(tuple(whole.shape)).encode())
    digest.update(whole.numpy().tobytes())
    return whole.to(device, dtype), digest.hexdigest()


def _tables(pair: Pair, x: Tensor, num_particles: int, key: int) -> list[Particles]:
    """The particle table in chunks of items, all K particles of an item in one; no trace is left in global state."""
    per_item = num_particles * math.prod(pair.event_shape) * x.element_size() * 4
    with evaluating(as_module(pair)), isolated_store(), validation(False), forked(key, x.device):
        return [particles(pair, part, num_particles) for part in x.split(max(1, CHUNK_BYTES // per_item))]


def _se(values: Tensor) -> np.ndarray:
    """Standard error of the mean over particles, dim 0; NaN for one of them."""
    if len(values) == 1:
        return np.full(values.shape[1], np.nan)
    return (values.std(0) / math.sqrt(len(values))).cpu().numpy()


def _estimate(
    kind: str, pair: Pair, columns: dict[str, np.ndarray], names: dict[str, str], protocol: dict[str, Any]
) -> Estimate:
    import xarray as xr

    def described(name: str) -> str:
        base = name.removesuffix("_se") if name != "se" else "value"
        return names[base] if base == name else f"Monte Carlo standard error of the {base}"

    variables = {k: ("item", v, {"long_name": described(k), "units": "nats"}) for k, v in columns.items()}
    measure = getattr(getattr(pair, "likelihood", None), "base_measure", "density")
    attributes = {"estimator": kind, "base_measure": measure, **protocol}
    count = len(columns["value"])
    return Estimate(kind, xr.Dataset(variables, coords={"item": np.arange(count)}, attrs=attributes))


def _pair_hash(pair: Pair) -> str:
    """SHA-256 of what makes the density: the module's structure, parameters, buffers and its parts' settings.

    A part that counts its calls in a plain attribute is another density at each: keep such counts elsewhere.
    """
    module = as_module(pair)
    digest = hashlib.sha256(repr(module).encode())
    digest.update(settings(module).encode())
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
