"""A generative classifier with a code and a label, for items of which few have a label."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

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
from pyrovae.models.pair import dtype_and_device, support_of
from pyrovae.models.param_sites import register_param_sites
from pyrovae.models.particles import ENUMERATED
from pyrovae.models.parts.diagonal_normal import DiagonalNormal
from pyrovae.models.parts.encoder_inputs import encoder_input_of
from pyrovae.models.parts.likelihood import Likelihood
from pyrovae.models.precision import doubled
from pyrovae.models.registry import make, name_of, note, plain_name_of, register
from pyrovae.models.scopes import Workspace, evaluation_mode
from pyrovae.models.vae import family, mlp_decoder
from pyrovae.seeding import Noise, stream
from pyrovae.summary import Rows

__all__ = ["SemiSupervisedVAE"]

ENTRIES = 2**22  # of decoded items that a chunk of `log_joint` holds
WIDEST = 1e6  # of a grid, from its middle to either end
NEGLIGIBLE = 45.0  # nats below the largest value, from which on a grid's ends do not count
NODES = {1: 2**16, 2: 2**10}  # of the finest grid along each dimension


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
    `log_joint(x).log_softmax(-1)`. `log_prob` sums the label out; `elbo` and `iwae` draw it from q(y | x), which gives
    valid bounds that are looser. Log-densities are in nats per item. Raises ValueError for sizes below 1 (below 2
    classes), unknown names and a prior that is no distribution.

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
            self.prior: Any = make("prior", prior, self.latent_dim)
            self.likelihood = Likelihood(decoder, entries, shape)
            seen, features = encoder_input_of(entries, shape)
            self.seen = nn.Identity() if seen is None else seen
            self.classifier = MLP(features, (count,), hidden_dims=widths, activation=activation)
            self.posterior = _GivenLabel(features, count, widths, activation, self.latent_dim)
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

    def log_joint(
        self,
        x: Any,
        *,
        how: Literal["importance", "quadrature"] = "importance",
        num_particles: int = 1000,
        seed: int = 0,
        tol: float = 1e-9,
        return_error: bool = False,
    ) -> Any:
        """log p(x, y) for every class with the code integrated, (N, C), in nats and float64.

        "importance": log p(y) + log (1/K) sum_k p(x | y, z_k) p(z_k) / q(z_k | x, y), with `num_particles` draws z_k
        of q(z | x, y) (Burda et al. 2016); its exponential is unbiased, so that it is a lower bound in expectation. The
        error is the delta method's, sd(w) / (mean(w) sqrt(K)), NaN for one draw: it tells of noise, and not of codes
        that no draw has met.

        "quadrature", of one or two dimensions: the trapezoidal rule on a grid about q(z | x, y), widened until its ends
        do not count and halved until two grids agree within `tol` nats; the error is the last difference. ValueError
        where that is not reached.

        With `return_error` a pair of both, (N, C) each. The columns are as in `classes_`; no gradient flows.

        >>> import torch
        >>> import pyrovae
        >>> pair = pyrovae.SemiSupervisedVAE((3,), 2, latent_dim=1, hidden_dims=(4,))
        >>> value, error = pair.log_joint(torch.zeros(5, 3), return_error=True)
        >>> exact = pair.log_joint(torch.zeros(5, 3), how="quadrature")
        >>> bool(((value - exact).abs() < 6 * error + 1e-5).all())
        True
        """
        checks.choice("how", how, ("importance", "quadrature"))
        count = checks.whole("num_particles", num_particles)
        tol, seed = checks.positive("tol", tol), checks.seed(seed)
        device = dtype_and_device(self)[1]
        items = checked_items(self, x).to(device)
        if how == "quadrature" and self.latent_dim not in NODES:
            raise ValueError(
                f"how='quadrature' is for codes of 1 or 2 dimensions, and these have {self.latent_dim}: take "
                "how='importance'"
            )
        space = Workspace(self, noise=Noise(stream(seed, "log_joint", count), device))
        if how == "importance":
            parts = list(space.each(self._weighed(items, count)))
        else:
            double = doubled(self)  # float32 rounds by more than any useful tolerance
            space = Workspace(double)
            parts = list(space.each(double._integrated(item[None].double(), tol) for item in items))
        value, error = (torch.cat(part) for part in zip(*parts, strict=True))
        return (value, error) if return_error else value

    def log_prob(self, x: Any, **options: Any) -> Any:
        """log p(x) = log sum_y p(x, y), (N,), in nats and float64, with the label summed out; `options` of `log_joint`.

        With `return_error` a pair of both: the errors of the classes are independent, and enter by p(y | x).
        """
        found = self.log_joint(x, **options)
        if not isinstance(found, tuple):
            return found.logsumexp(-1)
        value, error = found
        return value.logsumexp(-1), (value.softmax(-1) * error).square().sum(-1).sqrt()

    def sample(self, label: Any, n: int, *, seed: int | None = None, mean: bool = False) -> Tensor:
        """`n` draws of p(x | y = label), (n, *event_shape); without a `seed` torch's global generator goes on.

        With `mean` the mean of p(x | y, z) takes the place of the last draw, which is what pictures show.
        """
        return drawn_of_class(self, partial(self._drawn, mean=mean), label, n, seed)

    @property
    def class_prior(self) -> Tensor:
        """p(y), (C,)."""
        return self.log_class_prior.exp()

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

    def _integrated(self, x: Tensor, tol: float) -> tuple[Tensor, Tensor]:
        """The trapezoidal rule for one item, (1, C) of the integral's logarithm, and its error."""
        q, dims = self.of_every_class(x), self.latent_dim
        # the mean and scale of q are no more than where a grid begins
        loc, scale = q.mean, q.variance.sqrt()
        reach, value = 8.0, None
        while True:
            on_grid, edges = self._on_grid(x, loc, scale, reach, 64 if dims == 1 else 32)
            inside = on_grid.amax(0)
            if bool((edges < inside - NEGLIGIBLE).all()):
                break
            reach *= 1.5
            if float((reach * scale).amax()) > WIDEST:
                raise ValueError(f"the integral over the code does not end within {WIDEST:g}: take how='importance'")
        nodes = 128 if dims == 1 else 64
        while nodes <= NODES[dims]:
            finer = self._on_grid(x, loc, scale, reach, nodes)[0]
            volume = (2 * reach / nodes * scale.double()).log().sum(-1)
            total = finer.logsumexp(0) + volume
            if value is not None and bool(((total - value).abs() < tol).all()):
                return total.T, (total - value).abs().T
            value, nodes = total, 2 * nodes
        raise ValueError(
            f"quadrature has not come within tol={tol:g} nats on {NODES[dims]:,} nodes a dimension: take a larger "
            "tol, a smooth activation, or how='importance'"
        )

    def _on_grid(self, x: Tensor, loc: Tensor, scale: Tensor, reach: float, nodes: int) -> tuple[Tensor, Tensor]:
        """log p(x, y, z) on a grid, (nodes + 1, ..., C, 1), and the largest value at its ends, (C, 1)."""
        steps = torch.linspace(-reach, reach, nodes + 1, dtype=loc.dtype, device=loc.device)
        t = torch.stack(torch.meshgrid(*[steps] * self.latent_dim, indexing="ij"), -1)
        t = t.reshape(*[nodes + 1] * self.latent_dim, 1, 1, self.latent_dim)
        flat = (loc + scale * t).flatten(0, self.latent_dim - 1)
        per_chunk = max(1, ENTRIES // (math.prod(self.event_shape) * self.num_classes))
        table = torch.cat([self.log_ratio(x, z, None) for z in flat.split(per_chunk)])
        table = table.unflatten(0, [nodes + 1] * self.latent_dim)
        ends = [table.select(dim, at) for dim in range(self.latent_dim) for at in (0, -1)]
        edges = torch.cat([end.reshape(-1, *table.shape[-2:]) for end in ends]).amax(0)
        return table.flatten(0, -3), edges


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
