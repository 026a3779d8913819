"""Draws of missing entries given the seen ones: codes from p(z | x_seen) by one of the methods, then p(x | z)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from pyrovae import checks
from pyrovae.models.imputation.mcmc import MarkovChain
from pyrovae.models.imputation.nuts import NoUTurn
from pyrovae.models.imputation.seen import ImpossibleError, Parts
from pyrovae.models.imputation.sir import Resampling
from pyrovae.models.scopes import Workspace, copied
from pyrovae.seeding import Noise

__all__ = ["METHODS", "draw_missing"]

METHODS: Mapping[str, Any] = MappingProxyType({each.name: each for each in (MarkovChain, Resampling, NoUTurn)})
CHUNK_BYTES = 256 * 2**20  # what the codes that are decoded together may take
LAYERS_ALIVE = 32  # copies of the widest layer counted for one code


def draw_missing(
    prior: nn.Module,
    likelihood: nn.Module,
    posterior: nn.Module,
    x: Tensor,
    *,
    num_draws: int,
    num_steps: int,
    noise: Noise | None = None,
    method: str = "mcmc",
    covariates: Tensor | None = None,
    exposure: Tensor | None = None,
) -> Tensor:
    """Draw p(x_missing | x_seen), NaN for missing: (N, *event_shape) -> (num_draws, N, *event_shape).

    p(x_missing | x_seen) is the mean of p(x_missing | z) over p(z | x_seen), the entries being independent given the
    code. The method draws codes from p(z | x_seen), proportional to p(z) prod_seen p(x_j | z): "mcmc"
    (`imputation.mcmc.MarkovChain`), "sir" (`imputation.sir.Resampling`) or "nuts" (`imputation.nuts.NoUTurn`). Each
    code is then decoded, and the missing entries are drawn.

    `covariates`, (N, D), and `exposure`, (N,), are those of the items, for parts that take them.

    The random numbers are those of `noise`, or torch's global generator's; no gradients. Half precision is drawn in
    float32 with the same weights, and rounded at the end. An item without a missing entry comes back as it is in every
    draw; the code of one without a seen entry is a draw of the prior. Warns where the method can tell that its codes
    are not yet those of p(z | x_seen). Raises ValueError for a likelihood whose entries are not independent given the
    code, and by all methods alike for an item whose seen entries have a density of 0 at every code that is tried.

    >>> import torch
    >>> import pyrovae
    >>> from pyrovae.models.imputation import draw_missing
    >>> vae = pyrovae.mlp_vae((3,))
    >>> x = torch.tensor([[1.0, 0.0, torch.nan]])
    >>> draw_missing(vae.prior, vae.likelihood, vae.posterior, x, num_draws=5, num_steps=10).shape
    torch.Size([5, 1, 3])
    """
    # gradients in the code are needed, which an inference tensor cannot give
    with torch.inference_mode(False), torch.no_grad():
        x = x.clone()
        seen = ~torch.isnan(x)
        wanting = torch.nonzero(~seen.flatten(1).all(1)).flatten()
        draws = x.expand(num_draws, *x.shape).clone()
        if not len(wanting):
            return draws
        if x.dtype.itemsize < 4:
            # a sum of log-densities is compared with another, of which half precision keeps two or three figures
            prior, likelihood, posterior = (m.float() for m in copied((prior, likelihood, posterior)))
            x = x.float()
        space = Workspace(prior, likelihood, posterior, noise=noise, checks=None)
        room = max(1, CHUNK_BYTES // _bytes_per_code(prior, likelihood, x))
        both = {"covariates": covariates, "exposure": exposure}
        beside = {name: value for name, value in both.items() if value is not None}
        parts = Parts(prior, likelihood, posterior)
        way = METHODS[method](parts.given(beside, wanting[:1], x.dtype), num_draws, num_steps, room, space)
        for rows in wanting.split(way.rows_at_once):
            start = 0
            way.parts = parts.given(beside, rows, x.dtype)
            try:
                for z in way.codes(x[rows], seen[rows]):
                    stop = start + len(z)
                    with space.turn():
                        drawn = way.parts.likelihood(z).sample()
                    draws[start:stop, rows] = torch.where(seen[rows], x[rows], drawn).to(draws.dtype)
                    start = stop
            except ImpossibleError as error:
                raise ValueError(
                    f"x has items, the first of them {int(rows[error.which][0])}, whose seen entries have a density of "
                    "0 at every code that was tried, and nothing follows from them: look at their entries, and leave "
                    "such items out"
                ) from None
    for doubt in way.doubts():
        checks.warn(doubt)
    return draws


def _bytes_per_code(prior: Any, likelihood: nn.Module, x: Tensor) -> int:
    sizes = [size for p in likelihood.state_dict().values() for size in p.shape]  # a frozen pair has buffers alone
    widest = max(x[0].numel(), prior.latent_dim**2, *sizes)
    return LAYERS_ALIVE * widest * x.element_size()
