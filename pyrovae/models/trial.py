"""Checks of a pair by a few draws: sites that are masked, and draws or items that are mixed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.torch_distribution import ExpandedDistribution, MaskedDistribution
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor, nn
from torch.distributions import Independent, constraints

from pyrovae.models.batch import Batch, called_on
from pyrovae.models.fingerprint import has_users_parts, writes_noted
from pyrovae.models.laws import stated_support
from pyrovae.models.missing import OrMissing
from pyrovae.models.pair import Pair, as_module, dtype_and_device, stand_ins
from pyrovae.models.particles import Particles, is_point, tabulated, traces
from pyrovae.models.precision import doubled, widened
from pyrovae.models.scopes import Workspace
from pyrovae.seeding import Noise

__all__ = ["called", "observed_measure", "require_supported", "tried", "unchanged"]

# how far log-densities may lie apart, in nats and relative to them: in float64, in single precision before float64
# is asked, and where it cannot be
TIGHT, ROUNDED, LOOSE = 1e-7, 1e-4, 1e-2
DRAWS, ITEMS = 2, 3  # unlike, so that a network that takes one axis for another gives another number, or none


def tried(pair: Pair, x: Tensor | Batch, *, draws: int = DRAWS, items_apart: bool = True) -> tuple[str, ...]:
    """The names of the observed sites of which a mask leaves a part out, found by scoring `draws` draws of 3 items.

    An entry of the table must be what that draw of that item is alone: a network that normalises over draws or items,
    or takes the draws' axis for its channels, gives other numbers, and no error where the sizes happen to fit. Without
    `items_apart` items may depend on each other. A pair whose networks draw noise of their own is not compared. The
    pair, Pyro's store and the caller's generators stay as they are. Raises ValueError that says what is wrong.
    """
    given, pair = as_module(pair), widened(pair)
    module, dtype = as_module(pair), dtype_and_device(pair)[0]
    rows = torch.arange(ITEMS + 1, device=x.device) % len(x)
    more = x[rows].to(dtype)
    some = more[:ITEMS]
    columns = [slice(i, i + 1) for i in range(ITEMS)] if items_apart else [slice(None)]
    together = f"at {draws} draw{'s' if draws > 1 else ''} each of {ITEMS} items together"
    with (
        Workspace(module, noise=Noise(0, x.device)).turn(),
        unchanged(module),
        writes_noted(module, given) as called_once,
    ):
        try:
            guide, model = traces(pair, some, draws)
            called_once()
            with suppress(Exception):  # what is wrong with it is said where the table is made
                guide.compute_log_prob()  # at the next draws a flow without an inverse forgets these
            traces(pair, more, draws)  # a layer of as many channels as the others were items
        except (RuntimeError, ValueError, IndexError) as error:
            traces(pair, some, None)  # what fails without a plate of draws too says itself what is wrong
            raise ValueError(_advice(pair, f"cannot be scored {together}", error)) from error
        table = tabulated(model, guide, some, draws)
        _require_same_codes(pair, model, guide)
        _require_stated_size(pair, model)
        masked = _masked(pair, model, guide)
        if masked:
            columns = columns[-1:]  # a mask may be one of places in the batch
        close = TIGHT if dtype == torch.float64 else ROUNDED
        try:
            same = _is_of_each_alone(pair, some, guide, table, columns, close)
        except (KeyError, NotImplementedError):
            return masked  # a flow without an inverse has a density at its own draws alone: nothing to compare
        except (RuntimeError, ValueError, IndexError) as error:
            raise ValueError(_advice(pair, "cannot be scored at one draw alone", error)) from error
        # networks that draw noise of their own give another draw of it at each call, and cannot be compared
        repeats = same or _alike(table, _at(pair, some, guide, draws), LOOSE)
        if not same and repeats and dtype != torch.float64:
            same = _is_rounding(pair, some, guide, table, columns)
    if not same and repeats:
        raise ValueError(_advice(pair, f"gives other log-densities {together} than at one of them alone"))
    return masked


def _is_of_each_alone(
    pair: Pair, x: Tensor | Batch, drawn: poutine.Trace, table: Particles, columns: list[slice], close: float
) -> bool:
    """Whether each item's last draw has the log-densities in the table that it has when it is scored alone."""
    for column in columns:
        alone = _at(pair, x[column], drawn, None, column)
        if not _alike(Particles(*(part[-1:, column] for part in vars(table).values())), alone, close):
            return False
    return True


def _is_rounding(pair: Pair, x: Tensor | Batch, drawn: poutine.Trace, table: Particles, columns: list[slice]) -> bool:
    """Whether what differs in single precision agrees in float64; by a loose comparison of a pair that has no such."""
    try:
        double, items = doubled(pair), x.double()
        with unchanged(double):
            double.eval()
            in_full = _at(double, items, drawn, len(table.log_guide))
            return _is_of_each_alone(double, items, drawn, in_full, columns, TIGHT)
    except Exception:  # parts that hold single precision where no copy reaches it
        return _is_of_each_alone(pair, x, drawn, table, columns, LOOSE)


def require_supported(pair: Pair, x: Tensor | Batch, rows: int) -> None:
    """Refuse observed values outside of their distribution's support to which it gives a log-density all the same.

    Estimators run without the checks of torch's distributions, and a Bernoulli has a plausible number for 0.5. Of each
    item one draw is looked at, `rows` items together. A log-density of -inf is what such a value has, and is let
    through; so are entries that a mask leaves out. Raises ValueError that names the site and the value.
    """
    module = as_module(pair)
    for part in x.split(rows):
        with Workspace(module, noise=Noise(0, x.device)).turn(), unchanged(module):
            try:
                _, model = traces(pair, part, None)
            except (RuntimeError, ValueError, IndexError):
                return  # where the table is made it says so itself
            for name, site in _samples(model).items():
                if site["is_observed"]:
                    _require_inside(name, site)


def _require_inside(name: str, site: Any) -> None:
    """Refuse a site's value where its distribution has no density and states one."""
    leaf, masks = site["fn"], [(site["mask"], site["fn"].event_dim)]
    while isinstance(leaf, Independent | MaskedDistribution | ExpandedDistribution):
        if isinstance(leaf, MaskedDistribution):
            masks.append((leaf._mask, leaf.event_dim))
        leaf = leaf.base_dist
    value, support = site["value"], stated_support(leaf)
    if isinstance(leaf, torch.distributions.Multinomial):
        support = constraints.independent(constraints.nonnegative_integer, 1)  # log_prob goes by the item's own total
    try:
        wrong = torch.zeros((), dtype=torch.bool) if support is None else ~support.check(value)
    except NotImplementedError:
        return  # a support that depends on what it does not tell
    if not wrong.any():
        return
    with suppress(RuntimeError, ValueError, IndexError):  # a Categorical looks its value up, and finds none
        wrong = wrong & (leaf.log_prob(value) != -math.inf)
    for mask, event_dim in masks:
        if isinstance(mask, Tensor):
            wrong = wrong & mask.reshape(*mask.shape, *[1] * (event_dim - leaf.event_dim))
        elif mask is False:
            return
    if wrong.any():
        first = torch.nonzero(wrong)[0].tolist()
        entry = value.expand(*wrong.shape, *leaf.event_shape)[tuple(first)]
        shown = f"{entry.item():g}" if entry.ndim == 0 else "a value"
        raise ValueError(
            f"site {name!r} is observed at {shown} (entry {first}), outside of the support of its "
            f"{type(leaf).__name__}, which has no density there: give items that lie inside"
        )


def observed_measure(pair: Pair, x: Tensor | Batch) -> str:
    """What log p(x) is taken against, by the supports of the observed sites: "mass", "density", or "mixed"."""
    module = as_module(pair)
    with Workspace(module, noise=Noise(0, x.device)).turn(), unchanged(module):
        _, model = traces(pair, x[:1], None)
    supports = [stated_support(site["fn"]) for site in _samples(model).values() if site["is_observed"]]
    measures = {_measure_of(support) for support in supports}
    return "mixed" if len(measures) > 1 else next(iter(measures), "density")


def _measure_of(support: Any) -> str:
    """The base measure that a support states, as that of a table's row does, or that follows from `is_discrete`."""
    while isinstance(support, constraints.independent | OrMissing):
        support = support.base if isinstance(support, OrMissing) else support.base_constraint
    stated: str | None = getattr(support, "base_measure", None)
    return stated or ("mass" if getattr(support, "is_discrete", False) else "density")


def called(pair: Pair) -> None:
    """Draw items from a pair with a user's parts and call the guide on them, twice, to note what each call writes."""
    given, pair = as_module(pair), widened(pair)
    if not has_users_parts(given):
        return
    module, device = as_module(pair), dtype_and_device(pair)[1]
    with (
        suppress(Exception),  # the estimator will say itself what is wrong
        Workspace(module, noise=Noise(0, device)).turn(),
        unchanged(module),
        writes_noted(module, given) as called_once,
    ):
        for size in (2, 3):
            drawn = poutine.trace(pair.model).get_trace(size=size, **stand_ins(pair, size))
            called_on(pair.guide, Batch.of(drawn.nodes["obs"]["value"], **stand_ins(pair, size)))
            called_once()


@contextmanager
def unchanged(module: nn.Module) -> Iterator[None]:
    """Put buffers and plain numbers of the module's parts, such as a count of calls, back after the body."""
    plain = [(part, {k: v for k, v in vars(part).items() if isinstance(v, int | float)}) for part in module.modules()]
    buffers = [(b, b.detach().clone()) for b in module.buffers() if _is_writable(b)]
    try:
        yield
    finally:
        for part, numbers in plain:
            vars(part).update({k: v for k, v in numbers.items() if vars(part).get(k) is not v and k != "training"})
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.data.copy_(value)


def _is_writable(b: Tensor) -> bool:
    """Whether a buffer can be put back: not one that was expanded, which repeats its memory."""
    if b.is_inference() or b.layout != torch.strided:
        return False
    return not any(n > 1 and not stride for n, stride in zip(b.shape, b.stride(), strict=True))


def _at(
    pair: Pair, x: Tensor | Batch, drawn: poutine.Trace, num_particles: int | None, column: slice = slice(None)
) -> Particles:
    """The tables at the values of all draws, or at those of the last draw without a plate."""
    at = poutine.Trace()
    for name, site in _samples(drawn).items():
        if not site["is_observed"]:
            value = site["value"][slice(None) if num_particles else -1, column]
            at.add_node(name, name=name, type="sample", is_observed=False, value=value, infer={})
    guide, model = traces(pair, x, num_particles, at)
    return tabulated(model, guide, x, num_particles or 1)


def _alike(a: Particles, b: Particles, close: float) -> bool:
    """Whether two tables differ by no more than `close`, absolute and relative."""
    for one, other in zip(vars(a).values(), vars(b).values(), strict=True):
        same = torch.isclose(one, other, rtol=close, atol=close, equal_nan=True)
        # a point's log-density is 0 on it and -inf beside it, which may be rounding
        if not (same | one.isneginf() | other.isneginf()).all():
            return False
    return True


def _require_same_codes(pair: Pair, model: poutine.Trace, guide: poutine.Trace) -> None:
    """Refuse a site that only the model or the guide draws, where the pair has a p(x): p(x, z) / q(z | x) is no weight.

    A guide may draw it where all other codes are given by it: their points carry the density of what was drawn.
    """
    ours, theirs = (
        {name: site["fn"] for name, site in _samples(trace).items() if not site["is_observed"]}
        for trace in (model, guide)
    )
    if not pair.is_normalized:
        return
    if absent := [name for name in ours if name not in theirs]:
        raise ValueError(
            f"site {absent[0]!r} of the model is not in the guide: its draws would come from the prior and be weighed "
            f"by it once more. Draw it in the guide of {type(pair).__name__} too, or sum it out in the model"
        )
    more = [name for name in theirs if name not in ours]
    if more and not all(is_point(theirs[name]) for name in ours):
        raise ValueError(
            f"site {more[0]!r} of the guide is not in the model: without a density there p(x, z) / q(z | x) is no "
            f"weight. Draw it in the model of {type(pair).__name__} too, or leave it out of the guide"
        )


def _require_stated_size(pair: Pair, model: poutine.Trace) -> None:
    """Refuse a pair whose codes have another size than `latent_dim`, on which estimators and exports rely."""
    site = _samples(model).get("latent")
    shape = () if site is None else tuple(site["fn"].event_shape)
    if len(shape) == 1 and shape[0] != pair.latent_dim:
        raise ValueError(
            f"{type(pair).__name__} states latent_dim {pair.latent_dim}, and its site 'latent' has {shape[0]} "
            f"dimension{'s' if shape[0] > 1 else ''}: state latent_dim = {shape[0]}"
        )


def _masked(pair: Pair, model: poutine.Trace, guide: poutine.Trace) -> tuple[str, ...]:
    """The observed sites with a mask; one on a code is refused, where the pair says that it has a p(x)."""
    masked = [
        (name, site["is_observed"])
        for trace in (guide, model)
        for name, site in _samples(trace).items()
        if _is_masked(site)
    ]
    latent = [name for name, is_observed in masked if not is_observed]
    if latent and pair.is_normalized:
        raise ValueError(
            f"site {latent[0]!r} is masked, and without it p(x, z) is no density: mask observed sites alone, or set "
            f"is_normalized to False on {type(pair).__name__}"
        )
    return tuple(name for name, is_observed in masked if is_observed)


def _samples(trace: poutine.Trace) -> dict[str, Any]:
    """The sample sites, without those of plates and of pyro.deterministic."""
    sites = prune_subsample_sites(trace).nodes.items()
    return {n: site for n, site in sites if site["type"] == "sample" and not site["infer"].get("_deterministic")}


def _is_masked(site: Any) -> bool:
    """Whether a mask, of `poutine.mask` or of the distribution, may leave a part of the site out."""
    masks, fn = [site["mask"]], site["fn"]
    while fn is not None:
        masks.append(fn._mask if isinstance(fn, MaskedDistribution) else None)
        fn = getattr(fn, "base_dist", None)
    return any(mask is not None and mask is not True for mask in masks)


def _advice(pair: Pair, what: str, error: Exception | None = None) -> str:
    said = f" ({str(error).splitlines()[0]})" if str(error or "") else ""  # the rest is Pyro's list of shapes
    return (
        f"{type(pair).__name__} {what}{said}: a network takes the axis of draws or items for another. Write its "
        "networks for any leading dimensions, (..., features): flatten these to one before a layer that knows one "
        "alone (BatchNorm, convolutions, view(-1, ...)), and give them back after it"
    )
