"""Whether a covariance goes on towards a singular one for as long as EM runs, as where entries are missing it may."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyrovae import checks
from pyrovae.inference.em.floors import columns_in_words
from pyrovae.listed import listed
from pyrovae.models.components import GaussianComponents

__all__ = ["Drift", "SingularDriftWarning"]

POWER = 0.5  # of the number of iterations, by which an eigenvalue falls that has not settled
LEAST = 100  # iterations, before which nothing is said: a matrix that is nearly singular is on its way there


class SingularDriftWarning(UserWarning):
    """The smallest eigenvalue of a correlation matrix was still falling when EM with missing entries ended."""


class Drift:
    """What the last iteration of EM did to the smallest eigenvalue of each component's correlation matrix.

    A component drifts where in the last iteration n, of 100 or more, the eigenvalue fell by a share of more than
    1 / (2 n), which is faster than n^-1/2. Where EM goes on towards a singular matrix it falls about as 1 / n or
    faster; where the entries that were seen together tell the covariance, it has settled: its falls become smaller by
    a factor in each iteration.
    """

    def __init__(self, parts: GaussianComponents) -> None:
        self.parts, self.iterations = parts, 0
        self._before: Tensor | None = None

    def note(self) -> None:
        """Take notice of the parameters, before one more iteration."""
        self.iterations += 1
        self._before = self._correlations()

    def warn(self, names: Sequence[str], event_shape: Sequence[int]) -> list[int]:
        """Warn of the components that drift, by their `names`, and return their numbers."""
        n = self.iterations
        if n < LEAST or self._before is None:
            return []
        value, vector = torch.linalg.eigh(self._correlations())
        value, before = value[:, 0], torch.linalg.eigvalsh(self._before)[:, 0]
        fall = before.log() - value.log()
        which: list[int] = (fall > POWER / n).nonzero().flatten().tolist()
        if not which:
            return []
        words = []
        for k in which:
            load = vector[k, :, 0].square()
            most = load.argsort(descending=True)[: int((load > 1 / len(load)).sum())]
            name = "the tied covariance" if self.parts.covariance == "tied" else names[k]
            words.append(f"{name} (now {float(value[k]):.2g}, along {columns_in_words(most, event_shape)})")
        another = "covariance='diagonal'" if self.parts.covariance == "tied" else "covariance='tied' or 'diagonal'"
        checks.warn(
            f"after {n} iterations of EM the smallest eigenvalue of a correlation matrix is still falling, in "
            f"{listed(words, sign='; ')}. With so many entries missing, those that were seen together do not "
            "tell the covariance there, and it goes on towards a singular one for as long as EM runs: take "
            f"{another}, fewer components, or a larger floor; log p(x) of new items is not to be relied on",
            SingularDriftWarning,
        )
        return which

    @torch.no_grad()
    def _correlations(self) -> Tensor:
        factor = self.parts.scale_tril
        factor = factor / factor.square().sum(-1, keepdim=True).sqrt()
        return factor @ factor.mT
