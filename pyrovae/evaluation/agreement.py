"""Checks that a formula which uses a pair's parts agrees with its model, which a subclass may define differently."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyrovae.evaluation.session import Session
from pyrovae.models.batch import items_of, keywords_of
from pyrovae.models.missing import completed
from pyrovae.models.particles import Drawn, Particles, latent_law, scored, weighed
from pyrovae.seeding import Noise, stream

__all__ = ["CODES", "agree", "few_items", "scored_components", "scored_few"]

CODES = 8
ITEMS = 8
ABSOLUTE = 1e-6  # nats, for pairs in float64
RELATIVE = 1e-9  # relative to a log-density, which may be a sum of large terms


def few_items(x: Any) -> Any:
    """A few items of `x`, evenly spaced."""
    return x[:: -(-len(x) // ITEMS)]


def scored_few(session: Session, double: torch.nn.Module, x: Any, *, guide: bool = False) -> tuple[Tensor, Particles]:
    """Codes (M, latent_dim), half from the prior and half from the guide, and the log-densities (M, N) at them.

    The densities are those of the pair's model and, with `guide`, of its guide, and not those of its parts. `double` is
    the pair in float64.
    """
    noise = Noise(stream(0, session.name, "agreement"), x.device)
    with session.workspace(noise, pair=double).turn(), torch.no_grad():
        given: dict[str, Any] = {"size": len(x), **keywords_of(x)} if keywords_of(x) else {"size": 1}
        of_prior = latent_law(double.model, **given).sample((CODES // 2,))[:, 0].to(items_of(x))
        of_guide = latent_law(double.guide, completed(double, x[: CODES // 2])).sample().to(items_of(x))
        codes = torch.cat([of_prior, of_guide])
        return codes, scored(double, x, codes[:, None].expand(-1, len(x), -1), guide=guide)  # type: ignore[arg-type]


def scored_components(session: Session, mixture: torch.nn.Module, x: Tensor) -> Tensor:
    """log p(component, x) by a mixture's model, shape (N, num_components)."""
    count: int = mixture.num_components  # type: ignore[assignment]
    with session.workspace(Noise(0, x.device), pair=mixture).turn(), torch.no_grad():
        component = torch.arange(count, device=x.device)[:, None].expand(count, len(x))
        at = weighed(mixture, x, Drawn({"component": component}, {"component": 0}, torch.zeros(count, len(x)).to(x)))  # type: ignore[arg-type]
        return (at.log_likelihood + at.log_prior).T


def agree(table: Tensor, of_model: Tensor, rounding: Tensor | float = 0.0) -> bool:
    """Whether two tables of log-densities, in nats, agree up to rounding, and up to `rounding` that is known of."""
    table, of_model = torch.broadcast_tensors(table, of_model)
    close = ABSOLUTE + RELATIVE * of_model.abs() + rounding
    same = (table == of_model) | ((table - of_model).abs() <= close) | (table.isnan() & of_model.isnan())
    return bool(same.all())
