"""Latent-variable models as Pyro model/guide pairs, and what a fitted one is worth in numbers known to be true."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# resolved on first use: `import pyrovae` alone brings in not even torch
_HOMES = {
    "pyrovae.models.vae": ["VAE", "conv_vae", "linear_vae", "mlp_vae"],
    "pyrovae.models.autoencoder": ["AE", "conv_ae", "mlp_ae"],
    "pyrovae.models.distributions": ["Bernoulli", "ContinuousBernoulli", "Normal"],
    "pyrovae.inference.svi": ["History", "PosteriorCollapseWarning", "fit"],
    "pyrovae.inference.checkpoint": ["CheckpointError", "load", "save"],
    "pyrovae.evaluation.evidence": ["Estimate", "elbo"],
    "pyrovae.evaluation.latent": ["Judge", "active_units", "crispness", "reconstruction_error"],
    "pyrovae.evaluation.code_space": ["code_space", "decoded", "encoded"],
    "pyrovae.evaluation.comparison": ["paired_interval", "verdicts"],
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
_ROOMS = ("data", "evaluation", "inference", "models", "plotting")

__all__ = [*_HOME_OF, *_ROOMS]

if TYPE_CHECKING:
    from pyrovae import data, evaluation, inference, models, plotting
    from pyrovae.evaluation.code_space import code_space, decoded, encoded
    from pyrovae.evaluation.comparison import paired_interval, verdicts
    from pyrovae.evaluation.evidence import Estimate, elbo
    from pyrovae.evaluation.latent import Judge, active_units, crispness, reconstruction_error
    from pyrovae.inference.checkpoint import CheckpointError, load, save
    from pyrovae.inference.svi import History, PosteriorCollapseWarning, fit
    from pyrovae.models.autoencoder import AE, conv_ae, mlp_ae
    from pyrovae.models.distributions import Bernoulli, ContinuousBernoulli, Normal
    from pyrovae.models.vae import VAE, conv_vae, linear_vae, mlp_vae


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        value = getattr(import_module(_HOME_OF[name]), name)
    elif name in _ROOMS:
        value = import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
