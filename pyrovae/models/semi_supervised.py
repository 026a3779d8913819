"""A generative classifier with a code and a label, for items of which few have a label."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints

from pyrovae import checks
from pyrovae.exclusive import exclusive
from pyrovae.models.classifiers.classes import Classifier, drawn_of_class, named_classes
from pyrovae.models.items import checked_items, plate_size
from pyrovae.models.laws import as_pyro
from pyrovae.models.means import mean_of
from pyrovae.models.networks import ACTIVATIONS, MLP
from pyrovae.models.pair import covariate_dim_of, dtype_and_device, support_of
from pyrovae.models.param_sites import register_param_sites
from pyrovae.models.particles import ENUMERATED
from pyrovae.models.parts.diagonal_normal import DiagonalNormal
from pyrovae.models.parts.encoder_inputs import encoder_input_of
from pyrovae.models.parts.likelihood import Likelihood
from pyrovae.models.parts.zuko_flow import ZukoFlow, is_zuko_flow
from pyrovae.models.registry import chosen, make, name_of, note, plain_name_of, register
from pyrovae.models.scopes import Workspace, evaluation_mode
from pyrovae.models.vae import VAE, family, mlp_decoder
from pyrovae.seeding import Noise, stream
from pyrovae.summary import Rows

__all__ = ["SemiSupervisedVAE"]

ENTRIES = 2**22  # of decoded items that a chunk of `log_joint` holds


@register("SemiSupervisedVAE", kind="builder")
class SemiSupervisedVAE(Classifier):
    """p(x, y, z) = p(y) p(z) p(x | y, z), with the guide q(y | x) q(z | x, y): a VAE with a label beside the code.

    This is model M2 of Kingma, Mohamed, Rezende and Welling (2014, section 2). `pyrovae.fit(pair, x, y,
    unlabeled=more)` learns from items with and without a label: the label of an item without one is summed out, in
    training and in `log_joint` alike. The code holds what the label does not say, such as the style of a digit. M1+M2
    of the paper is this pair on the codes of a VAE that was fitted before it.

    Args:
        event_shape: the shape of one item.
        num_classes: the number of classes, at least 2.
        latent_dim: the size of a code.
        hidden_dims: widths of the hidden layers of q(y | x) and q(z | x, y), in reverse order those of p(x | y, z).
        activation: of these layers.
        likelihood: the family of p(x | y, z), as for `mlp_vae`.
        prior: p(z), as for `mlp_vae`.
        class_prior: p(y), {label: probability} or probabilities in the order of the sorted labels; None: equal ones.
            It is not learned, since a labelled subset that was balanced by class does not tell it.
        classes: the names, which a fit's labels must then be; None: 0 to `num_classes` - 1 until a first fit finds
            them in its labels.

    `predict` and `predict_log_proba` go by q(y | x), as in the paper; the p(y | x) of the model itself is
    `log_joint(x).log_softmax(-1)`. Log-densities are in nats per item.

    The label is summed out wherever log p(x) is estimated. `log_prob`, `iwae`, `ais` and `quadrature` give
    log sum_y p(y) exp(estimate of log p(x | y)) and draw for each class, at a cost in proportion to their number.
    `elbo` is -U(x) of the paper's equation 7, sum_y q(y | x) (ELBO of log p(x, y) - log q(y | x)); its rate contains
    KL(q(y | x) || p(y)). What needs a pair with a code alone, as `gaps` and `calibrate`, takes the VAE
    `of_class(label)`.

    Raises ValueError for sizes below 1 (below 2 classes), unknown names, a class prior that is no distribution, and a
    prior of codes of another size, one given covariates, or one that is made of the posterior, as "vamp"; TypeError for
    a prior that is no part of a pair.

    >>> import torch
    >>> import pyrovae
    >>> pair = pyrovae.SemiSupervisedVAE((1, 8, 8), 10, latent_dim=5, hidden_dims=(16,))
    >>> x = torch.zeros(4, 1, 8, 8)
    >>> pair.predict(x).shape, pair.log_joint(x, num_particles=3).shape, pair.sample(7, 2).shape
    (torch.Size([4]), torch.Size([4, 10]), torch.Size([2, 1, 8, 8]))
    """

    is_normalized = True
    log_class_prior: Tensor

    def __init__(
        self,
        event_shape: Sequence[int],
        num_classes: int,
        latent_dim: int = 50,
        *,
        hidden_dims: Sequence[int] = (500,),
        activation: str = "softplus",
        likelihood: str | nn.Module = "bernoulli",
        prior: str | nn.Module = "standard",
        class_prior: Mapping[Any, float] | Sequence[float] | None = None,
        classes: Sequence[Any] | None = None,
    ) -> None:
        super().__init__()
        count = checks.whole("num_classes", num_classes, least=2)
        self.latent_dim = checks.whole("latent_dim", latent_dim)
        self.names, self.names_are_given = named_classes(classes, count), classes is not None
        entries = family(likelihood)
        with exclusive():
            shape, widths, decoder = mlp_decoder(event_shape, self.latent_dim + count, hidden_dims, activation, entries)
            self.event_shape = shape
            self.prior: Any = _prior_of_every_class(prior, self.latent_dim)
            self.likelihood = Likelihood(decoder, entries, shape)
            seen, features = encoder_input_of(entries, shape)
            self.seen = nn.Identity() if seen is None else seen
            self.classifier = MLP(features, (count,), hidden_dims=widths, activation=activation)
            self.posterior = _GivenLabel(features, count, widths, activation, self.latent_dim)
            self._of_number(0)  # where parts that do not fit each other are named
        self.register_buffer("log_class_prior", torch.full((count,), -math.log(count)))
        if class_prior is not None:
            self._take_prior(class_prior)

    def _summary_of_parts(self) -> Rows:
        return {
            "num_classes": lambda: self.num_classes,
            "latent_dim": lambda: self.latent_dim,
            "likelihood": lambda: name_of(self.likelihood.family),
            "prior": lambda: name_of(self.prior),
        }

    # the pair ---------------------------------------------------------------------------------------

    def model(self, x: Tensor | None = None, y: Tensor | None = None, *, size: int = 1) -> Tensor:
        """p(label, z, x): items observed where `x` is given, labels where their numbers `y` (N,) are, else drawn."""
        register_param_sites(self._site_prefix, self)
        with pyro.plate("data", plate_size(x, size, self.event_shape)):
            infer = None if y is not None else ENUMERATED
            label = pyro.sample("label", dist.Categorical(logits=self.log_class_prior), obs=y, infer=infer)
            z = pyro.sample("latent", as_pyro(self.prior()))
            return pyro.sample("obs", as_pyro(self.given(self.indicators(label), z)), obs=x)

    def guide(self, x: Tensor | None = None, y: Tensor | None = None, *, size: int = 1) -> Tensor:
        """q(label | x) q(z | x, label); without `x` p(label) p(z), and no q(label | x) where `y` is given."""
        register_param_sites(self._site_prefix, self)
        with pyro.plate("data", plate_size(x, size, self.event_shape)):
            if y is None:
                logits = self.log_class_prior if x is None else self.label_logits(x)
                y = pyro.sample("label", dist.Categorical(logits=logits), infer=ENUMERATED)
            law = self.prior() if x is None else self.code(x, self.indicators(y))
            return pyro.sample("latent", as_pyro(law))

    def indicators(self, label: Tensor) -> Tensor:
        """Class numbers as indicators, (...) to (..., C), in the pair's dtype."""
        return nn.functional.one_hot(label, self.num_classes).to(self.log_class_prior.dtype)

    def label_logits(self, x: Tensor) -> Tensor:
        """The logits of q(y | x), (N, *event_shape) to (N, C)."""
        return self.classifier(self.seen(x))

    def code(self, x: Tensor, indicators: Tensor) -> TorchDistribution:
        """q(z | x, y) of items (N, *event_shape) and indicators (..., N or 1, C): a batch (..., N) of codes."""
        return self.posterior(self.seen(x), indicators)

    def given(self, indicators: Tensor, z: Tensor) -> TorchDistribution:
        """p(x | y, z) of indicators (..., C) and codes (..., latent_dim), whose leading dimensions broadcast."""
        lead = torch.broadcast_shapes(indicators.shape[:-1], z.shape[:-1])
        both = (z.expand(*lead, z.shape[-1]), indicators.expand(*lead, indicators.shape[-1]))
        return self.likelihood(torch.cat(both, -1))

    # what it says of items --------------------------------------------------------------------------

    def predict_log_proba(self, x: Any) -> Tensor:
        """log q(y | x), (N, C), in nats: the guide's, and not the model's p(y | x). Columns as in `classes_`.

        In evaluation mode, and differentiable. The model's own is `log_joint(x).log_softmax(-1)`.
        """
        x = self._seen_items(x)
        with evaluation_mode(self):
            return self.label_logits(x).log_softmax(-1)

    def encode(self, x: Any, y: Any = None) -> Tensor:
        """The mean of q(z | x, y), (N, latent_dim), at the labels `y`, or where None at the likeliest of q(y | x)."""
        x = self._seen_items(x)
        number = None if y is None else self.numbers(y, len(x))
        with evaluation_mode(self):
            number = self.label_logits(x).argmax(-1) if number is None else number
            return self.code(x, self.indicators(number)).mean

    def reconstruct(self, x: Any, y: Any = None) -> Tensor:
        """The mean of p(x | y, z) at the code `encode(x, y)` and the same label: of x's shape, and differentiable.

        The labels are `y`, or where None the likeliest of q(y | x). ValueError where entries have no mean.
        """
        items = self._seen_items(x)
        number = None if y is None else self.numbers(y, len(items))
        with evaluation_mode(self):
            number = self.label_logits(items).argmax(-1) if number is None else number
            indicators = self.indicators(number)
            return mean_of(self.given(indicators, self.code(items, indicators).mean))

    @checks.flags
    def log_joint(
        self,
        x: Any,
        *,
        evidence: Callable[..., Any] | None = None,
        num_particles: int = 1000,
        seed: int = 0,
        return_error: bool = False,
    ) -> Any:
        """log p(x, y) for every class with the code integrated, (N, C), in nats and float64.

        By importance where `evidence` is None: log p(y) + log (1/K) sum_k p(x | y, z_k) p(z_k) / q(z_k | x, y), with
        `num_particles` draws z_k of q(z | x, y) (Burda et al. 2016); its exponential is unbiased, so that it is a lower
        bound in expectation. The error is the delta method's, sd(w) / (mean(w) sqrt(K)), NaN for one draw: it tells of
        noise, and not of codes that no draw has met.

        Else by `evidence(member, x)` of each class, an estimator of log p(x) such as `pyrovae.quadrature`, which is
        exact to its tolerance for codes of one or two dimensions, or a `functools.partial` of it with its options. Its
        values and its errors are taken as they are.

        With `return_error` a pair of both, (N, C) each. The columns are as in `classes_`; no gradient flows.

        >>> import torch
        >>> import pyrovae
        >>> pair = pyrovae.SemiSupervisedVAE((3,), 2, latent_dim=1, hidden_dims=(4,))
        >>> value, error = pair.log_joint(torch.zeros(2, 3), return_error=True)
        >>> exact = pair.log_joint(torch.zeros(2, 3), evidence=pyrovae.quadrature)
        >>> bool(((value - exact).abs() < 6 * error + 1e-3).all())
        True
        """
        count, seed = checks.whole("num_particles", num_particles), checks.seed(seed)
        device = dtype_and_device(self)[1]
        items = checked_items(self, x).to(device)
        if evidence is not None:
            value, error = self._estimated(items, evidence)
        else:
            space = Workspace(self, noise=Noise(stream(seed, "log_joint", count), device))
            parts = list(space.each(self._weighed(items, count)))
            value, error = (torch.cat(part) for part in zip(*parts, strict=True))
        return (value, error) if return_error else value

    def log_prob(self, x: Any, **options: Any) -> Any:
        """log p(x) = log sum_y p(x, y), (N,), in nats and float64, with the label summed out; `options` of `log_joint`.

        With `return_error` a pair of both: the errors of the classes enter by p(y | x). They are independent noise, and
        those of a given `evidence`, which may be shared, add up.
        """
        found = self.log_joint(x, **options)
        if not isinstance(found, tuple):
            return found.logsumexp(-1)
        value, error = found
        each = value.softmax(-1) * error
        is_noise = options.get("evidence") is None
        return value.logsumexp(-1), each.square().sum(-1).sqrt() if is_noise else each.sum(-1)

    @checks.flags
    def sample(self, label: Any, n: int, *, seed: int | None = None, mean: bool = False) -> Tensor:
        """`n` draws of p(x | y = label), or of p(x) where `label` is None: (n, *event_shape).

        With `mean` the mean of p(x | y, z) takes the place of the last draw, which is what pictures show. Without a
        `seed` torch's global generator goes on.
        """
        return drawn_of_class(self, partial(self._drawn, mean=mean), label, n, seed)

    def of_class(self, label: Any) -> VAE:
        """p(x, z | y = label) with the guide q(z | x, y = label), as a VAE that shares this pair's parameters.

        What is for a pair with a code alone takes it, as `gaps`, `calibrate`, `decode` and `impute`. Raises ValueError
        for a label that is no class here.

        >>> import torch
        >>> import pyrovae
        >>> pair = pyrovae.SemiSupervisedVAE((3,), 2, latent_dim=1, hidden_dims=(4,))
        >>> vae = pair.of_class(1)
        >>> vae.decode(torch.zeros(4, 1)).shape, vae.likelihood.family is pair.likelihood.family
        (torch.Size([4, 3]), True)
        """
        return self._of_number(int(self.numbers([label], 1, name="label")))

    @property
    def members(self) -> list[VAE]:
        """The densities p(x | y) that p(x) is a weighted sum of, in the order of `classes_`."""
        return [self._of_number(number) for number in range(self.num_classes)]

    @property
    def log_weights(self) -> Tensor:
        """log p(y), (C,), in float64: the weights of `members`."""
        return self.log_class_prior.double().log_softmax(-1)

    def guide_log_weights(self, x: Tensor) -> Tensor:
        """log q(y | x) of unchecked items, (N, *event_shape) to (N, C): the weights of `members` in the guide."""
        return self.label_logits(x).log_softmax(-1)

    @property
    def class_prior(self) -> Tensor:
        """p(y), (C,)."""
        return self.log_class_prior.exp()

    def _of_number(self, number: int) -> VAE:
        return VAE(self.prior, _LikelihoodOfClass(self, number), _CodeOfClass(self, number))

    def _drawn(self, number: Tensor, mean: bool) -> Tensor:
        p = self.given(self.indicators(number), self.prior().sample(number.shape))
        drawn: Tensor = mean_of(p) if mean else p.sample()
        return drawn

    def _take_prior(self, prior: Any) -> None:
        if isinstance(prior, Mapping):
            absent = [name for name in self.names.tolist() if name not in prior]
            if absent or len(prior) != self.num_classes:
                raise ValueError(f"class_prior must name each class once: {self.names.tolist()}, got {list(prior)}")
            prior = [prior[name] for name in self.names.tolist()]
        given = checks.array(prior, "class_prior").double()
        if given.shape != (self.num_classes,) or not bool((given > 0).all()) or abs(float(given.sum()) - 1) > 1e-6:
            raise ValueError(
                f"class_prior must be {self.num_classes} numbers above 0 that sum to 1, got {given.tolist()}"
            )
        note(self, class_prior=given.tolist())
        with torch.no_grad():
            self.log_class_prior.copy_(given.log())

    def _seen_items(self, x: Any) -> Tensor:
        """Items that networks see and no density scores: grey values will do where a fit drew binary ones from them."""
        dtype, device = dtype_and_device(self)
        given = checks.checked_in_own_dtype(x, self.event_shape)
        allowed: Any = support_of(self)
        if not checks.lives_in_unit(allowed):
            return checked_items(self, x).to(device)
        checks.support(given, constraints.unit_interval, plain_name_of(self.likelihood.family))
        return checks.checked_cast(given, dtype).to(device)

    # integrals over the code ------------------------------------------------------------------------

    def log_ratio(self, x: Tensor, z: Tensor, q: TorchDistribution | None) -> Tensor:
        """log p(x, y, z) - log q(z | x, y) for codes (..., C, N, latent_dim): (..., C, N), in nats and float64."""
        every = torch.eye(self.num_classes, dtype=z.dtype, device=z.device)[:, None]
        value = self.given(every, z).log_prob(x).double() + self.prior().log_prob(z).double()
        value = value + self.log_class_prior.double().log_softmax(-1)[:, None]
        return value if q is None else value - q.log_prob(z).double()

    def of_every_class(self, x: Tensor) -> TorchDistribution:
        """q(z | x, y) for every class and item, a batch (C, N)."""
        every = torch.eye(self.num_classes, dtype=self.log_class_prior.dtype, device=x.device)[:, None]
        return self.code(x, every)

    def _weighed(self, items: Tensor, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Importance weights, a chunk of items at a time: (n, C) of the logarithm of their mean, and its error."""
        each = math.prod(self.event_shape) * self.num_classes
        draws = max(1, min(count, ENTRIES // each))
        for x in items.split(max(1, ENTRIES // (each * draws))):
            q, tables = self.of_every_class(x), []
            for start in range(0, count, draws):
                z = q.sample((min(draws, count - start),))
                tables.append(self.log_ratio(x, z, q))
            log_weight = torch.cat(tables)
            value = log_weight.logsumexp(0) - math.log(count)
            error = torch.full_like(value, math.nan)
            if count > 1:
                error = (log_weight - value).exp().std(0) / math.sqrt(count)
            yield value.T, error.T

    def _estimated(self, items: Tensor, evidence: Callable[..., Any]) -> tuple[Tensor, Tensor]:
        """log p(x, y), (N, C), by an estimator of log p(x | y) for each class, and its error."""
        if not callable(evidence):
            raise TypeError(f"evidence must be an estimator such as pyrovae.quadrature, got {evidence!r}")
        of_members = [evidence(member, items) for member in self.members]
        wanted = "an Estimate, as pyrovae.quadrature gives"
        found = [
            checks.having("what evidence returns", each, "pointwise", what=wanted).pointwise for each in of_members
        ]
        value, error = (
            torch.stack([torch.from_numpy(one[name].to_numpy().copy()) for one in found], -1).to(items.device)
            for name in ("value", "se")
        )
        return value + self.log_weights, error


def _prior_of_every_class(prior: Any, latent_dim: int) -> nn.Module:
    """p(z), which knows neither label nor item; ValueError for a prior of another kind or size."""
    if is_zuko_flow(prior):
        prior = ZukoFlow(prior)
    advice = "take 'standard', 'mixture' or 'flow'"
    made = type(prior) if isinstance(prior, nn.Module) else chosen("prior", prior)[0]
    name = plain_name_of(prior) if isinstance(prior, nn.Module) else str(prior)
    takes = isinstance(made, type) and "covariate_dim" in inspect.signature(made).parameters
    if covariate_dim_of(prior) or (takes and not isinstance(prior, nn.Module)):
        raise ValueError(f"prior {name!r} is one given covariates, and a SemiSupervisedVAE has none: {advice}")
    if hasattr(made, "bind"):
        raise ValueError(
            f"prior {name!r} is made of the posterior q(z | x), and that of a SemiSupervisedVAE is q(z | x, y), one "
            f"for each label: {advice}"
        )
    part = make("prior", prior, latent_dim)
    size = getattr(part, "latent_dim", latent_dim)
    if size != latent_dim:
        raise ValueError(
            f"prior must be of codes of {latent_dim} dimensions, as latent_dim says, and {name!r} is of {size}"
        )
    return part


class _GivenLabel(nn.Module):
    """q(z | x, y), a diagonal normal: the first layer adds what the item and the label give, so that x passes once."""

    def __init__(
        self, in_shape: Sequence[int], num_classes: int, widths: Sequence[int], activation: str, latent_dim: int
    ) -> None:
        super().__init__()
        self.of_item = MLP(in_shape, (widths[0],), hidden_dims=())
        self.of_label = nn.Linear(num_classes, widths[0], bias=False)
        rest: nn.Module = ACTIVATIONS[activation]()
        if len(widths) > 1:
            after = MLP(
                (widths[0],), (widths[-1],), hidden_dims=widths[1:-1], activation=activation, activate_last=True
            )
            rest = nn.Sequential(rest, after)
        self.law = DiagonalNormal(rest, widths[-1], latent_dim)

    def forward(self, x: Tensor, indicators: Tensor) -> TorchDistribution:
        return self.law(self.of_item(x) + self.of_label(indicators))


class _LikelihoodOfClass(Likelihood):
    """p(x | y, z) of one class, of the modules of a pair: what is trained in one of the two changes the other."""

    def __init__(self, pair: SemiSupervisedVAE, number: int) -> None:
        nn.Module.__init__(self)  # that of Likelihood binds the family, which the pair has done
        whole = pair.likelihood
        self.network = _BesideLabel(whole.network, _indicator(pair, number))
        self.family, self.event_shape = whole.family, whole.event_shape


class _CodeOfClass(nn.Module):
    """q(z | x, y) of one class, of the modules of a pair."""

    indicator: Tensor

    def __init__(self, pair: SemiSupervisedVAE, number: int) -> None:
        super().__init__()
        self.seen, self.posterior = pair.seen, pair.posterior
        self.register_buffer("indicator", _indicator(pair, number))

    def forward(self, x: Tensor) -> TorchDistribution:
        law: TorchDistribution = self.posterior(self.seen(x), self.indicator)
        return law


class _BesideLabel(nn.Module):
    """A decoder that is given one label: codes (N, latent_dim) to what it puts out for them."""

    indicator: Tensor

    def __init__(self, network: nn.Module, indicator: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("indicator", indicator)

    def forward(self, z: Tensor) -> Tensor:
        decoded: Tensor = self.network(torch.cat([z, self.indicator.expand(*z.shape[:-1], -1)], -1))
        return decoded


def _indicator(pair: SemiSupervisedVAE, number: int) -> Tensor:
    """The label as a row of zeros and a one, in the pair's dtype and on its device."""
    dtype, device = dtype_and_device(pair)
    return nn.functional.one_hot(torch.tensor(number, device=device), pair.num_classes).to(dtype)
