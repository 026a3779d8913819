"""The options of EM, as a method of `fit`: for Gaussian mixtures and for latent class models of tables."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from pyrovae import checks
from pyrovae.inference.em import columns, fitting
from pyrovae.inference.history import History
from pyrovae.inference.method import Method, Task, register_methods
from pyrovae.inference.svi.options import SVI
from pyrovae.models.column_mixture import ColumnMixture
from pyrovae.models.mixture import GaussianMixture

__all__ = ["EM"]


@dataclass(frozen=True)
class EM(Method):
    """Expectation maximisation (EM) for a Gaussian mixture, or for a latent class model of a table.

    It starts from k-means++ on standardised columns, `num_restarts` times, and also from the present parameters where
    they were set by a fit or by you. From each start it iterates until an iteration raises the log-likelihood by no
    more than `tol`. The parameters with the highest log-likelihood are kept.

    Args:
        tol: the least gain of an iteration, in nats per item, after which another one follows.
        max_iterations: the largest number of iterations from each start.
        num_restarts: the number of starts from k-means++; with 0 EM goes on from the present parameters alone. One
            component has one such start, for its cluster is all items each time.

        batch_size: of a GaussianMixture of whole items, the number of them after which the parameters move; None: they
            move once an iteration, after all items. An iteration is then a sweep over the batches, of each of which the
            sums are kept and replaced in turn (incremental EM: Neal and Hinton 1998). It costs about two iterations of
            EM. When a sweep gains no more than `tol`, plain EM goes on from there and ends as it does without batches.

    Raises ValueError for an option that is out of its range, and for batches where entries are missing or of a table.

    (Dempster, Laird and Rubin 1977, section 4.3; with missing entries, Ghahramani and Jordan 1994, section 3.)

    >>> from pyrovae.methods import EM
    >>> EM(num_restarts=3)
    EM(tol=1e-06, max_iterations=1000, num_restarts=3, batch_size=None)
    """

    name: ClassVar[str] = "em"
    title: ClassVar[str] = "EM"
    belongs_to: ClassVar[str] = "GaussianMixture or a ColumnMixture"
    takes_weight: ClassVar[bool] = True
    takes_missing: ClassVar[bool] = True

    tol: float = 1e-6
    max_iterations: int = 1000
    num_restarts: int = 10
    batch_size: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "tol", checks.positive("tol", self.tol, zero=True))
        object.__setattr__(self, "max_iterations", checks.whole("max_iterations", self.max_iterations))
        object.__setattr__(self, "num_restarts", checks.whole("num_restarts", self.num_restarts, least=0))
        if self.batch_size is not None:
            object.__setattr__(self, "batch_size", checks.whole("batch_size", self.batch_size))

    def run(self, task: Task) -> History:
        """Fit the mixture in place, to a maximum of the likelihood."""
        is_table = isinstance(task.pair, ColumnMixture)
        if is_table and self.batch_size is not None:
            raise ValueError("batch_size is for a GaussianMixture, and this is a ColumnMixture: leave it out")
        climbed: Any = columns.climbed if is_table else partial(fitting.climbed, batch_size=self.batch_size)
        history: History = climbed(
            task.pair,
            task.x,
            task.validation,
            tol=self.tol,
            max_iterations=self.max_iterations,
            num_restarts=self.num_restarts,
            seed=task.seed,
            target=task.device,
            progress=task.progress,
        )
        return history


register_methods(GaussianMixture, EM(), SVI())
register_methods(ColumnMixture, EM())
