"""Autoencoders and VAEs as scikit-learn's transformers: columns to codes and back; a VAE is a density as well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
import torch

from pyrovae import checks
from pyrovae.models.autoencoder import mlp_ae
from pyrovae.models.parts.standardizer import Standardizable, standardizer_of
from pyrovae.models.vae import family, mlp_vae
from pyrovae.sklearn.base import as_numpy, mean_of
from pyrovae.sklearn.codes import CodeDensityMixin, CodeMixin
from pyrovae.sklearn.rows import ArrayEstimator

__all__ = ["AE", "VAE"]


@dataclass(repr=False, eq=False)
class VAE(CodeMixin, CodeDensityMixin, ArrayEstimator):
    """A variational autoencoder of fully connected networks, as a transformer and a density.

    `transform` gives the mean of q(z | x), `inverse_transform` the likelihood's mean at a code, `score_samples` log
    p(x) of each row in nats, and `sample` draws of p(x). The networks compute in the dtype of the `X` that they are
    fitted to, float64 or float32.

    Args:
        latent_dim, hidden_dims, activation, likelihood, posterior, prior: as of `pyrovae.mlp_vae`. The likelihood's
            default is for real columns, with a learned scale of each.
        standardize: True lets the networks see each column in standard deviations from its mean, measured on the rows
            of the fit; log p(x) stays in the units of X. "auto" does so for the likelihoods that can.
        missing: True takes NaN for an entry that was not seen, in `fit` and everywhere else, and log p(x) is then that
            of the seen entries. Without it NaN is an error.
        epochs, batch_size, learning_rate: as of `pyrovae.methods.SVI`.
        num_particles: draws for each row, from which `score_samples` estimates log p(x).
        random_state: an integer is the seed of `pyrovae.fit` and `pyrovae.iwae`, and the initial weights are those
            after `torch.manual_seed` with it. None or a `RandomState` draws such a seed in each fit, which is `seed_`.
        warm_start: a second `fit` goes on from the parameters of the first.
        device: as of `pyrovae.fit`.
        fit_options: further options of `pyrovae.fit`, as {"beta": 0.5, "schedule": "cosine"}.

    Attributes: `pair_`, the `pyrovae.VAE`; `history_`, the `pyrovae.History` of the fit; `seed_`; `n_features_in_`;
    `feature_names_in_` where X had names.

    (Kingma and Welling 2014.)

    >>> import numpy as np
    >>> from pyrovae.sklearn import VAE
    >>> X = np.random.default_rng(0).normal(size=(20, 3))
    >>> vae = VAE(latent_dim=1, hidden_dims=(8,), epochs=1, random_state=0).fit(X)
    >>> vae.transform(X).shape, vae.score_samples(X).shape, vae.get_feature_names_out().tolist()
    ((20, 1), (20,), ['vae0'])
    """

    latent_dim: int = 2
    _: KW_ONLY
    hidden_dims: Sequence[int] = (128,)
    activation: str = "softplus"
    likelihood: Any = "normal(per_entry=True)"
    posterior: Any = "diagonal"
    prior: Any = "standard"
    standardize: Any = "auto"
    missing: bool = False

    _of_pair = ("latent_dim", "hidden_dims", "activation", "likelihood", "posterior", "prior", "standardize", "missing")

    def _new_pair(self, event_shape: tuple[int, ...]) -> Any:
        options = self._options_of_pair()
        if isinstance(self.standardize, str):
            checks.choice("standardize", self.standardize, ("auto",))
            options["standardize"] = _has_units(self.likelihood)
        return mlp_vae(event_shape, **options)


@dataclass(repr=False, eq=False)
class AE(CodeMixin, ArrayEstimator):
    """A deterministic autoencoder of fully connected networks, as a transformer.

    `transform` gives the code of each row, and `inverse_transform` decodes it. It has no p(x): its `score` is the
    negative mean squared error of reconstructions. The networks compute in the dtype of the `X` that they are fitted
    to.

    Args:
        latent_dim, hidden_dims, activation, likelihood: as of `pyrovae.mlp_ae`; the likelihood None is squared error.
        epochs, batch_size, learning_rate, random_state, warm_start, device, fit_options: as of `pyrovae.sklearn.VAE`.

    Attributes: `pair_`, the `pyrovae.AE`; `history_`; `seed_`; `n_features_in_`; `feature_names_in_` where X had names.

    >>> import numpy as np
    >>> from pyrovae.sklearn import AE
    >>> X = np.random.default_rng(0).normal(size=(20, 3))
    >>> ae = AE(latent_dim=2, hidden_dims=(8,), epochs=1, random_state=0).fit(X)
    >>> ae.inverse_transform(ae.transform(X)).shape, ae.score(X) < 0
    ((20, 3), True)
    """

    latent_dim: int = 2
    _: KW_ONLY
    hidden_dims: Sequence[int] = (128,)
    activation: str = "softplus"
    likelihood: Any = None

    _of_pair = ("latent_dim", "hidden_dims", "activation", "likelihood")

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """The negative mean over rows and columns of the squared error of reconstructions. `y` is ignored."""
        x = self._checked_if_fitted(X)
        with torch.no_grad():
            return mean_of(-np.square(x - as_numpy(self.pair_.reconstruct(x))).mean(1), sample_weight)

    def _new_pair(self, event_shape: tuple[int, ...]) -> Any:
        return mlp_ae(event_shape, **self._options_of_pair())


def _has_units(likelihood: Any) -> bool:
    """Whether a likelihood can go by the location and scale of each column."""
    entries = family(likelihood)
    is_free = isinstance(entries, Standardizable) and getattr(entries, "link", "identity") == "identity"
    return is_free and standardizer_of(entries) is None
