"""Export of a fitted pair's draws and evidence to ArviZ; the only file that imports arviz."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro
import torch
from pyro import poutine

import pyrovae
from pyrovae import checks
from pyrovae.evaluation.estimate import Estimate
from pyrovae.evaluation.evidence import MAX_BYTES, iwae, pareto_k
from pyrovae.evaluation.session import Session
from pyrovae.labelled import labelled
from pyrovae.models.batch import called_on, items_of, keywords_of
from pyrovae.models.bayesian import BayesianGaussianMixture
from pyrovae.models.bayesian_vae import BayesianVAE
from pyrovae.models.items import checked_batch, checked_items
from pyrovae.models.layers import rows_within
from pyrovae.models.pair import Pair
from pyrovae.models.particles import Items, scored, simulated
from pyrovae.models.scopes import Workspace
from pyrovae.seeding import stream

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["to_arviz"]

DIMS = {
    "chain": "independent draws: one chain",
    "draw": "draw",
    "item": "item, in the order given",
    "latent_dim": "dimension of the code",
    "covariate": "column of the covariates",
    "component": "component, numbered alike in every draw",
    "feature": "entry of an item, flat",
    "feature_": "entry of an item, flat",
}


@checks.allocating
def to_arviz(
    pair: Pair,
    x: Any,
    *,
    y: Any = None,
    num_draws: int = 200,
    evidence: Estimate | Callable[[Any, Any], Estimate] | None = None,
    seed: int = 0,
    covariates: Any = None,
    exposure: Any = None,
) -> Any:
    """Export a pair and its items to ArviZ: an InferenceData on ArviZ 0.x, an xarray.DataTree on 1.x.

    A pair with one code per item gives the following groups, for N items of D entries,
    S = `num_draws` draws and one chain:

    - `posterior`: "latent" (chain, draw, item, latent_dim), draws of q(z | x);
      `posterior_predictive`: "obs" (chain, draw, item, event_0, ...), a draw of p(x | z) at each of
      these codes. `prior` and `prior_predictive` have the same shapes, with codes from p(z).
    - `observed_data`: "obs" (item, event_0, ...). With `y` there is also `constant_data`: "label"
      (item), as there is with "covariates" (item, covariate) and "exposure" (item) where the items have
      these; "label" is a coordinate of the items in the other groups. The exception is
      `log_evidence`, of which ArviZ 0.x could then make no data frame.
    - `sample_stats`: "log_weight" (chain, draw, item), log p(x, z) - log q(z | x) of each draw.
    - `log_evidence`, in nats: "log_evidence" and its standard error "se", the estimate of log p(x);
      "elbo", "rate" and "distortion", means over the draws in `posterior`, each with its "_se" (NaN
      for one draw); "pareto_k", of the weights of the estimate if it is an importance-weighted
      bound, and otherwise of the draws in `posterior` (NaN for 20 draws or fewer); "unreliable" if
      the estimate has that variable. There is one value per item, repeated over (chain, draw), so
      that `az.concat`, `sel` and `to_dataframe` treat this group as they do the others;
      `.isel(chain=0, draw=0)` selects the values per item.

    Each group has the attributes that ArviZ defines for its origin: `created_at`,
    `creation_library`, `inference_library` and their versions.

    The draws of q(z | x) are independent and not from MCMC, so R-hat says nothing about them. There
    is no `log_likelihood` group: each item has a code of its own, and PSIS-LOO on log p(x | z) would
    estimate another quantity than log p(x). Compare pairs by log p(x) of held-out items.
    Values keep the pair's dtype, so the two predictive groups have 2 S N D entries of that dtype;
    pass only the items that you want to look at.

    `evidence` is an `Estimate` of log p(x) for the same pair and items, from `quadrature`, `ais` or
    `iwae`; None takes `iwae` with 1,000 particles. Raises ValueError for a pair without p(x), for
    labels of another length, and for an estimate of another pair or other items; TypeError for
    labels that are neither all numbers nor all strings.

    A `BayesianGaussianMixture`, whose latent variables are its parameters, gives other groups:

    - `posterior`: "weights" (chain, draw, component), "loc", "scale" and, for a structure that has
      one, "correlation". After `fit(..., method="nuts")` these are all draws of NUTS; otherwise they
      are `num_draws` draws of the guide.
    - `log_likelihood`: "obs" (chain, draw, item), log p(x_n | parameters), with which `az.loo` and
      `az.compare` compare numbers of components. With draws of the guide they assess the guide's
      approximation and not the posterior.
    - `posterior_predictive`: "obs", N items per draw; `observed_data` and `constant_data` as above.

    A `BayesianVAE`, whose decoder's weights W have draws, gives the same groups:

    - `posterior`: "weight.NAME" (chain, draw, ...) for each parameter of the decoder's network, `num_draws` draws of
      the guide.
    - `log_likelihood`: "obs" (chain, draw, item), log p(x_n | W) with the code integrated out by `evidence`, which is
      an estimator here, as `pyrovae.quadrature` or a `functools.partial` of `pyrovae.iwae`; None takes `iwae` with
      1,000 particles. `sample_stats` has its standard errors, "log_likelihood_se".
    - `posterior_predictive`: "obs", N new items per draw; `observed_data` and `constant_data` as above.

    >>> import torch
    >>> import pyrovae
    >>> vae = pyrovae.mlp_vae((3,))
    >>> tree = pyrovae.to_arviz(vae, torch.eye(3), y=["a", "b", "c"], num_draws=5)
    >>> tree.posterior["latent"].shape
    (1, 5, 3, 2)
    """
    x = checks.split_of(x, covariates=covariates, exposure=exposure, what="to_arviz")
    y = x.y if y is None else y
    num_draws, seed = checks.whole("num_draws", num_draws), checks.seed(seed)
    if isinstance(pair, BayesianGaussianMixture):
        if x.beside:
            raise ValueError(f"a {type(pair).__name__} takes no {' and no '.join(x.beside)}: leave them out")
        return _mixture(pair, x.x, y, num_draws, seed)
    if isinstance(pair, BayesianVAE):
        return _bayesian_vae(pair, x, y, num_draws, evidence, seed)
    session = Session("to_arviz", pair)
    session.require_continuous()
    items = session.items(x)
    labels = None if y is None else _labels(y, len(items))
    each = 2 * len(items) * items.element_size() * (pair.latent_dim + math.prod(pair.event_shape))
    checks.whole("num_draws", num_draws, bytes_each=each)
    if evidence is not None:
        session.require_evidence(evidence)
        assert isinstance(evidence, Estimate)
    drawn = _draws(session.pair, items, num_draws, session.workspace(session.noise(seed)))
    evidence = iwae(session.pair, x, seed=seed) if evidence is None else evidence
    of_evidence = evidence.pointwise.attrs
    event = [f"event_{i}" for i in range(len(pair.event_shape))]
    draw, code = ["chain", "draw", "item"], ["latent_dim"]

    names = ("base_measure", "base_measure_scale", "data", "binarization")
    common = {
        **_common("draws of q(z|x), not MCMC", seed),
        "num_draws": num_draws,
        **session.protocol,
        **{name: of_evidence[name] for name in names if name in of_evidence},
        "evidence": evidence.kind,
    }
    table = drawn.pop("table")
    tree = {
        "posterior": {"latent": ([*draw, *code], drawn["latent"], "code, a draw of q(z | x)", "1")},
        "posterior_predictive": {"obs": ([*draw, *event], drawn["obs"], "item, a draw of p(x | z) at that code", "1")},
        "prior": {"latent": ([*draw, *code], drawn["prior_latent"], "code, a draw of the prior", "1")},
        "prior_predictive": {"obs": ([*draw, *event], drawn["prior_obs"], "item, a draw of p(x)", "1")},
        "observed_data": {"obs": (["item", *event], items_of(items).cpu(), "observed item", "1")},
        "sample_stats": {"log_weight": (draw, table["elbo"][None], "log p(x, z) - log q(z | x)", "nats")},
        "log_evidence": _log_evidence(evidence, table),
    }
    tree |= _constant_data(keywords_of(items))
    attributes = {}
    for name, value in of_evidence.items():
        if name == "seed":
            attributes["evidence_seed"] = str(value)
        elif name not in common:
            attributes[f"evidence_{name}"] = value
    return _tree(tree, common, {"log_evidence": attributes}, labels)


def _mixture(pair: BayesianGaussianMixture, x: Any, y: Any, num_draws: int, seed: int) -> Any:
    """The groups of a mixture: draws of its parameters, and the log-likelihood of each item at each draw."""
    items = checked_items(pair, x).detach()
    labels = None if y is None else _labels(y, len(items))
    by_nuts = pair.sampled is not None
    if not by_nuts:
        each = pair.bytes_per_draw + items.numel() * items.element_size() + 8 * len(items)
        checks.whole("num_draws", num_draws, bytes_each=each)
    draws = pair.draws(num_draws, seed=seed)
    event = [f"event_{i}" for i in range(len(pair.event_shape))]
    at, k, d = ["chain", "draw"], ["component"], ["feature"]
    scale = {"full": k + d, "diagonal": k + d, "tied": d, "spherical": k}[pair.covariance]
    replicate = pair.replicate(draws, len(items), seed=seed).cpu()
    tree: dict[str, Any] = {
        "posterior": {
            "weights": (at + k, draws["weights"].cpu(), "probability of a component", "1"),
            "loc": (at + k + d, draws["loc"].cpu(), "location of a component", "1"),
            "scale": (at + scale, draws["scale"].cpu(), "standard deviation in a component", "1"),
        },
        "posterior_predictive": {"obs": ([*at, "item", *event], replicate, "item, a draw at those parameters", "1")},
        "log_likelihood": {
            "obs": ([*at, "item"], pair.log_likelihood(items, draws).cpu(), "log p(x | parameters)", "nats")
        },
        "observed_data": {"obs": (["item", *event], items.cpu(), "observed item", "1")},
    }
    if "correlation" in draws:
        root = draws["correlation"]
        dims = [*at, *(k if pair.covariance == "full" else []), "feature", "feature_"]
        tree["posterior"]["correlation"] = (dims, (root @ root.mT).cpu(), "correlation in a component", "1")
    how = "NUTS" if by_nuts else "draws of a full-rank normal guide, not MCMC"
    settings = {"covariance": pair.covariance, "num_components": pair.num_components}
    if by_nuts:
        settings["labels"] = "permuted to agree with the likeliest draw's"
    return _tree(tree, _common(how, seed) | settings, {}, labels)


def _bayesian_vae(pair: BayesianVAE, x: Any, y: Any, num_draws: int, evidence: Any, seed: int) -> Any:
    """The groups of a VAE with draws of its decoder's weights, and log p(x | weights) of each item at each draw."""
    if evidence is not None and not callable(evidence):
        raise TypeError(
            "evidence of a BayesianVAE must be an estimator, which is called for each draw of the weights, as "
            f"pyrovae.iwae, got {type(evidence).__name__}"
        )
    batch = checked_batch(pair.vae, x)
    items = items_of(batch).detach()
    beside: dict[str, Any] = dict(keywords_of(batch))
    labels = None if y is None else _labels(y, len(items))
    guide = pair.guide_of_weights()
    size = sum(q.mean.numel() for q in guide.values()) + items.numel()
    checks.whole("num_draws", num_draws, bytes_each=size * items.element_size() + 16 * len(items))
    weights: dict[str, list[Any]] = {name: [] for name in guide}
    values, errors, replicates = [], [], []
    for draw in range(num_draws):
        vae = pair.draw(stream(seed, "draw", draw))
        if evidence is None:
            estimate = iwae(vae, items, seed=stream(seed, "evidence", draw), **beside)
        else:
            estimate = evidence(vae, items, **beside)
        if not isinstance(estimate, Estimate):
            raise TypeError(f"evidence must return an Estimate of log p(x), got {type(estimate).__name__}")
        values.append(estimate.pointwise["value"].values)
        errors.append(estimate.pointwise["se"].values)
        replicates.append(vae.sample(len(items), seed=stream(seed, "items", draw), **beside).cpu().numpy())
        for name, parameter in vae.likelihood.network.named_parameters():
            weights[name].append(parameter.detach().cpu().numpy())
    at, event = ["chain", "draw"], [f"event_{i}" for i in range(len(pair.event_shape))]
    posterior = {
        f"weight.{name}": (
            [*at, *(f"{name}_axis_{i}" for i in range(rows[0].ndim))],
            np.stack(rows)[None],
            f"draws of {name} of the decoder's network",
            "1",
        )
        for name, rows in weights.items()
    }
    by = [*at, "item"]
    tree = {
        "posterior": posterior,
        "posterior_predictive": {
            "obs": ([*by, *event], np.stack(replicates)[None], "item, a draw of p(x) at those weights", "1")
        },
        "log_likelihood": {"obs": (by, np.stack(values)[None], f"log p(x | weights) by {estimate.kind}", "nats")},
        "sample_stats": {
            "log_likelihood_se": (by, np.stack(errors)[None], "Monte Carlo standard error of log_likelihood", "nats")
        },
        "observed_data": {"obs": (["item", *event], items.cpu(), "observed item", "1")},
        **_constant_data(beside),
    }
    common = _common("draws of a mean-field guide of the decoder's weights, not MCMC", seed)
    return _tree(tree, common | {"prior_scale": pair.prior_scale, "evidence": estimate.kind}, {}, labels)


def _constant_data(beside: dict[str, Any]) -> dict[str, Any]:
    """The group of what lies beside the items, where anything does."""
    if not beside:
        return {}
    dims = {"covariates": ["item", "covariate"], "exposure": ["item"]}
    words = {"covariates": "covariate of the item", "exposure": "exposure of the item's counts"}
    return {"constant_data": {name: (dims[name], value.cpu(), words[name], "1") for name, value in beside.items()}}


def _common(inference: str, seed: int) -> dict[str, Any]:
    """The attributes that all groups have."""
    return {
        "created_at": datetime.now(UTC).isoformat(),
        "creation_library": "pyrovae",
        "creation_library_version": pyrovae.__version__,
        "creation_library_language": "Python",
        "inference": inference,
        "inference_library": "pyrovae",
        "inference_library_version": pyrovae.__version__,
        "pyro_version": pyro.__version__,
        "torch_version": str(torch.__version__),
        "seed": str(seed),  # netCDF has no integers over 64 bits
    }


def _tree(
    tree: dict[str, Any], common: dict[str, Any], more: dict[str, dict[str, Any]], labels: np.ndarray | None
) -> Any:
    """Groups of {variable: (dims, values, description, units)} as the installed ArviZ's type, with labels of items."""
    import arviz as az
    import xarray as xr

    groups = {name: _group(rows, common | more.get(name, {})) for name, rows in tree.items()}
    if labels is not None:
        label = ("item", labels, {"long_name": "label", "units": "1"})
        for name, group in groups.items():
            # with a label, a group of several variables would have no data frame in ArviZ 0.x
            if "item" in group.dims and len(group.data_vars) == 1:
                groups[name] = group.assign_coords(label=label)
        beside = tree.get("constant_data", {})
        groups["constant_data"] = _group({"label": (["item"], labels, "label", "1"), **beside}, common)
    result = xr.DataTree.from_dict(groups)
    result.attrs = dict(common)
    return az.InferenceData.from_datatree(result) if az.__version__.startswith("0.") else result


def _group(variables: dict[str, tuple[list[str], Any, str, str]], attributes: dict[str, Any]) -> xr.Dataset:
    rows, coords = {}, {}
    for name, (dims, values, words, unit) in variables.items():
        rows[name] = (values, words, unit, *dims)
        for dim, size in zip(dims, np.shape(values), strict=True):
            parameter, _, axis = dim.partition("_axis_")
            other = f"axis {axis} of {parameter}" if axis else f"axis {dim[6:]} of an item"
            long_name = DIMS.get(dim, other)
            coords[dim] = (dim, np.arange(size), {"long_name": long_name, "units": "1"})
    return labelled(rows, coords, attributes)


def _log_evidence(evidence: Estimate, table: dict[str, np.ndarray]) -> dict[str, Any]:
    """The variables of `log_evidence`: the estimate, and means over draws of the bound and its parts, at every draw."""
    words = {"elbo": "evidence lower bound", "rate": "E_q[log q(z | x) - log p(z)]", "distortion": "-E_q[log p(x | z)]"}
    weighted = "pareto_k" in evidence.pointwise
    k = evidence.pointwise["pareto_k"] if weighted else pareto_k(torch.from_numpy(table["elbo"]))
    rows: dict[str, Any] = {
        "log_evidence": (["item"], evidence.pointwise["value"], f"log p(x) by {evidence.kind}", "nats"),
        "se": (["item"], evidence.pointwise["se"], f"standard error of log p(x) by {evidence.kind}", "nats"),
    }
    for name, each in table.items():
        count = len(each)
        se = each.std(0, ddof=1) / np.sqrt(count) if count > 1 else np.full(each.shape[1], np.nan)
        rows[name] = (["item"], each.mean(0), f"{words[name]}, mean of {count} draws", "nats")
        rows[f"{name}_se"] = (["item"], se, f"standard error of {words[name]}", "nats")
    whose = evidence.kind if weighted else f"{len(table['elbo'])} draws"
    rows["pareto_k"] = (["item"], k, f"Pareto shape of the tail of the weights of {whose}", "1")
    if "unreliable" in evidence.pointwise:
        flags = evidence.pointwise["unreliable"]
        rows["unreliable"] = (["item"], flags, flags.attrs["long_name"], "1")
    # ArviZ needs chain and draw to concatenate, select and tabulate groups; broadcasting takes no memory
    at, size = ["chain", "draw"], (1, *table["elbo"].shape)
    return {name: (at + dims, np.broadcast_to(v, size), words, u) for name, (dims, v, words, u) in rows.items()}


def _labels(y: Any, count: int) -> np.ndarray:
    """Labels of a type that netCDF can store: numbers or strings."""
    array = checks.labels(y, count)
    as_objects = y if isinstance(y, Sequence) else array.tolist() if array.dtype.kind == "O" else []
    if len({isinstance(label, str) for label in as_objects}) == 2:
        raise TypeError("y must be all numbers or all strings, got both")
    array = np.asarray(as_objects) if array.dtype.kind == "O" else array
    if array.dtype.kind not in "iufbU":
        raise TypeError(f"y must be numbers or strings, got {array.dtype}")
    return array.astype(np.int8) if array.dtype.kind == "b" else array


def _draws(pair: Pair, x: Items, num_draws: int, space: Workspace) -> dict[str, Any]:
    """Codes and items, with a first dimension of one chain, in the pair's dtype; and a table of parts, (S, N) each."""
    size, event = (1, num_draws, len(x)), tuple(pair.event_shape)
    kind = items_of(x).cpu().numpy().dtype
    arrays: dict[str, Any] = {n: np.empty((*size, pair.latent_dim), kind) for n in ("latent", "prior_latent")}
    arrays |= {n: np.empty((*size, *event), kind) for n in ("obs", "prior_obs")}
    table = {n: np.empty(size[1:]) for n in ("elbo", "rate", "distortion")}
    rows = rows_within(pair, x, MAX_BYTES)
    for items in torch.arange(len(x)).split(max(1, rows // num_draws)):
        part = x[items.to(x.device)]
        with space.turn():
            of_guide = poutine.trace(partial(called_on, pair.guide)).get_trace(part)
            of_model = poutine.trace(pair.model).get_trace(size=len(part), **keywords_of(part))
        for draws in torch.arange(num_draws).split(max(1, rows // len(part))):
            at = np.ix_([0], draws, items)
            for trace, prefix in ((of_guide, ""), (of_model, "prior_")):
                with space.turn():
                    z = trace.nodes["latent"]["fn"].sample((len(draws),))
                    items_at_z = simulated(pair, z, **keywords_of(part))
                    parts = None if prefix else scored(pair, part, z)
                arrays[f"{prefix}latent"][at] = z.cpu()
                arrays[f"{prefix}obs"][at] = items_at_z.cpu()
                if parts is not None:
                    entries = np.ix_(draws, items)
                    table["elbo"][entries] = parts.log_weight.cpu()
                    table["rate"][entries] = (parts.log_guide - parts.log_prior).cpu()
                    table["distortion"][entries] = (-parts.log_likelihood).cpu()
    return arrays | {"table": table}
