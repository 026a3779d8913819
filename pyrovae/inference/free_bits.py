"""The negative ELBO with a floor under the KL term, so that no dimension of the code is given up early."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions.torch_distribution import ExpandedDistribution
from torch import Tensor
from torch.distributions import Independent

from pyrovae.inference.elbo import require_reparameterized

__all__ = ["floored_loss", "per_dimension"]


def floored_loss(
    elbo: Any, model: Any, guide: Any, x: Tensor, *, floor: float, beta: Any, **given: Tensor
) -> tuple[Tensor, str]:
    """-E[log p(x | z)] + beta sum_j max(floor, KL_j), in nats per item, and what j numbers: "dimension" or "code".

    KL_j is the mean over the batch of log q(z_j | x) - log p(z_j) at the draws of the guide (Kingma et al. 2016,
    appendix C.8). Where q or p does not have independent dimensions, the floor is one for the whole code, of `floor`
    times its number of dimensions. Raises ValueError for a pair with another latent site than "latent".
    """
    ((model_trace, guide_trace),) = elbo._get_traces(model, guide, (x,), given)
    require_reparameterized(model_trace, guide_trace)
    log_likelihood = torch.zeros((), dtype=torch.float32)
    for name, site in model_trace.nodes.items():
        if site["type"] == "sample" and site["is_observed"]:
            log_likelihood = log_likelihood + site["log_prob_sum"]
        elif site["type"] == "sample" and name != "latent":
            raise _one_site(name)
    for name, site in guide_trace.nodes.items():
        if site["type"] == "sample" and name != "latent":
            raise _one_site(name)
    if "latent" not in guide_trace.nodes or "latent" not in model_trace.nodes:
        raise ValueError(
            "free_bits is a floor under the KL term of the site 'latent', and this pair has none: leave it at 0"
        )
    q, p = guide_trace.nodes["latent"], model_trace.nodes["latent"]
    for site in (q, p):
        if isinstance(site["scale"], Tensor) or site["scale"] != 1 or site["mask"] is not None:
            raise ValueError("free_bits is a floor under the KL term, and its site 'latent' is scaled or masked")
    rates, of = per_dimension(q["fn"], p["fn"], q["value"])
    each = floor if of == "dimension" else floor * q["value"].shape[-1]
    mean = rates.flatten(0, -2).mean(0)
    kl = mean.maximum(torch.full_like(mean, each)).sum()
    return (1.0 if beta is None else beta) * kl - log_likelihood / (elbo.num_particles * len(x)), of


def per_dimension(q: Any, p: Any, z: Tensor) -> tuple[Tensor, str]:
    """log q(z) - log p(z) at draws (..., d): (..., d) where dimensions are independent under both, else (..., 1)."""
    q_entries, p_entries = _entries(q), _entries(p)
    if q_entries is not None and p_entries is not None:
        return q_entries.log_prob(z) - p_entries.log_prob(z), "dimension"
    return (q.log_prob(z) - p.log_prob(z))[..., None], "code"


def _entries(law: Any) -> Any:
    """The distribution of the independent entries of a vector; None where they are not independent."""
    while isinstance(law, ExpandedDistribution):
        law = law.base_dist
    if not isinstance(law, Independent) or len(law.event_shape) != 1 or law.base_dist.event_shape:
        return None
    return law.base_dist


def _one_site(name: str) -> ValueError:
    return ValueError(
        f"free_bits is a floor under the KL term of the one site 'latent', and this pair has the site {name!r} too: "
        "leave it at 0"
    )
