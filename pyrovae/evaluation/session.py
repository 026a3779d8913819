"""One evaluation of a pair by an estimator: the work that all estimators share apart from their formulas."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyrovae import checks, ranks
from pyrovae.data.indexed import as_rows
from pyrovae.evaluation.estimate import Bound, Estimate, pair_hash
from pyrovae.evaluation.item_marks import MARKS, marks_of
from pyrovae.evaluation.tables import MAX_BYTES, tables
from pyrovae.labelled import labelled
from pyrovae.models.batch import Batch, has_missing, items_of, keywords_of, weight_of
from pyrovae.models.items import checked_batch
from pyrovae.models.layers import least_bytes, rows_within
from pyrovae.models.missing import require_missing_taken, warn_of_rows_without_entries, whole
from pyrovae.models.pair import (
    Pair,
    as_module,
    base_measure_of,
    columns_of,
    dtype_and_device,
    has_global_latents,
    is_made_of_parts,
    support_of,
)
from pyrovae.models.particles import Particles, require_continuous
from pyrovae.models.precision import doubled, widened
from pyrovae.models.scopes import Workspace
from pyrovae.models.trial import called, observed_measure, require_supported, tried
from pyrovae.seeding import Noise, stream

__all__ = ["TAKES", "Session", "split_of"]

TAKES = ("weight", "missing")  # what most estimators can use beside the items

SCALES = {
    "mass": "counting measure",
    "density": "Lebesgue measure in the units of x as given",
    "mixed": "counting measure of discrete entries, Lebesgue measure of the others in the units of x as given",
}
BOUNDS = ("lower", "upper", "exact")
TOGETHER = 2**18  # draws of the items whose tables are reduced in one go


def split_of(x: Any, what: str, covariates: Any, exposure: Any, weight: Any, missing: Any) -> checks.Gathered:
    """The items of an estimator with all that lies beside them, of a split or of its keywords."""
    given = {"covariates": covariates, "exposure": exposure, "weight": weight, "missing": missing}
    return checks.split_of(x, **given, takes=TAKES, what=what)


class Session:
    """One evaluation of a pair by one estimator, which supplies its formula and nothing else.

    An estimator uses a session in this order:

    1. `Session(name, pair)` starts it, and refuses a pair without p(x) or with non-finite weights.
    2. The estimator checks its own arguments.
    3. Either `from_particles(x, reduce, ...)` checks the items and applies the function `reduce` to
       the draws of q(z | x). Or `items(x)` checks the items and the estimator draws for itself: it
       computes with `pair`, which has at least single precision, inside of `workspace`, which puts
       the pair in evaluation mode, supplies random numbers, and restores the caller's modes,
       generators and parameter store afterwards.
    4. `estimate` makes an `Estimate` of the values. Its attributes include all entries of
       `protocol`, to which the estimator may add its own.

    As an example, an upper bound, 1/2 log E_q[w^2] with the weight w = p(x, z) / q(z | x) (the
    chi-square bound of Dieng et al. 2017, section 2). Its value from a finite number of draws is
    biased downwards, since the logarithm of a mean is:

    >>> import torch
    >>> import pyrovae
    >>> from pyrovae.evaluation import Session, log_mean
    >>> def cubo(pair, x, *, num_particles=1000, seed=0):
    ...     session = Session("cubo", pair)
    ...
    ...     def bound(table):
    ...         moment = log_mean(2 * table.log_weight)  # over the draws of each item
    ...         return {"value": moment["value"] / 2, "se": moment["se"] / 2}
    ...
    ...     columns = session.from_particles(x, bound, num_particles=num_particles, seed=seed)
    ...     return session.estimate(columns, kind=f"cubo({num_particles})", bound="upper")
    >>> torch.manual_seed(0)
    <torch...>
    >>> vae = pyrovae.linear_vae(5, 2)
    >>> x = vae.sample(20, seed=0)
    >>> upper = cubo(vae, x)
    >>> upper.bound, (upper - pyrovae.exact(vae, x)).mean > 0
    ('upper', True)

    Raises TypeError for an object that is not a pair; ValueError for a pair without p(x)
    (`is_normalized` is False, or its latent variables are parameters and not codes) and for weights
    that are not finite.
    """

    def __init__(self, name: str, pair: Pair) -> None:
        _require_density(pair, name)
        self.name = name
        self.protocol: dict[str, Any] = {}
        self.weight: np.ndarray | None = None  # of each item, how many times it counts
        self.unscored: np.ndarray | None = None  # items of weight 0 that have no density, in whose place others are
        self.base_measure = ""
        self._given = pair
        called(pair)  # before any other call, so that what a call writes to the pair is excluded from its hash

    @cached_property
    def pair_sha256(self) -> str:
        """The SHA-256 of the pair's density, as `pyrovae.evaluation.estimate.pair_hash` computes it."""
        return pair_hash(self._given)

    @cached_property
    def pair(self) -> Pair:
        """The pair to compute with: the caller's, or a copy in float32 if that is in half precision."""
        return widened(self._given)

    def in_float64(self) -> Any:
        """A copy of the pair in float64, including the tensors that its parts hold or create."""
        return doubled(self._given)

    @property
    def device(self) -> torch.device:
        """The device of the pair's parameters."""
        return dtype_and_device(self._given)[1]

    def require_continuous(self, pair: Pair | None = None) -> None:
        """Refuse a pair that does not have one continuous code per item at the site "latent".

        `pair` is checked in place of the session's pair if it is given, as for a copy.
        """
        require_continuous(self._given if pair is None else pair, self.name)

    def items(self, x: Any, *, takes: Collection[str] = (), guide: bool = True) -> Any:
        """Check the items, and return them as a tensor (N, *event_shape) of the pair's dtype and device.

        `x` is an array or a split of a data set. Of one with covariates or an exposure the result is a `Batch` of
        items with these beside them, which the functions of `pyrovae.models.particles` take as they take a tensor, and
        whose `x` is the tensor. An estimator that reads the weights of items, or NaN as an entry that was not seen,
        says so by `takes`, "weight" and "missing" among them; others refuse these. `guide` says whether it draws from
        the guide, which then must take missing entries too. The protocol receives the SHA-256 of the items and
        of the pair, whether all entries are 0 or 1, the number of items and of their entries, the number of missing
        entries, the sum of the weights, and
        the sites that the pair masks. Raises ValueError for items that have no density under the
        pair, and for a pair that on a few draws does not give one density per item.
        """
        pair = self.pair
        dtype, device = dtype_and_device(pair)
        least = getattr(pair, "least_scale", None)
        given = checks.split_of(x, takes=takes, what=self.name)
        given = replace(given, x=as_rows(given.x))
        hint = checks.WHOLE if "missing" in takes else checks.FILL

        def checked(given: checks.Gathered) -> Any:
            batch = checked_batch(
                pair, given, takes=takes, what=self.name, dtype=torch.float64, least_scale=least, hint=hint
            )
            if has_missing(batch):
                require_missing_taken(self._given, guide=guide)
            return batch

        try:
            batch = checked(given)
        except ValueError:
            # an item of weight 0 is absent, whatever its values are; where they have no density, they are nobody's
            present = checks.without_absent(given) if "weight" in takes else given
            if present is given:
                raise
            batch = checked(present)
            self.unscored = checks.weights(given.weight, len(batch)).numpy() == 0
        missing = has_missing(batch)
        if missing:
            warn_of_rows_without_entries(items_of(batch), weight=weight_of(batch))
        in_full = items_of(batch).detach().cpu().contiguous()
        if missing:  # one NaN for all
            in_full = torch.where(in_full.isnan(), torch.nan, in_full)
        digest = hashlib.sha256(repr(tuple(in_full.shape)).encode())
        digest.update(in_full.numpy().tobytes())
        beside = {name: value.detach().cpu().contiguous() for name, value in keywords_of(batch).items()}
        for name, value in beside.items():  # nothing is added for items with nothing beside them
            digest.update(name.encode() + value.numpy().tobytes())
        self.protocol |= {
            "items_sha256": digest.hexdigest(),
            "items_binary": int(((in_full == 0) | (in_full == 1)).all()),  # netCDF has no booleans
            "num_items": len(in_full),
            "num_dimensions": in_full[0].numel(),
            MARKS: marks_of(in_full, beside, columns_of(self._given) or given.columns),
        }
        items: Tensor | Batch = Batch.of(in_full, **beside, missing=missing).to(device, dtype)
        if beside:
            self.protocol["given"] = ", ".join(beside)
        if missing:
            self.protocol["missing_entries"] = int(in_full.isnan().sum())
        if (columns := columns_of(self._given)) is not None:  # of which the measure is not one for all entries
            self.protocol["discrete_columns"] = ", ".join(c.name for c in columns if c.is_discrete)
        weight = weight_of(batch)
        if weight is not None:
            self.weight = weight.cpu().double().numpy()
            self.protocol["weights_sha256"] = hashlib.sha256(self.weight.tobytes()).hexdigest()
            self.protocol["sum_of_weights"] = float(self.weight.sum())
        self.try_on(items if guide else whole(pair, items))
        self.protocol["pair_sha256"] = self.pair_sha256
        return items

    def try_on(self, items: Tensor | Batch) -> None:
        """Score a few draws for a few items, and record in the protocol the observed sites that the pair masks.

        Raises ValueError if the pair does not give one density per item, and for items outside the support of the
        observed sites of a pair written by hand.
        """
        if masked := tried(self._given, items):
            self.protocol["masked_sites"] = ", ".join(masked)
        by_parts = is_made_of_parts(self.pair, "model")
        if not by_parts or support_of(self.pair) is None:  # the items have not been checked against a support yet
            require_supported(self.pair, items, rows_within(self.pair, items, MAX_BYTES))
        stated = base_measure_of(self.pair) if by_parts else None
        self.base_measure = stated or observed_measure(self.pair, items)

    def require_whole(self, estimator: str | None = None) -> None:
        """Refuse a pair with masked sites, for an estimator that uses prior and likelihood, which ignore masks."""
        if masked := self.protocol.get("masked_sites"):
            raise ValueError(
                f"{estimator or self.name} needs whole items, and the pair masks {masked}: take iwae or ais"
            )

    def require_evidence(self, evidence: Any) -> Estimate:
        """Return `evidence` if it is an estimate of log p(x) for this pair and its items; refuse anything else."""
        if not isinstance(evidence, Estimate):
            raise TypeError(f"evidence must be an Estimate of log p(x), got {type(evidence).__name__}")
        attributes = evidence.pointwise.attrs
        if "difference" in attributes:
            raise ValueError(f"evidence must be an estimate of log p(x), and {evidence.kind} is a difference of two")
        for name in ("items_sha256", "pair_sha256"):
            if attributes.get(name) != self.protocol[name]:
                raise ValueError(f"evidence must be an estimate of the same pair and items: {name} differs")
        return evidence

    def noise(self, seed: int, *keys: int | str) -> Noise:
        """The random numbers of this estimator for this pair, from `seed`; other `keys` give other numbers.

        No two estimators and no two pairs share random numbers: an estimate would be wrong if its
        draws were those that generated the items.
        """
        return Noise(stream(checks.seed(seed), self.name, *keys, self.pair_sha256), self.device)

    def workspace(self, noise: Noise, *, pair: Any = None, checks: bool | None = False) -> Workspace:
        """A workspace with the pair (or a copy, `pair`) in evaluation mode on `noise`.

        Evaluate each batch inside `with workspace.turn():`. `checks` switches the argument checks of
        Pyro and of torch's distributions on or off; None leaves them as they are.
        """
        return Workspace(as_module(self.pair if pair is None else pair), noise=noise, checks=checks)

    def from_particles(
        self,
        x: Any,
        reduce: Callable[[Particles], Mapping[str, Any]],
        *,
        num_particles: int,
        seed: int = 0,
        max_bytes: int = MAX_BYTES,
    ) -> dict[str, np.ndarray]:
        """Draw codes from q(z | x) and reduce the log-densities of each item's draws to columns of N numbers.

        `reduce` takes a table with `num_particles` draws for some of the items: its log_likelihood,
        log_prior, log_guide and log_weight are float64 tensors of shape (K, n), in nats. It returns
        a dictionary of arrays of shape (n,). The method returns the same names with arrays of shape
        (N,). `max_bytes` limits the memory of the decodings of a chunk; the draws do not depend on
        it. Inside `pyrovae.distributed()` each process evaluates its share of the items. The
        method's arguments are checked first, then the items as by `items`.
        """
        # an item's table is reduced at once: three columns of draws, their inputs, and the results
        count = checks.whole("num_particles", num_particles, bytes_each=64, device=self.device)
        checks.seed(seed)
        checks.whole("max_bytes", max_bytes)
        items, pair = self.items(x, takes=TAKES), self.pair
        rows = rows_within(pair, items, max_bytes)
        together = least_bytes(min(rows, len(items) * count), rows, max_bytes)
        checks.affordable(f"max_bytes={max_bytes:,}", together, "take a smaller number", device=items.device)

        shared = ranks.current()
        if any(other != self.protocol for other in shared.gathered(self.protocol)):
            raise ValueError("each process must have the same pair and items, and these differ")
        # a separate key for each use, so that two estimates from one seed share no noise
        process = () if shared.size == 1 else (shared.size, shared.rank)
        key = stream(seed, self.name, count, self.pair_sha256, *process)
        space = self.workspace(Noise(key, items.device))
        parts = []
        for table in _grouped(space.each(tables(pair, items[shared.share(len(items))], count, max_bytes))):
            parts.append(_checked_columns(self.name, reduce(table), table.log_weight.shape[1]))
        parts = [part for of_rank in shared.gathered(parts) for part in of_rank]
        self.protocol |= {"num_particles": count, "seed": seed}
        if shared.size > 1:
            self.protocol["processes"] = shared.size
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def estimate(
        self,
        columns: Mapping[str, Any],
        *,
        kind: str | None = None,
        bound: Bound | None,
        errors: str = "Monte Carlo",
        settings: Sequence[str] = (),
        words: Mapping[str, tuple[str, str]] | None = None,
    ) -> Estimate:
        """The `Estimate` of `columns`, which are "value" and its standard error "se", in nats, and any others.

        Args:
            columns: arrays of shape (N,), or tuples of the dimensions, "item" first, and an array of that shape.
            kind: the name in a report; None takes the estimator's name.
            bound: the relation of the values to log p(x): "lower", "upper", "exact", or None if it is not known.
            errors: the source of the errors "se"; "none" if they are 0.
            settings: the entries of `protocol` that must agree for the values of two pairs to be comparable.
            words: a description and a unit per column; a column "value_se" is described as the error of "value".

        Raises ValueError for columns without "value" or "se", or of another shape, an unknown
        bound, and settings that are not in the protocol.
        """
        if bound is not None:
            checks.choice("bound", bound, BOUNDS)
        if unknown := [name for name in settings if name not in self.protocol]:
            raise ValueError(f"settings must name entries of the protocol, and {', '.join(unknown)} is none of them")
        variables = self._variables(columns, words or {})
        if self.weight is not None:
            variables["weight"] = (self.weight, "how many times the item counts", "1", "item")
        measure = self.base_measure
        scale = SCALES[checks.choice("base_measure", measure, SCALES)]
        attributes = {
            "estimator": kind or self.name,
            "bound": bound or "",
            "errors": errors,
            "base_measure": measure,
            "base_measure_scale": scale,
            "settings": ", ".join(settings),
            **self.protocol,
        }
        number = np.arange(self.protocol["num_items"])
        return Estimate(kind or self.name, labelled(variables, {"item": number}, attributes))

    def scored(self, column: np.ndarray) -> np.ndarray:
        """A column (N, ...) with NaN, or False, where an absent item has no value of its own; else as it is."""
        if self.unscored is None or column.dtype.kind not in "fb":
            return column
        absent = self.unscored.reshape(-1, *[1] * (column.ndim - 1))
        return np.where(absent, False if column.dtype.kind == "b" else np.nan, column).astype(column.dtype)

    def _variables(self, columns: Mapping[str, Any], words: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
        """Each column as an array with its description, unit and dimensions."""
        if absent := [name for name in ("value", "se") if name not in columns]:
            raise ValueError(f"{self.name} must give columns 'value' and 'se' for each item, and has no {absent[0]!r}")
        if "num_items" not in self.protocol:
            raise RuntimeError("a session makes an estimate of items that it has looked at: call items(x) first")
        count, variables = self.protocol["num_items"], {}
        for name, column in columns.items():
            dims, array = column if isinstance(column, tuple) else (("item",), column)
            array = np.asarray(_array(array))
            if array.shape[:1] != (count,) or array.ndim != len(dims):
                shape = ", ".join(["N", *dims[1:]])
                raise ValueError(f"column {name!r} must have shape ({shape}) for N = {count} items, got {array.shape}")
            variables[name] = (self.scored(array), *_described(name, words), *dims)
        if bool((variables["se"][0] < 0).any()):
            raise ValueError(f"column 'se' of {self.name} has negative standard errors")
        return variables


def _described(name: str, words: Mapping[str, tuple[str, str]]) -> tuple[str | None, str | None]:
    """The description of a column and its unit; None for a column without a description."""
    if name in words:
        return words[name]
    of = "value" if name == "se" else name.removesuffix("_se")
    if of == name:
        return (None, "nats") if name == "value" else (None, None)
    long_name, unit = words.get(of, (of, "nats"))
    return f"standard error of the {long_name}", unit


def _grouped(chunks: Iterable[list[Particles]]) -> Iterator[Particles]:
    """Tables in float64 of items beside one another, from the chunks of draws of some items each.

    Together they have `TOGETHER` draws or a little more: what reduces a table takes as long for one item as for some.
    """
    group: list[Particles] = []
    for parts in chunks:
        group.append(Particles.joined([part.double() for part in parts], dim=-2))
        if sum(table.log_likelihood.numel() for table in group) >= TOGETHER:
            yield Particles.joined(group, dim=-1)
            group = []
    if group:
        yield Particles.joined(group, dim=-1)


def _checked_columns(estimator: str, columns: Any, count: int) -> dict[str, np.ndarray]:
    """The columns that an estimator's function returned for `count` items, checked, as arrays of shape (count,)."""
    if not isinstance(columns, Mapping):
        raise TypeError(
            f"{estimator} must reduce the draws to a dictionary of columns, {{'value': ..., 'se': ...}}, got "
            f"{type(columns).__name__}"
        )
    arrays = {name: np.asarray(_array(column)) for name, column in columns.items()}
    for name, array in arrays.items():
        if array.shape != (count,):
            raise ValueError(
                f"{estimator} must reduce the draws to one number for each item, dimension 0 being that of the draws: "
                f"column {name!r} has shape {array.shape} for {count} items"
            )
    return arrays


def _array(value: Any) -> Any:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else value


def _require_density(pair: Pair, estimator: str) -> None:
    """Refuse an object that is not a pair, a pair without p(x), and weights that are not finite."""
    module = as_module(pair)
    if not pair.is_normalized and has_global_latents(pair):
        raise ValueError(f"{estimator} needs a p(x), and a {type(pair).__name__} has none: it is p(y | x) alone")
    if has_global_latents(pair):
        advice = (
            "pair.draw(seed) is a pair that each estimator takes"
            if hasattr(pair, "draw")
            else "log_prob(x) is its log predictive density, to_arviz(pair, x) its log-likelihood at each"
        )
        raise ValueError(
            f"{estimator} integrates out one code per item, and a {type(pair).__name__} has draws of its parameters: "
            f"{advice}"
        )
    if not pair.is_normalized:
        raise ValueError(
            f"{estimator} needs a p(x), and {type(pair).__name__} has none: it puts no density on its codes. Fit one "
            "on them and state a likelihood, as pyrovae.as_density does, or compare reconstructions instead"
        )
    _require_finite(module, estimator)


def _require_finite(module: nn.Module, estimator: str) -> None:
    """Refuse parameters that are NaN or infinite, and buffers that are NaN; a buffer may be a mask of -inf."""
    tensors: list[tuple[str, str, Tensor]] = [("parameter", *one) for one in module.named_parameters()]
    for kind, name, value in [*tensors, *(("buffer", *one) for one in module.named_buffers())]:
        bad = ~value.isfinite() if kind == "parameter" else value.isnan()
        if bool(bad.any()):
            first = torch.nonzero(bad)[0].tolist()
            raise ValueError(
                f"{estimator} needs finite weights: {kind} {name!r} has {int(bad.sum())} of {bad.numel()} values that "
                f"are NaN{' or infinite' if kind == 'parameter' else ''}, the first at {first}; the pair diverged: "
                "load an earlier state of it, or fit it again with a lower learning_rate"
            )
