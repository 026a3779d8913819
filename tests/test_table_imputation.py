"""Draws of missing entries of tables: what is true ranks among them as any draw does, kind by kind."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import pyrovae
from pyrovae import Column

COLUMNS = (
    Column("height", "real"),
    Column("income", "positive"),
    Column("visits", "count"),
    Column("smokes", "binary", ("no", "yes")),
    Column("region", "categorical", ("north", "south", "east", "west")),
    Column("grade", "ordinal", ("low", "middle", "high")),
)
ROWS, DRAWS, SHARE = 400, 99, 0.3


def known_vae():
    """A table_vae of parameters whose columns tell of each other through a code of two dimensions."""
    torch.manual_seed(3)
    vae = pyrovae.table_vae(COLUMNS, latent_dim=2, hidden_dims=(8,))
    with torch.no_grad():
        for p in vae.likelihood.network.parameters():
            p.mul_(2.0)
    return vae


def known_mixture():
    """A latent class model of three classes, as a fit has set them on rows of the VAE's."""
    mixture = pyrovae.ColumnMixture(COLUMNS, 3)
    pyrovae.fit(mixture, known_vae().sample(500, seed=1), progress=False)
    return mixture


def ranks(draws, x, hidden):
    """Where the true entries lie among their draws, from 0 to 1: uniform if they are one draw more (ties at random)."""
    generator = np.random.default_rng(0)
    below = (draws < x).sum(0)[hidden].numpy()
    level = (draws == x).sum(0)[hidden].numpy()
    count = len(draws)
    return (below + generator.random(len(below)) * (level + 1)) / (count + 1)


def covered(rank):
    """The share of entries inside their central 90 % interval."""
    return float(((rank > 0.05) & (rank < 0.95)).mean())


@pytest.mark.slow
@pytest.mark.parametrize("build", [known_vae, known_mixture])
def test_intervals_cover_the_entries_of_every_kind(build):
    """Within 4 binomial standard errors of .9 for each kind (7 checks, false alarm 4e-4), with the true parameters."""
    pair = build()
    torch.manual_seed(5)
    x = pair.sample(ROWS) if build is known_mixture else pair.sample(ROWS, seed=5)
    hidden = torch.rand(x.shape, generator=torch.Generator().manual_seed(6)) < SHARE
    seen = x.masked_fill(hidden, torch.nan)
    steps = {"num_steps": 20} if build is known_vae else {}
    draws = pair.impute(seen, num_draws=DRAWS, seed=7, **steps)
    assert torch.equal(draws[:, ~hidden], x[~hidden].expand(DRAWS, -1))
    every = []
    for j, column in enumerate(COLUMNS):
        rank = ranks(draws[..., j], x[:, j], hidden[:, j])
        every.append(rank)
        assert abs(covered(rank) - 0.9) < 4 * np.sqrt(0.09 / len(rank)), (column.kind, covered(rank), len(rank))
    rank = np.concatenate(every)
    assert abs(covered(rank) - 0.9) < 4 * np.sqrt(0.09 / len(rank))
    # the mean of the draws in place of them, which forgets that they vary: numbers are hardly ever inside
    spread = draws.mean(0) + 0.1 * (draws - draws.mean(0))
    for j in range(3):
        assert covered(ranks(spread[..., j], x[:, j], hidden[:, j])) < 0.5
    # draws of rows that nothing is known of cover as well, and say less: their error is larger where columns are tied
    blind = pair.impute(torch.full_like(x, torch.nan), num_draws=DRAWS, seed=8, **({"num_steps": 1} if steps else {}))
    error = [(each[..., 0].mean(0) - x[:, 0])[hidden[:, 0]].square().mean() for each in (draws, blind)]
    assert error[0] < 0.95 * error[1]
