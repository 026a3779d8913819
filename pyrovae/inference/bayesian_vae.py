"""SVI for a VAE with a distribution over its decoder's weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pyrovae.inference.history import History
from pyrovae.inference.method import Task, register_methods
from pyrovae.inference.svi.options import SVI
from pyrovae.models.bayesian_vae import BayesianVAE

__all__ = ["SVIOfWeights"]


@dataclass(frozen=True)
class SVIOfWeights(SVI):
    """SVI with one draw of the weights in each step, which all items of the batch share."""

    is_shown: ClassVar[bool] = False
    takes_validation: ClassVar[bool] = False

    def run(self, task: Task) -> History:
        """Fit guide, encoder and the parameters beside the weights."""
        if task.validation is not None:
            raise ValueError(
                "validation is not for a BayesianVAE, whose items share its weights: pair.log_likelihood(held_out) is "
                "log p(x) at draws of them"
            )
        if (self.num_particles or 1) > 1 or self.objective != "elbo":
            raise ValueError(
                "num_particles and objective='iwae' are not for a BayesianVAE, whose items share one draw of the "
                "weights in each step: leave them out"
            )
        return super().run(task)


register_methods(BayesianVAE, SVIOfWeights())
