"""The variational autoencoder as a Pyro model/guide pair: a prior, a likelihood and a posterior."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, Self, cast

import pyro
import torch
from pyro import poutine
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn

from pyrovae import checks
from pyrovae.columns import Column
from pyrovae.models.batch import Batch
from pyrovae.models.composition import require_fitting
from pyrovae.models.frozen import frozen
from pyrovae.models.imputation import METHODS, draw_missing
from pyrovae.models.items import checked_beside, checked_items, plate_size, require_columns
from pyrovae.models.laws import as_pyro
from pyrovae.models.means import mean_of
from pyrovae.models.missing import SeenEntries, filling_of, require_missing_taken, sees_missing
from pyrovae.models.networks import MLP, ConvDecoder, ConvEncoder, image_shape, require_room, with_parameters
from pyrovae.models.pair import (
    columns_of,
    covariate_dim_of,
    covariates_for,
    dtype_and_device,
    entries_of,
    stand_ins,
    support_of,
)
from pyrovae.models.param_sites import HasParamSites, register_param_sites
from pyrovae.models.particles import latent_law, observed_law, scored
from pyrovae.models.parts.covariates import GivenCovariates, SplitTrunk
from pyrovae.models.parts.encoder_inputs import after_input, encoder_input_of
from pyrovae.models.parts.likelihood import Likelihood, num_parameters_of
from pyrovae.models.parts.linear_normal import LinearNormal
from pyrovae.models.parts.standardizer import in_units, standardize_columns
from pyrovae.models.parts.zuko_flow import ZukoFlow, is_zuko_flow
from pyrovae.models.registry import chosen, make, name_of, plain_name_of, register
from pyrovae.models.scopes import Workspace, evaluating, evaluation_mode, isolated_store
from pyrovae.seeding import Noise, forked, stream
from pyrovae.summary import Rows

__all__ = ["VAE", "LatentVariableModel", "conv_vae", "linear_vae", "mlp_vae"]


class LatentVariableModel(HasParamSites):
    """A pair with one code per item: "latent" ~ prior, "obs" ~ likelihood(z); its guide: "latent" ~ posterior(x).

    A part is a module: `prior()`, `likelihood(z)` and `posterior(x)` give distributions over one item's event.
    `VAE` and `AE` are this pair with other parts. Raises TypeError and ValueError for parts that do not fit each other.
    """

    prior: Any
    likelihood: Any
    posterior: Any
    is_normalized: bool

    def __init__(self, prior: nn.Module, likelihood: nn.Module, posterior: nn.Module) -> None:
        super().__init__()
        kind = type(self)  # a subclass may call its parts in a way of its own
        plain = kind.model is LatentVariableModel.model and kind.guide is LatentVariableModel.guide
        if is_zuko_flow(prior):
            prior = ZukoFlow(prior)
        bind: Any = getattr(prior, "bind", None)
        if (
            bind is not None and hasattr(prior, "latent_dim") and isinstance(posterior, nn.Module)
        ):  # a prior that is made of the posterior, as VampPrior
            bind(posterior, getattr(likelihood, "event_shape", ()), getattr(likelihood, "support", None))
        require_fitting(prior, likelihood, posterior, called=plain)
        self.prior, self.likelihood, self.posterior = prior, likelihood, posterior
        self.latent_dim: int = self.prior.latent_dim
        self.event_shape: tuple[int, ...] = tuple(self.likelihood.event_shape)

    def model(
        self,
        x: Tensor | None = None,
        *,
        size: int = 1,
        covariates: Tensor | None = None,
        exposure: Tensor | None = None,
        missing: bool = False,
    ) -> Tensor:
        """p(x, z): observed where `x` of shape (N, *event_shape) is given, else `size` draws from the prior.

        With `covariates` of shape (N, covariate_dim) it is p(x, z | c); `exposure`, (N,), multiplies the means. With
        `missing` NaN in `x` is an entry that was not seen, and the density is p(x_seen, z).
        """
        missing = checks.flag("missing", missing)
        size = _size(x, size, covariates)
        register_param_sites(f"{self._site_prefix}.likelihood", self.likelihood)
        register_param_sites(f"{self._site_prefix}.prior", self.prior)
        with pyro.plate("data", self._count(x, size)):
            z = pyro.sample("latent", as_pyro(self._prior_given(covariates)))
            p = as_pyro(self._likelihood_given(z, covariates, exposure))
            return pyro.sample("obs", SeenEntries(p, filling_of(self.likelihood)) if missing else p, obs=x)

    def guide(
        self,
        x: Tensor | None = None,
        *,
        size: int = 1,
        covariates: Tensor | None = None,
        exposure: Tensor | None = None,
        missing: bool = False,
    ) -> Tensor:
        """q(z | x), or q(z | x, c); without `x` the prior, since nothing else is known of a code.

        With `missing` NaN in `x` is an entry that was not seen, and it is q(z | x_seen).
        """
        missing = checks.flag("missing", missing)
        if missing and not self.takes_missing:
            require_missing_taken(self)
        size = _size(x, size, covariates)
        if isinstance(x, Tensor) and dtype_and_device(self)[1].type != "meta":
            x = checks.plain(x, "x")
        register_param_sites(f"{self._site_prefix}.posterior", self.posterior)
        with pyro.plate("data", self._count(x, size)):
            q = self._prior_given(covariates) if x is None else self._posterior_given(x, covariates)
            return pyro.sample("latent", as_pyro(q))

    @property
    def covariate_dim(self) -> int:
        """The number of covariates of each item, 0 where the pair is not given any."""
        return max(map(covariate_dim_of, (self.prior, self.likelihood, self.posterior)))

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns of the table whose rows the items are; AttributeError of a pair of other items."""
        columns: tuple[Column, ...] | None = getattr(getattr(self.likelihood, "family", None), "columns", None)
        if columns is None:
            raise AttributeError("columns are those of a table's pair, as table_vae builds")
        return columns

    @property
    def takes_exposure(self) -> bool:
        """Whether the likelihood takes an exposure of each item, by which its means are multiplied."""
        return bool(getattr(self.likelihood, "takes_exposure", False))

    @property
    def takes_missing(self) -> bool:
        """Whether items with missing entries may be given to the guide: the encoder sees which these are."""
        return sees_missing(self.posterior)

    def _prior_given(self, covariates: Tensor | None) -> Any:
        return self.prior(**covariates_for(self.prior, covariates))

    def _likelihood_given(self, z: Tensor, covariates: Tensor | None, exposure: Tensor | None = None) -> Any:
        given = covariates_for(self.likelihood, covariates)
        return self.likelihood(z, **given, **({} if exposure is None else {"exposure": exposure}))

    def _posterior_given(self, x: Tensor, covariates: Tensor | None) -> Any:
        return self.posterior(x, **covariates_for(self.posterior, covariates))

    def encode(self, x: Any, *, covariates: Any = None, exposure: Any = None, missing: Any = None) -> Tensor:
        """The posterior mean of each item's code, never a random draw: (N, *event_shape) -> (N, latent_dim).

        In evaluation mode, whatever mode the pair is in, and differentiable. Of a posterior whose mean has no closed
        form, such as a flow, it is the mean of 512 draws that are always the same. `covariates`, (N, covariate_dim),
        are those of a pair given some; `x` may be a split that carries them. The exposure of counts is no input of the
        package's own encoders. With `missing` True, or a mask, entries of `x` may be NaN, of a pair that was built with
        `missing=True`.
        """
        dtype, device = dtype_and_device(self)
        gathered = checks.split_of(
            x, covariates=covariates, exposure=exposure, missing=missing, takes=("missing", "weight")
        )
        require_columns(self, gathered.columns)
        some = gathered.missing is not None
        if some:
            require_missing_taken(self)
        given = checks.checked_in_own_dtype(
            checks.with_missing(gathered.x, gathered.missing), self.event_shape, allow_nan=some
        )
        allowed: Any = support_of(self)
        name = plain_name_of(entries_of(self))
        if not given.dtype.is_floating_point and checks.lives_in_unit(allowed):
            checks.support(given, allowed, name)
        if columns_of(self) is not None:
            checks.support(given, allowed, name)
        elif checks.is_of_whole_numbers(
            allowed
        ):  # a code that is none would be a row of zeros; a mean of counts will do
            checks.support(given if hasattr(entries_of(self), "probabilities") else given.floor(), allowed, name)
        x = checks.checked_cast(given, dtype).to(device)
        beside = checked_beside(self, gathered.covariates, gathered.exposure, len(x))
        with evaluation_mode(self):
            if self.is_made_of_parts("guide"):
                return mean_of(self._posterior_given(x, beside.get("covariates")))
            with isolated_store():
                return mean_of(latent_law(self.guide, x, **beside, **({"missing": True} if some else {})))

    def decode(self, z: Tensor, *, covariates: Any = None, exposure: Any = None) -> Tensor:
        """The likelihood's mean at a code: (..., latent_dim) -> (..., *event_shape).

        ValueError where entries have no mean, as categories; `probabilities` is for these. Of a table it is a row that
        can be shown: the mean of numbers and counts, the probability of 1 of a binary column, and the most probable
        code where a column is of categories. In evaluation mode, whatever mode the pair is in, and differentiable.
        `covariates`, (D,) for all codes or (N, D) for codes of shape (..., N, latent_dim), are those of a pair given
        some; `exposure`, a number or (N,), is one of counts.
        """
        dtype, device = dtype_and_device(self)
        z = checks.array(z, "z").to(device, dtype)
        if z.shape[-1:] != (self.latent_dim,):
            raise ValueError(f"z must have shape (..., {self.latent_dim}), got {tuple(z.shape)}")
        count = z.shape[-2] if z.ndim > 1 else 1
        beside = checked_beside(self, covariates, exposure, count, spread=True)
        if z.ndim == 1 and beside:
            z = z[None]
            return self.decode(z, covariates=covariates, exposure=exposure)[0]
        with evaluation_mode(self):
            if self.is_made_of_parts("model"):
                return mean_of(self._likelihood_given(z, **_both(beside)))
            if not z.numel():
                return z.new_zeros((*z.shape[:-1], *self.event_shape))
            with isolated_store():
                # hand-written models know one row of covariates for each code
                rows = {name: _row_for_each(value, z.shape[:-1], name) for name, value in beside.items()}
                law = observed_law(self, z.reshape(-1, self.latent_dim), **rows)
            return mean_of(law).reshape(*z.shape[:-1], *self.event_shape)

    def probabilities(self, z: Tensor, *, covariates: Any = None) -> Any:
        """The probability of each category at a code: (..., latent_dim) -> (..., *event_shape, C).

        Of a likelihood of categories, "categorical" or "ordinal", whose entries have no mean to `decode`; ValueError
        for any other. Of a table it is a dictionary with an entry (..., C) for each column that has categories, by the
        column's name. `covariates` as in `decode`. In evaluation mode, whatever mode the pair is in, and
        differentiable.
        """
        entries = entries_of(self)
        of_table = columns_of(self) is not None
        if not of_table and not hasattr(entries, "probabilities"):
            raise ValueError(
                f"probabilities(z) is for a likelihood of categories, 'categorical' or 'ordinal', and this pair's is "
                f"{plain_name_of(entries)!r}: take decode(z), its mean"
            )
        dtype, device = dtype_and_device(self)
        z = checks.array(z, "z").to(device, dtype)
        if z.shape[-1:] != (self.latent_dim,):
            raise ValueError(f"z must have shape (..., {self.latent_dim}), got {tuple(z.shape)}")
        if z.ndim == 1:
            of_one = self.probabilities(z[None], covariates=covariates)
            return {name: table[0] for name, table in of_one.items()} if of_table else of_one[0]
        beside = checked_beside(self, covariates, None, z.shape[-2], spread=True)
        with evaluation_mode(self):
            p = self._likelihood_given(z, **_both(beside))
        of_entries = getattr(p, "base_dist", p)
        return entries.by_column(of_entries) if of_table else entries.probabilities(of_entries)

    def reconstruct(self, x: Any, *, covariates: Any = None, exposure: Any = None, missing: Any = None) -> Tensor:
        """`decode(encode(x))`, of x's shape: in evaluation mode and differentiable, as both are.

        `x` may be a split with covariates and an exposure, or these come by keyword; both steps are given them. With
        missing entries, as in `encode`, all entries of the result are the decoder's.
        """
        given = checks.split_of(
            x, covariates=covariates, exposure=exposure, missing=missing, takes=("missing", "weight")
        )
        return self.decode(self.encode(given), **given.beside)

    def frozen(self) -> Self:
        """A copy that nothing trains, for a Pyro model of your own: see `pyrovae.models.frozen.frozen`.

        Its parameters are buffers, and it stays in evaluation mode. Gradients flow through codes and items, and not to
        its weights. `fit` refuses it; the estimators take it.
        """
        return frozen(self)

    def _summary_of_parts(self) -> Rows:
        return {
            "latent_dim": lambda: self.latent_dim,
            "likelihood": lambda: None if entries_of(self) is None else name_of(entries_of(self)),
            "prior": lambda: name_of(self.prior),
            "posterior": lambda: name_of(self.posterior),
        }

    def is_made_of_parts(self, name: Literal["model", "guide"]) -> bool:
        """Whether `model` or `guide` is that of this class, which the parts make; a subclass may state its own."""
        return getattr(getattr(self, name), "__func__", None) is getattr(LatentVariableModel, name)

    def _is_what_its_parts_make(self) -> bool:
        """Whether model and guide have the densities of the parts, by their class or, of a subclass, at a few draws."""
        if self.is_made_of_parts("model") and self.is_made_of_parts("guide"):
            return True
        device = dtype_and_device(self)[1]
        with Workspace(self, noise=Noise(0, device)).turn():
            c = stand_ins(self, 4).get("covariates")
            z = self._prior_given(c).expand((4,)).sample()
            p = self._likelihood_given(z, c)
            x = p.sample()
            table = scored(self, Batch.of(x, c), z[None])
            log_prior = self._prior_given(c).log_prob(z)
            parts = (p.log_prob(x), log_prior, self._posterior_given(x, c).log_prob(z))
        tables = (table.log_likelihood, table.log_prior, table.log_guide)
        pairs = zip(tables, parts, strict=True)
        return all(torch.allclose(one[0], other, rtol=1e-4, atol=1e-4, equal_nan=True) for one, other in pairs)

    def _count(self, x: Tensor | None, size: int) -> int:
        # log_prob would broadcast (N, H, W) against (N, 1, H, W) into an N x N table without a word
        count = plate_size(x, size, self.event_shape)
        if x is not None and tuple(x.shape[1:]) != self.event_shape:
            raise ValueError(f"x must have shape (N, {', '.join(map(str, self.event_shape))}), got {tuple(x.shape)}")
        return count


def _size(x: Any, size: Any, covariates: Any) -> Any:
    """The number of items that are drawn: that of the covariates' rows, where no other is said."""
    if x is not None or covariates is None or not isinstance(size, int) or size != 1:
        return size
    if not isinstance(covariates, Tensor) or (not covariates.is_nested and not covariates.ndim):
        raise TypeError(f"covariates must be a tensor, a row for each item, got {type(covariates).__name__}")
    checks.dense(covariates, "covariates")
    return len(covariates)


class VAE(LatentVariableModel):
    """A variational autoencoder: p(x, z) = p(z) p(x | z) and its encoder q(z | x) (Kingma and Welling 2014, section 3).

    Args: `prior`, a module with `latent_dim` and `prior() -> p(z)`; `likelihood`, with `event_shape`, `support` and
    `likelihood(z) -> p(x | z)`; `posterior`, with `posterior(x) -> q(z | x)`. `mlp_vae`, `conv_vae` and `linear_vae`
    build one. Log-densities are in nats per item. A part that does not fit the others, such as a plain network as the
    posterior or codes of another size, is named as the pair is built: TypeError or ValueError.

    >>> import torch
    >>> from torch import nn
    >>> from pyrovae import VAE, Likelihood, LinearNormal, Normal, StandardNormal
    >>> vae = VAE(
    ...     StandardNormal(2),
    ...     Likelihood(nn.Linear(2, 5), Normal(scale=1.0), (5,)),
    ...     LinearNormal(5, 2),
    ... )
    >>> vae.encode(torch.zeros(7, 5)).shape, vae.decode(torch.zeros(3, 4, 2)).shape
    (torch.Size([7, 2]), torch.Size([3, 4, 5]))
    """

    is_normalized = True

    @checks.allocating
    def sample(
        self, n: int, *, seed: int | None = None, mean: bool = False, covariates: Any = None, exposure: Any = None
    ) -> Tensor:
        """`n` draws from p(x), shape (n, *event_shape): a code from the prior, then an item from the likelihood.

        With `mean` the likelihood's mean takes the place of the last draw, which is what pictures show. Without a
        `seed` torch's global generator goes on. A pair given covariates draws from p(x | c): `covariates` is a row for
        each of the n items, (n, covariate_dim), or one for all of them, (covariate_dim,); so is `exposure`, of counts.
        Raises ValueError for n below 1, and for covariates that are missing or misshapen.

        >>> from pyrovae import mlp_vae
        >>> mlp_vae((3,)).sample(4, seed=0).shape
        torch.Size([4, 3])
        """
        dtype, device = dtype_and_device(self)
        checks.whole("n", n, bytes_each=dtype.itemsize * (self.latent_dim + math.prod(self.event_shape)), device=device)
        key = None if seed is None else stream(checks.seed(seed), "sample")
        beside = checked_beside(self, covariates, exposure, n, spread=True)
        with evaluating(self), forked(key, device):
            if self.is_made_of_parts("model"):
                prior = self._prior_given(beside.get("covariates"))
                z = prior.sample(() if prior.batch_shape else (n,))
                p: TorchDistribution = self._likelihood_given(z, **_both(beside))
                return mean_of(p) if mean else p.sample()
            with isolated_store():
                obs = poutine.trace(self.model).get_trace(size=n, **beside).nodes["obs"]
            return mean_of(obs["fn"]) if mean else obs["value"]

    @checks.allocating
    def impute(
        self,
        x: Any,
        *,
        num_draws: int = 100,
        seed: int = 0,
        num_steps: int = 100,
        method: str = "mcmc",
        covariates: Any = None,
        exposure: Any = None,
    ) -> Tensor:
        """Draws from p(x_missing | x_seen), the likelihood's noise included: shape (num_draws, N, *event_shape).

        NaN in `x`, shape (N, *event_shape), is missing; seen entries come back unchanged in the pair's dtype. A row
        wholly missing gives draws from p(x). The code behind a draw comes from p(z | x_seen) by one of three methods,
        each exact as `num_steps` grows:

        - "mcmc": a Markov chain of `num_steps` decodings for each draw, which proposes from the conditional's modes
          (Mattei and Frellsen 2018, algorithm 1). The default is meant for a conditional of few modes, as a trained
          network's is; for one of plateaus and cliffs raise it until what is computed from the draws stays.
        - "sir": `num_draws * num_steps` candidates from the encoder and the prior, resampled by importance weights. The
          encoder sees the item completed in several ways, and as it is where it takes missing entries. Warns where the
          effective sample size is below `num_draws`.
        - "nuts": Pyro's No-U-Turn sampler, `num_steps` of warm-up. Its draws are dependent, and it does not cross
          between separate modes. Warns where chains have not met or steps diverged.

        The mean over draws imputes once; all of them keep the uncertainty (see `pyrovae.models.imputation`). Raises
        ValueError for seen values outside the likelihood's support, for counts below 1, for an unknown method, and for
        a likelihood whose entries are not independent given the code.

        >>> import torch
        >>> from pyrovae import mlp_vae
        >>> x = torch.tensor([[1.0, torch.nan, 0.0], [torch.nan, torch.nan, 1.0]])
        >>> draws = mlp_vae((3,)).impute(x, num_draws=5)
        >>> draws.shape, draws[:, 0, 0]
        (torch.Size([5, 2, 3]), tensor([1., 1., 1., 1., 1.]))
        """
        if not self._is_what_its_parts_make():
            raise ValueError(
                f"impute goes by prior, likelihood and posterior, and {type(self).__name__} states a model or a guide "
                "of its own: sample from its posterior by pyro.infer.MCMC with pyro.poutine.condition"
            )
        checks.whole("num_draws", num_draws)
        checks.whole("num_steps", num_steps)
        checks.choice("method", method, METHODS)
        checks.seed(seed)
        _, device = dtype_and_device(self)
        given = checks.split_of(x, covariates=covariates, exposure=exposure, takes=("missing", "weight"))
        require_columns(self, given.columns)
        x = checked_items(self, checks.with_missing(given.x, given.missing), missing=True).to(device)
        beside = checked_beside(self, given.covariates, given.exposure, len(x))
        checks.whole("num_draws", num_draws, bytes_each=x.numel() * x.element_size(), device=device)
        noise = Noise(stream(seed, "impute"), device)
        parts = (self.prior, self.likelihood, self.posterior)
        return draw_missing(
            *parts,
            x,
            num_draws=num_draws,
            num_steps=num_steps,
            noise=noise,
            method=method,
            covariates=beside.get("covariates"),
            exposure=beside.get("exposure"),
        )


@register("mlp_vae", kind="builder")
def mlp_vae(
    event_shape: Sequence[int],
    latent_dim: int = 2,
    *,
    hidden_dims: Sequence[int] = (400,),
    activation: str = "softplus",
    likelihood: str | nn.Module = "bernoulli",
    posterior: str | nn.Module = "diagonal",
    prior: str | nn.Module = "standard",
    covariate_dim: int = 0,
    missing: bool = False,
    standardize: bool = False,
) -> VAE:
    """A VAE of fully connected networks; the decoder has the encoder's hidden layers in reverse order.

    `likelihood`, `posterior` and `prior` are names, such as "normal" or "normal(scale=0.5)", or modules. `likelihood`
    is "bernoulli", "continuous_bernoulli", "normal" (identity mean, learned scale), another of `docs/parts.md`, a name
    that you have registered, or a family module such as `Normal(scale=0.626)`; the decoder has as many outputs an entry
    as the family has parameters. With `covariate_dim` D the pair is p(x | c) of items given covariates, (N, D), which
    decoder and encoder see beside their input, and the prior where it is "conditional". With `missing` the encoder sees
    items of which entries are missing: zero in place of each, and a mask of what was seen beside them.

    With `standardize` the networks see each column, or each channel of images, in standard deviations from its mean,
    and a learned scale is relative to its standard deviation: `fit` measures both on the training items, and log p(x)
    stays in the items' units. It is for likelihoods of real values ("normal", "student_t", "laplace",
    "heteroscedastic_normal"), and of positive ones by their logarithms ("log_normal", "gamma"). Raises ValueError for
    sizes below 1 and for unknown names.

    >>> import torch
    >>> from pyrovae import mlp_vae
    >>> mlp_vae((1, 8, 8), latent_dim=3).encode(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5, 3])
    """
    latent_dim = checks.whole("latent_dim", latent_dim)
    entries = family(likelihood)
    covariate_dim = checks.whole("covariate_dim", covariate_dim, least=0)
    standardize_columns(entries, event_shape, standardize)
    shape, widths, decoder = mlp_decoder(event_shape, latent_dim + covariate_dim, hidden_dims, activation, entries)
    return VAE(
        _prior(prior, latent_dim, covariate_dim),
        Likelihood(in_units(decoder, entries, shape), entries, shape, covariate_dim),
        _posterior(
            posterior,
            lambda: mlp_trunk(shape, widths, activation, entries, covariate_dim, missing=missing),
            latent_dim,
            shape,
            covariate_dim,
        ),
    )


@register("conv_vae", kind="builder")
def conv_vae(
    event_shape: Sequence[int],
    latent_dim: int = 2,
    *,
    channels: Sequence[int] = (32, 64, 64, 64),
    strides: Sequence[int] = (1, 2, 2, 1),
    likelihood: str | nn.Module = "bernoulli",
    posterior: str | nn.Module = "diagonal",
    prior: str | nn.Module = "standard",
    covariate_dim: int = 0,
    missing: bool = False,
    standardize: bool = False,
) -> VAE:
    """A VAE of strided convolutions for images (C, H, W) of any size, LeakyReLU(0.3): the post's network.

    (Foster 2019, chapter 3.) `likelihood` as in `mlp_vae`, except that "normal" keeps its mean in [0, 1] by a sigmoid,
    as an image's is, unless its channels are standardised. `covariate_dim`, `missing` and `standardize` as there; the
    encoder's heads see the covariates beside the features of the last convolution, and its first convolution the mask
    as more channels. Raises ValueError for another event shape and for sizes below 1.

    >>> import torch
    >>> from pyrovae import conv_vae
    >>> conv_vae((3, 9, 7)).reconstruct(torch.zeros(2, 3, 9, 7)).shape
    torch.Size([2, 3, 9, 7])
    """
    latent_dim = checks.whole("latent_dim", latent_dim)
    entries = family(likelihood, of_images=not standardize)
    covariate_dim = checks.whole("covariate_dim", covariate_dim, least=0)
    standardize_columns(entries, event_shape, standardize)
    encoder, trunk, features = conv_trunk(event_shape, channels, strides, entries, covariate_dim, missing=missing)
    decoder = ConvDecoder(encoder, latent_dim + covariate_dim, num_parameters_of(entries))
    shape = encoder.event_shape
    return VAE(
        _prior(prior, latent_dim, covariate_dim),
        Likelihood(in_units(decoder, entries, shape), entries, shape, covariate_dim),
        _posterior(posterior, lambda: (trunk, features), latent_dim, shape, covariate_dim),
    )


@register("linear_vae", kind="builder")
def linear_vae(
    features: int,
    latent_dim: int,
    *,
    likelihood: str | nn.Module = "normal",
    posterior: str | nn.Module | None = None,
    prior: str | nn.Module = "standard",
    covariate_dim: int = 0,
    missing: bool = False,
    standardize: bool = False,
) -> VAE:
    """Probabilistic PCA as a VAE: x = W z + mu + e, e ~ N(0, s^2 I), with q(z | x) = N(A x + b, diag).

    Its log p(x) has a closed form, and at the maximum of the likelihood its ELBO touches it (Tipping and Bishop 1999,
    section 3; Lucas et al. 2019). `posterior` None is that `LinearNormal`; one that is asked for by name has no network
    before it. With `covariate_dim` D it is x = W z + V c + mu + e, and A x + B c + b in q(z | x, c). With `missing` x
    is zero in q(z | x) where an entry is missing, and a mask of what was seen stands beside it. `standardize` as in
    `mlp_vae`: e is then of one variance for standardised columns. Raises ValueError for sizes below 1 and for unknown
    names.

    >>> import torch
    >>> from pyrovae import linear_vae
    >>> linear_vae(13, 2).encode(torch.zeros(4, 13)).shape
    torch.Size([4, 2])
    """
    features, latent_dim = checks.whole("features", features), checks.whole("latent_dim", latent_dim)
    entries = family(likelihood)
    out_shape = output_shape(entries, (features,))
    require_room({"features": features, "latent_dim": latent_dim}, [features, latent_dim, math.prod(out_shape)])
    covariate_dim = checks.whole("covariate_dim", covariate_dim, least=0)
    rows, shape = latent_dim + covariate_dim, (features,)
    standardize_columns(entries, shape, standardize)
    several = out_shape != shape
    decoder = MLP((rows,), out_shape, hidden_dims=()) if several else nn.Linear(rows, features)
    code_prior = _prior(prior, latent_dim, covariate_dim)
    p_of_x = Likelihood(in_units(decoder, entries, shape), entries, shape, covariate_dim)
    seen, (columns,) = encoder_input_of(entries, shape, missing=missing)
    if covariate_dim:
        seen, columns = SplitTrunk(seen, None, shape), columns + covariate_dim
    if posterior is None:
        q: nn.Module = LinearNormal(columns, latent_dim, network=seen)
        q = GivenCovariates(q, shape, covariate_dim, latent_dim) if covariate_dim else q
        return VAE(code_prior, p_of_x, q)
    trunk = seen or nn.Identity()
    return VAE(code_prior, p_of_x, _posterior(posterior, lambda: (trunk, columns), latent_dim, shape, covariate_dim))


def family(likelihood: str | nn.Module, *, of_images: bool = False) -> nn.Module:
    """The likelihood's family by name, or a copy of the module, since two pairs must not share a scale.

    Of images, a family that is asked for by name has the arguments that its class states for them.
    """
    if isinstance(likelihood, nn.Module):
        return copy.deepcopy(likelihood)
    made, stated = chosen("likelihood", likelihood)
    options = getattr(made, "image_arguments", {}) if of_images else {}
    return cast(nn.Module, made(**{**options, **stated}))


def mlp_decoder(
    event_shape: Sequence[int], latent_dim: int, hidden_dims: Sequence[int], activation: str, entries: nn.Module
) -> tuple[tuple[int, ...], tuple[int, ...], nn.Module]:
    """The checked event shape and widths, and the decoder with hidden layers of these widths in reverse order.

    It has an output for each parameter of an entry, as the family `entries` says.
    """
    shape, widths = checks.sizes("event_shape", event_shape), checks.sizes("hidden_dims", hidden_dims, one=False)
    if not widths:
        raise ValueError("hidden_dims must name at least one width, got (); a network without one is linear_vae")
    out_shape = output_shape(entries, shape)
    require_room(
        {"event_shape": shape, "latent_dim": latent_dim, "hidden_dims": widths},
        [math.prod(shape), *widths, latent_dim, *widths[::-1], math.prod(out_shape)],
    )
    return shape, widths, MLP((latent_dim,), out_shape, hidden_dims=widths[::-1], activation=activation)


def output_shape(entries: nn.Module, event_shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of what a decoder gives for an item: an output for each parameter of an entry.

    A family whose entries have unlike numbers of parameters states `outputs`, the size of one row of all of them.
    """
    outputs: int | None = getattr(entries, "outputs", None)
    return with_parameters(event_shape, num_parameters_of(entries)) if outputs is None else (outputs,)


def mlp_trunk(
    event_shape: tuple[int, ...],
    hidden_dims: tuple[int, ...],
    activation: str,
    entries: nn.Module,
    covariate_dim: int = 0,
    *,
    missing: bool = False,
) -> tuple[nn.Module, int]:
    """The layers of an encoder up to the last hidden one, behind what the family wants it to see; and its width.

    With covariates it takes rows of an item and these, as `GivenCovariates` makes them.
    """
    *inner, features = hidden_dims
    seen, shape = encoder_input_of(entries, event_shape, missing=missing)
    in_shape = (math.prod(shape) + covariate_dim,) if covariate_dim else shape
    trunk = MLP(in_shape, (features,), hidden_dims=inner, activation=activation, activate_last=True)
    if covariate_dim:
        return SplitTrunk(seen, trunk, event_shape), features
    return after_input(seen, trunk), features


def conv_trunk(
    event_shape: Sequence[int],
    channels: Sequence[int],
    strides: Sequence[int],
    entries: nn.Module,
    covariate_dim: int = 0,
    *,
    missing: bool = False,
) -> tuple[ConvEncoder, nn.Module, int]:
    """The convolutions of an encoder, the same behind what the family wants it to see, and the number of features.

    With covariates the second takes rows of an item and these, as `GivenCovariates` makes them.
    """
    seen, (in_channels, *_) = encoder_input_of(entries, image_shape(event_shape), missing=missing)
    encoder = ConvEncoder(event_shape, channels=channels, strides=strides, in_channels=in_channels)
    trunk = after_input(seen, encoder)
    if covariate_dim:
        return encoder, SplitTrunk(trunk, None, encoder.event_shape), encoder.features + covariate_dim
    return encoder, trunk, encoder.features


def _prior(prior: str | nn.Module, latent_dim: int, covariate_dim: int) -> nn.Module:
    """The prior; one given covariates is told their number."""
    if isinstance(prior, nn.Module):
        return prior
    made, _ = chosen("prior", prior)
    takes = "covariate_dim" in inspect.signature(made).parameters
    return make("prior", prior, latent_dim, **({"covariate_dim": covariate_dim} if takes else {}))


def _posterior(
    posterior: str | nn.Module,
    trunk: Callable[[], tuple[nn.Module, int]],
    latent_dim: int,
    event_shape: tuple[int, ...],
    covariate_dim: int,
) -> nn.Module:
    """The posterior; a trunk is built only where it is asked for by name."""
    if is_zuko_flow(posterior):
        flow = ZukoFlow(cast(nn.Module, posterior), trunk()[0])
        return GivenCovariates(flow, event_shape, covariate_dim, latent_dim) if covariate_dim else flow
    if isinstance(posterior, nn.Module):
        return posterior
    made, stated = chosen("posterior", posterior)
    network, features = trunk()
    part = cast(nn.Module, made(network, features, latent_dim, **stated))
    return GivenCovariates(part, event_shape, covariate_dim, latent_dim) if covariate_dim else part


def _both(beside: dict[str, Tensor]) -> dict[str, Tensor | None]:
    """The arguments of a likelihood beside the code."""
    return {"covariates": beside.get("covariates"), "exposure": beside.get("exposure")}


def _row_for_each(value: Tensor, leading: torch.Size, name: str) -> Tensor:
    """Covariates or exposures of N items for codes of leading shape (..., N), flat."""
    own = value.shape[1:]
    return value.expand(*leading, *own).reshape(-1, *own)
