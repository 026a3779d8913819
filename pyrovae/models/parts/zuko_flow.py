"""A flow of the package zuko as posterior or as prior."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn

from pyrovae.models.laws import as_pyro

__all__ = ["ZukoFlow", "is_zuko_flow"]


class ZukoFlow(nn.Module):
    """A flow of zuko (Rozet et al. 2022) as it is: with a network before it q(z | x), without one p(z).

    As a posterior `flow` is `zuko.flows.NSF(latent_dim, features)` or any other whose context is the output of
    `network`, (N, *event_shape) to (N, features); as a prior `zuko.flows.NSF(latent_dim)`. Builders wrap a flow that
    they are given: `mlp_vae(event_shape, 2, hidden_dims=(400,), posterior=zuko.flows.NSF(2, 400))`. A flow that is a
    change of variables keeps its transforms in both directions; one whose inverse is approximate is as exact as that.
    zuko is not installed with pyrovae: `pip install zuko`. A pair with such a flow is one composed by hand, for
    `load(path, like=pair)`. Raises TypeError for what is no flow of zuko.
    """

    latent_dim: int

    def __init__(self, flow: nn.Module, network: nn.Module | None = None) -> None:
        super().__init__()
        if not is_zuko_flow(flow):
            raise TypeError(f"flow must be one of zuko, such as zuko.flows.NSF(2), got {type(flow).__name__}")
        self.flow, self.network = flow, network
        if network is None:
            with torch.no_grad():
                try:
                    shape = flow().sample().shape
                except Exception as error:
                    raise ValueError(
                        "a flow as prior takes no context, such as zuko.flows.NSF(2); as a posterior it is given the "
                        f"network before it, ZukoFlow(flow, network): {error}"
                    ) from error
            self.latent_dim = int(shape[0])

    def forward(self, *x: Tensor) -> TorchDistribution:
        given = () if self.network is None else (self.network(*x),)
        q = self.flow(*given)
        if type(q).__name__ != "NormalizingFlow":
            return as_pyro(q)
        # Pyro's, from noise to code: the mean of fixed draws, and the search for a better q, go by its parts
        return dist.TransformedDistribution(as_pyro(q.base), [q.transform.inv])


def is_zuko_flow(part: Any) -> bool:
    """Whether a module is a lazy distribution of zuko, which is called with a context."""
    return any(
        kind.__name__ == "LazyDistribution" and kind.__module__.partition(".")[0] == "zuko"
        for kind in type(part).__mro__
    )
