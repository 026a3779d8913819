"""The negative ELBO of a model and guide as a tensor, by the formulas of Pyro's losses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from pyro.distributions.util import is_identically_zero, scale_and_mask
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor
from torch.distributions import kl_divergence

from pyrovae.compile.errors import EAGER, CaptureError

__all__ = ["PARTICLES", "is_differentiable", "negative_elbo", "require_reparameterized"]


def negative_elbo(loss: Any, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
    """The loss of Pyro as a differentiable tensor, whose value is never read."""
    particle, total = PARTICLES[type(loss)], torch.zeros((), dtype=torch.float32)
    for model_trace, guide_trace in loss._get_traces(model, guide, args, kwargs):
        require_reparameterized(model_trace, guide_trace)
        total = total - particle(model_trace, guide_trace) / loss.num_particles
    return total


def _trace_elbo(model_trace: Any, guide_trace: Any) -> Tensor:
    """log p(x, z) - log q(z) at one draw; its gradient is the ELBO's, where every site is reparameterised."""
    elbo = torch.zeros((), dtype=torch.float32)
    for site in _samples(model_trace):
        elbo = elbo + site["log_prob_sum"]
    for site in _samples(guide_trace):
        elbo = elbo - _entropy_term(site)
    return elbo


def _mean_field_elbo(model_trace: Any, guide_trace: Any) -> Tensor:
    """The ELBO with the closed-form KL divergence of a site, where its two distributions have one."""
    elbo = torch.zeros((), dtype=torch.float32)
    for site in _samples(model_trace):
        if site["is_observed"]:
            elbo = elbo + site["log_prob_sum"]
            continue
        drawn = guide_trace.nodes[site["name"]]
        try:
            kl = scale_and_mask(kl_divergence(drawn["fn"], site["fn"]), drawn["scale"], drawn["mask"])
        except NotImplementedError:
            elbo = elbo + site["log_prob_sum"] - _entropy_term(drawn)
            continue
        elbo = elbo - (kl.sum() if isinstance(kl, Tensor) else kl * drawn["fn"].batch_shape.numel())
    for site in _samples(guide_trace):
        if site["name"] not in model_trace.nodes:
            elbo = elbo - _entropy_term(site)
    return elbo


PARTICLES: dict[Any, Callable[[Any, Any], Tensor]] = {Trace_ELBO: _trace_elbo, TraceMeanField_ELBO: _mean_field_elbo}


def _entropy_term(site: Any) -> Any:
    term = site["score_parts"].entropy_term
    return 0.0 if is_identically_zero(term) else term.sum()


def _samples(trace: Any) -> Iterator[Any]:
    return (site for site in trace.nodes.values() if site["type"] == "sample")


def is_differentiable(site: Any) -> bool:
    """Whether the gradient of a draw goes through its value alone, and not by a score function."""
    return getattr(site["fn"], "has_rsample", False) and is_identically_zero(site["score_parts"].score_function)


def require_reparameterized(model_trace: Any, guide_trace: Any) -> None:
    """CaptureError for a site that is summed out, or whose gradient is a score function's in whole or in part."""
    for trace in (guide_trace, model_trace):
        for site in _samples(trace):
            if site["infer"].get("enumerate"):
                raise CaptureError(f"site {site['name']!r} is marked to be summed out: take TraceEnum_ELBO with SVI")
            if trace is guide_trace and not is_differentiable(site):
                in_part = getattr(site["fn"], "has_rsample", False)
                why = "a draw that is reparameterised only in part, the rest of whose gradient is a score function's"
                none = "no reparameterised draw, so that no gradient goes through it"
                raise CaptureError(
                    f"site {site['name']!r} ({type(site['fn']).__name__}) has {why if in_part else none}: give the "
                    f"guide a law with a reparameterised draw, {EAGER}"
                )
