"""The integrals of p(x, z) over cells of a grid of codes, for all items of a batch at once."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import torch
from torch import Tensor

from pyrovae.compile.function import CompiledFunction, compile_function, pays
from pyrovae.evaluation.agreement import agree, few_items, scored_few
from pyrovae.evaluation.session import Session
from pyrovae.models.batch import Batch, items_of, options_of
from pyrovae.models.layers import layer_sizes
from pyrovae.models.pair import covariate_dim_of
from pyrovae.models.particles import scored
from pyrovae.models.scopes import Workspace
from pyrovae.seeding import Noise, forked

__all__ = ["CellRule", "log_joint_table", "table_is_of_model"]


class CellRule:
    """The Gauss-Legendre rule on u cells, with m nodes each, for the n items of a batch; compiled once that pays."""

    def __init__(self, pair: Any, space: Workspace, *, by_parts: bool) -> None:
        self.pair, self.space, self.by_parts = pair, space, by_parts
        family = getattr(getattr(pair, "likelihood", None), "family", None)
        # whether log p(x | z) of all items at all codes is a product of matrices
        self.is_product = by_parts and getattr(family, "natural_parameter", None) is not None
        self.calls: Counter[Any] = Counter()
        self.last_arguments: dict[Any, list[Tensor]] = {}  # for each set of shapes
        self.compiled: CompiledFunction | None = None
        self.settled = False  # whether compiling has been decided on

    def __call__(self, *arguments: Any) -> list[Tensor]:
        self.settled = self.settled or isinstance(arguments[0], Batch)  # which no graph takes as an input
        if not self.settled:
            kind = tuple(each.shape for each in arguments)
            self.calls[kind] += 1
            self.last_arguments[kind] = list(arguments)
        with self.space.turn():
            if self.compiled is not None and self.compiled.fits(*arguments):
                return self.compiled(*arguments)
            return self.integrals(*arguments)

    def integrals(self, x: Any, z: Tensor, log_weights: Tensor, log_volume: Tensor) -> list[Tensor]:
        """The integrals of items (n, ...) over cells with nodes z (u, m, d), in float64.

        Returns the log of the mass (u, n); the peak, the highest log p(x, z) of a cell (u, n), and the depth, its
        difference to the lowest (u, n); the first moments of z in a cell (u, n, d) and the second (u, n, d, d); and
        log p(x, z) (u, m, n).
        """
        log_joint = log_joint_table(self.pair, x, z.flatten(0, 1), by_parts=self.by_parts).unflatten(0, z.shape[:2])
        log_term = log_joint + log_weights[:, None] + log_volume[:, None, None]
        log_mass = log_term.logsumexp(1)
        weight = (log_term - log_mass[:, None]).nan_to_num(-math.inf).exp()
        first = torch.einsum("umn,umd->und", weight, z)
        second = torch.einsum("umn,umd,ume->unde", weight, z, z)
        peak = log_joint.amax(1)
        depth = (peak - log_joint.amin(1)).nan_to_num(0.0)
        return [log_mass, peak, depth, first, second, log_joint]

    def compile_if_it_pays(self, *, done: int, left: int) -> None:
        """Compile for the shapes that came most often so far, if what is left of the batches repays it."""
        if self.settled or not self.calls:
            return
        kind, calls = max(self.calls.items(), key=lambda one: one[1] * one[0][1].numel())
        x, z, *_ = arguments = self.last_arguments[kind]
        each = sum(layer_sizes(self.pair, x)) + (len(x) if self.is_product else x.numel())
        if pays(calls * left // done, z.shape[0] * z.shape[1] * each):
            with self.space.turn(), forked(0, x.device):
                self.compiled = compile_function(self.integrals, arguments)
            self.settled = True
            self.last_arguments.clear()


def table_is_of_model(session: Session, pair: Any, x: Any) -> bool:
    """Whether the fast table of the pair's likelihood is the density of its model, which a subclass may override."""
    table = getattr(getattr(pair, "likelihood", None), "log_prob_table", None)
    if table is None or not hasattr(pair, "prior") or covariate_dim_of(pair):
        return False
    some = few_items(x)
    z, of_model = scored_few(session, pair, some)
    with session.workspace(Noise(0, x.device), pair=pair).turn():
        likelihood, prior = table(z, items_of(some), **options_of(some)), pair.prior().log_prob(z)[:, None]
    return agree(likelihood, of_model.log_likelihood) and agree(prior, of_model.log_prior)


def log_joint_table(pair: Any, x: Any, z: Tensor, *, by_parts: bool) -> Tensor:
    """log p(x_n, z_m) for every code and item: (M, d) and (N, *event_shape) to (M, N)."""
    if by_parts:
        log_likelihood = pair.likelihood.log_prob_table(z, items_of(x), **options_of(x))
        log_prior = pair.prior().log_prob(z)[:, None]
    else:
        at = scored(pair, x, z[:, None], guide=False)
        log_likelihood, log_prior = at.log_likelihood, at.log_prior
    outside = ~(log_prior > -math.inf)  # outside of the prior's support, where some priors give NaN
    return torch.where(outside, -math.inf, log_likelihood + log_prior)
