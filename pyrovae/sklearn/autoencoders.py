"""Autoencoders and VAEs as scikit-learn's transformers: columns to codes and back; a VAE is a density as well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, DensityMixin, TransformerMixin
from sklearn.utils.validation import check_array, check_is_fitted

from pyrovae import checks
from pyrovae.evaluation.evidence import iwae
from pyrovae.models.autoencoder import mlp_ae
from pyrovae.models.parts.standardizer import Standardizable, standardizer_of
from pyrovae.models.vae import family, mlp_vae
from pyrovae.seeding import forked
from pyrovae.sklearn.base import FLOATS, PairEstimator, as_numpy, counted, mean_of, seed_of

__all__ = ["AE", "VAE"]


def _vae(event_shape: tuple[int, ...], *, standardize: Any, likelihood: Any, **options: Any) -> Any:
    """A VAE that is standardised where `standardize` is True, or "auto" and its likelihood can be."""
    if isinstance(standardize, str):
        checks.choice("standardize", standardize, ("auto",))
        entries = family(likelihood)
        has_units = isinstance(entries, Standardizable) and getattr(entries, "link", "identity") == "identity"
        standardize = has_units and standardizer_of(entries) is None
    return mlp_vae(event_shape, standardize=standardize, likelihood=likelihood, **options)


class CodeMixin(ClassNamePrefixFeaturesOutMixin, TransformerMixin):
    """A pair with a code for each row: columns to codes by `transform`, codes to columns by `inverse_transform`."""

    _builder: Any  # of the pair, which takes these parameters
    _of_pair: tuple[str, ...]

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Fit to the rows of `X`, shape (n_samples, n_features); `y` is ignored.

        `sample_weight`, (n_samples,), says how many times each row counts in the loss: 0 is a row that is not there.
        Raises ValueError for rows that are not finite, for fewer than two of them, for values outside the likelihood's
        support, and for weights that are negative or all 0.
        """
        goes_on = self._goes_on(*self._of_pair)
        x = self._checked(X, reset=not goes_on, least=2)
        seed = seed_of(self.random_state)
        places, weight = counted(x, sample_weight)
        pair = self.pair_ if goes_on else self._built(x, seed)
        self._fit_pair(
            pair,
            x[places],
            weight=weight,
            seed=seed,
            device=self.device,
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
        )
        self.seed_ = seed
        return self

    def transform(self, X: Any) -> np.ndarray:
        """The code of each row, shape (n_samples, latent_dim); of a VAE the mean of q(z | x), never a draw."""
        x = self._checked_if_fitted(X)
        with torch.no_grad():
            return as_numpy(self.pair_.encode(x, **self._said_missing()))

    def inverse_transform(self, Z: Any) -> np.ndarray:
        """The likelihood's mean at each code: (n_samples, latent_dim) to (n_samples, n_features)."""
        check_is_fitted(self)
        codes = check_array(Z, dtype=FLOATS, input_name="Z")
        with torch.no_grad():
            return as_numpy(self.pair_.decode(torch.from_numpy(np.array(codes))))

    def _built(self, x: np.ndarray, seed: int) -> Any:
        """A new pair in the dtype of `x`, with the initial weights that follow `torch.manual_seed(seed)`."""
        with forked(seed):
            return self._new_pair(x.shape[1:]).to(torch.from_numpy(np.empty(0, x.dtype)).dtype)

    def _new_pair(self, event_shape: tuple[int, ...]) -> Any:
        return self._builder(event_shape, **{name: getattr(self, name) for name in self._of_pair})

    def _said_missing(self) -> dict[str, bool]:
        return {"missing": True} if self._takes_missing() else {}

    @property
    def _n_features_out(self) -> int:
        return int(self.pair_.latent_dim)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]  # of the X of the fit
        return tags


class VAE(CodeMixin, DensityMixin, PairEstimator):
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

    _builder = staticmethod(_vae)
    _of_pair = ("latent_dim", "hidden_dims", "activation", "likelihood", "posterior", "prior", "standardize", "missing")

    def __init__(
        self,
        latent_dim: int = 2,
        *,
        hidden_dims: Sequence[int] = (128,),
        activation: str = "softplus",
        likelihood: Any = "normal(per_entry=True)",
        posterior: Any = "diagonal",
        prior: Any = "standard",
        standardize: Any = "auto",
        missing: bool = False,
        epochs: int = 200,
        batch_size: int = 128,
        learning_rate: float = 1e-3,
        num_particles: int = 100,
        random_state: Any = None,
        warm_start: bool = False,
        device: str = "auto",
        fit_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.latent_dim = latent_dim
        self.hidden_dims = hidden_dims
        self.activation = activation
        self.likelihood = likelihood
        self.posterior = posterior
        self.prior = prior
        self.standardize = standardize
        self.missing = missing
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.num_particles = num_particles
        self.random_state = random_state
        self.warm_start = warm_start
        self.device = device
        self.fit_options = fit_options

    def score_samples(self, X: Any) -> np.ndarray:
        """log p(x) of each row in nats, (n_samples,): `pyrovae.iwae` with `num_particles` draws and the seed `seed_`.

        It is a lower bound in expectation, and its noise belongs to the place of a row. `pyrovae.iwae(vae.pair_, X)`
        says its error as well.
        """
        x = self._checked_if_fitted(X)
        options: dict[str, Any] = {"num_particles": self.num_particles, "seed": self.seed_, **self._said_missing()}
        values: np.ndarray = iwae(self.pair_, x, **options).pointwise["value"].values
        return values

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """The mean of `score_samples`, in nats per row: higher is better. `y` is ignored."""
        return mean_of(self.score_samples(X), sample_weight)

    def sample(self, n_samples: int = 1) -> np.ndarray:
        """`n_samples` draws of p(x), shape (n_samples, n_features).

        An integer `random_state` gives the same draws each time.
        """
        check_is_fitted(self)
        return as_numpy(self.pair_.sample(n_samples, seed=seed_of(self.random_state)))


class AE(CodeMixin, PairEstimator):
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

    _builder = staticmethod(mlp_ae)
    _of_pair = ("latent_dim", "hidden_dims", "activation", "likelihood")

    def __init__(
        self,
        latent_dim: int = 2,
        *,
        hidden_dims: Sequence[int] = (128,),
        activation: str = "softplus",
        likelihood: Any = None,
        epochs: int = 200,
        batch_size: int = 128,
        learning_rate: float = 1e-3,
        random_state: Any = None,
        warm_start: bool = False,
        device: str = "auto",
        fit_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.latent_dim = latent_dim
        self.hidden_dims = hidden_dims
        self.activation = activation
        self.likelihood = likelihood
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.random_state = random_state
        self.warm_start = warm_start
        self.device = device
        self.fit_options = fit_options

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """The negative mean over rows and columns of the squared error of reconstructions. `y` is ignored."""
        x = self._checked_if_fitted(X)
        with torch.no_grad():
            return mean_of(-np.square(x - as_numpy(self.pair_.reconstruct(x))).mean(1), sample_weight)
