"""Lower bounds on log p(x) from draws of the guide, and log p(x) itself where it has a closed form."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, kl_divergence

from pyrovae import checks
from pyrovae.evaluation.agreement import agree, few_items, scored_components, scored_few
from pyrovae.evaluation.estimate import Estimate
from pyrovae.evaluation.session import Session
from pyrovae.evaluation.tables import MAX_BYTES
from pyrovae.evaluation.weights import effective_size, log_mean, pareto_k
from pyrovae.models.distributions import Normal
from pyrovae.models.mixture import GaussianMixture
from pyrovae.models.pair import Pair
from pyrovae.models.particles import Particles

__all__ = ["Estimate", "elbo", "exact", "iwae", "pareto_k"]

PARETO_LIMIT = 0.7  # above it importance weights have no useful mean (Vehtari et al. 2024, section 2.4)

OF_ELBO = {
    "value": ("evidence lower bound", "nats"),
    "rate": ("E_q[log q(z | x) - log p(z)]", "nats"),
    "distortion": ("-E_q[log p(x | z)]", "nats"),
}
OF_WEIGHTS = {
    "unreliable": ("whether the bias probably exceeds the standard error", "1"),
    "ess": ("effective sample size of the importance weights", "draws"),
    "pareto_k": ("Pareto shape of the importance weights' tail", "1"),
}


@checks.allocating
def elbo(
    pair: Pair, x: Any, *, num_particles: int = 16, seed: int = 0, analytic: bool = False, max_bytes: int = MAX_BYTES
) -> Estimate:
    """The evidence lower bound, per item: E_q[log p(x | z)] - E_q[log q(z | x) - log p(z)] = -(distortion + rate).

    Mean over `num_particles` draws of q(z | x); a lower bound on log p(x) in expectation (Kingma
    and Welling 2014, eq. 3; rate and distortion as in Alemi et al. 2018, section 2). With
    `analytic` both expectations in closed form, for linear-Gaussian pairs.

    Returns an `Estimate` whose `pointwise` also has "rate" and "distortion" with their standard
    errors "rate_se" and "distortion_se", all sd / sqrt(K), NaN for one particle; and of the same
    draws taken as importance weights the effective sample size "ess" and the Pareto shape
    "pareto_k". `x`: shape (N, *event_shape), cast to the pair's dtype; `max_bytes`: what the
    decodings of a chunk may take; it changes no draw. The table of draws is a compiled graph where
    there are so many codes that it pays, and inside `pyrovae.distributed()` each process has its
    share of the items. Raises ValueError where the pair has no p(x) (`is_normalized` is False) or
    weights that are not finite, for values outside the likelihood's support, and with `analytic`
    for a pair that is not linear.

    >>> import pyrovae
    >>> x = pyrovae.data.binarize(pyrovae.data.load("digits").test.x)
    >>> estimate = pyrovae.elbo(pyrovae.mlp_vae((1, 8, 8)), x, num_particles=4)
    >>> estimate.pointwise.sizes["item"], estimate.mean < 0
    (360, True)
    """
    session = Session("elbo", pair)
    if analytic:
        return _analytic_elbo(session, x)

    def bound(table: Particles) -> dict[str, Any]:
        rate, distortion = table.log_guide - table.log_prior, -table.log_likelihood
        columns: dict[str, Any] = {"rate": rate.mean(0), "rate_se": _se(rate)}
        columns |= {"distortion": distortion.mean(0), "distortion_se": _se(distortion)}
        columns |= {"value": -(columns["distortion"] + columns["rate"]), "se": _se(table.log_weight)}
        return columns | _of_weights(table.log_weight)

    columns = session.from_particles(x, bound, num_particles=num_particles, seed=seed, max_bytes=max_bytes)
    return session.estimate(columns, bound="lower", words=OF_ELBO | OF_WEIGHTS)


@checks.allocating
def iwae(pair: Pair, x: Any, *, num_particles: int = 1000, seed: int = 0, max_bytes: int = MAX_BYTES) -> Estimate:
    """The importance-weighted bound, per item: log (1/K) sum_k p(x, z_k) / q(z_k | x), with z_k drawn from q(z | x).

    exp of it is an unbiased estimate of p(x), so it is a lower bound in expectation, no looser for
    more particles (Burda, Grosse and Salakhutdinov 2016, theorem 1), and low by about se^2 / 2
    where se is small against 1 nat. Where a few weights make up most of the sum it is low by more,
    up to several times that.

    Its standard error "se" is the delta method's, sd(w) / (mean(w) sqrt(K)), where the jackknife's
    lies within 5 % of it, and else the jackknife's, which is right to 10 % for normal log-weights
    of any spread up to 3 nats (analysis/standard_errors.py) and has no upper end; NaN for K = 1. It
    says how far another seed would lie, not how far log p(x) does: where the log-weights spread so
    far that the bias is likely the larger of the two, more draws are needed, or a better guide, and
    the item is "unreliable" (about 3.8 nats above the median at K = 100, 4.0 at 1,000).

    A seed whose draws miss the largest weights gives a value that is low and an error that is small with it: the error
    is right over seeds, and one seed's mean can lie several of its errors below log p(x).

    What no draw has seen neither error nor flag can know: a mode of p(z | x) that the guide misses,
    or a tail of the weights heavier than the drawn ones show, leaves a small error, no flag, and a
    bound that is far too low. "pareto_k" over 0.7 is a hint of such a tail.

    Returns an `Estimate` with "unreliable", "ess" = (sum w)^2 / sum w^2 and "pareto_k". Arguments
    and errors as for `elbo`.

    >>> import pyrovae
    >>> x = pyrovae.data.binarize(pyrovae.data.load("digits").test.x[:20])
    >>> estimate = pyrovae.iwae(pyrovae.mlp_vae((1, 8, 8)), x, num_particles=100)
    >>> estimate.kind, sorted(estimate.pointwise)
    ('iwae(100)', ['ess', 'pareto_k', 'se', 'unreliable', 'value'])
    """
    session = Session("iwae", pair)

    def bound(table: Particles) -> dict[str, Any]:
        return log_mean(table.log_weight) | _of_weights(table.log_weight)

    columns = session.from_particles(x, bound, num_particles=num_particles, seed=seed, max_bytes=max_bytes)
    words = {"value": ("importance-weighted lower bound", "nats")} | OF_WEIGHTS
    return session.estimate(columns, kind=f"iwae({num_particles})", bound="lower", words=words)


@checks.allocating
def exact(pair: Pair, x: Any) -> Estimate:
    """log p(x) in closed form, in float64: of a linear-Gaussian pair, N(W m + mu, W S W' + s^2 I), and of a mixture.

    x = W z + mu + e with z ~ N(m, S) and e ~ N(0, s^2 I) (Tipping and Bishop 1999, section 3.1).
    The quadratic form is taken at the posterior mean, |x - mu - W z|^2 / s^2 + (z - m)' S^-1 (z -
    m), where no two large terms cancel.

    Returns an `Estimate` with standard errors of 0. Raises ValueError for a pair that is neither a
    `GaussianMixture` nor linear: a likelihood `Normal` with the identity link on a network of
    linear layers alone, and a normal prior.

    >>> import torch
    >>> import pyrovae
    >>> pyrovae.exact(pyrovae.linear_vae(5, 2), torch.zeros(3, 5)).se
    0.0
    """
    session = Session("exact", pair)
    items = session.items(x)
    session.require_whole()
    if isinstance(session.pair, GaussianMixture):
        with torch.no_grad():
            value = session.pair.log_joint_table(items).logsumexp(-1)
        _require_model_of_components(session, items)
    else:
        double = session.in_float64()
        linear = _Linear(double, "exact")
        linear.require_model(session, double, items.double())
        value = linear.log_prob(items.double().flatten(1))
    columns = {"value": value, "se": np.zeros(len(items))}
    return session.estimate(columns, bound="exact", errors="none", words={"value": ("log p(x)", "nats")})


def _of_weights(log_weight: Tensor) -> dict[str, np.ndarray]:
    return {"ess": effective_size(log_weight), "pareto_k": pareto_k(log_weight)}


def _se(values: Tensor) -> Tensor:
    """Standard error of the mean over particles, dim 0; NaN for one of them."""
    return values.std(0) / math.sqrt(len(values)) if len(values) > 1 else torch.full_like(values[0], math.nan)


def _require_model_of_components(session: Session, items: Tensor) -> None:
    """Refuse a mixture whose model is another than that of its components, as a subclass may state."""
    some = few_items(items)
    mixture: Any = session.pair
    with torch.no_grad():
        table = mixture.log_joint_table(some)
    of_model = scored_components(session, mixture, some)
    # the table is in float64 and the model in the mixture's dtype
    close = 1e-6 if of_model.dtype == torch.float64 else 1e-2
    if not torch.isclose(table.to(of_model), of_model, rtol=close, atol=close, equal_nan=True).all():
        raise ValueError(
            f"exact goes by a mixture's components, and the model of {type(mixture).__name__} is another: take iwae"
        )


class _Linear:
    """The parts of a linear-Gaussian pair in float64: x = W z + mu + e, z ~ N(m, S), e ~ N(0, s^2 I)."""

    def __init__(self, double: Any, estimator: str) -> None:
        self.pair = double.eval()
        network = getattr(getattr(double, "likelihood", None), "network", None)
        family = getattr(getattr(double, "likelihood", None), "family", None)
        with torch.no_grad():
            linear = isinstance(network, nn.Module) and _is_linear(network)
            normal = isinstance(family, Normal) and family.link == "identity"
            prior = _moments(double.prior()) if linear and normal else None
            if prior is None or not isinstance(network, nn.Module) or not isinstance(family, Normal):
                raise ValueError(
                    f"{estimator} is for linear-Gaussian pairs: a Normal likelihood with the identity link, a network "
                    "of linear layers alone and a normal prior, as linear_vae has; for others quadrature (one or "
                    "two dimensions), ais or iwae"
                )
            self.mean, self.covariance = (moment.double() for moment in prior)
            origin = network(self.mean.new_zeros(1, len(self.mean))).flatten(1)
            units = torch.eye(len(self.mean), dtype=self.mean.dtype, device=self.mean.device)
            self.weight = (network(units).flatten(1) - origin).T
            self.offset = origin[0]
            self.variance = family.scale.double().square()
            self.precision = torch.linalg.inv(self.covariance) + self.weight.T @ self.weight / self.variance

    @torch.no_grad()
    def require_model(self, session: Session, double: Any, x: Tensor, *, guide: bool = False) -> None:
        """Refuse a pair whose model is not the linear-Gaussian one of its parts, or whose guide is not its posterior.

        A subclass may state another model, and a network that is linear by its layers may have a hook that is not.
        """
        some = few_items(x)
        z, of_model = scored_few(session, double, some, guide=guide)
        decoded = self.offset + z @ self.weight.T
        likelihood = torch.distributions.Normal(decoded[:, None], self.variance.sqrt()).log_prob(some.flatten(1))
        prior = MultivariateNormal(self.mean, self.covariance).log_prob(z)[:, None]
        same = agree(likelihood.sum(-1), of_model.log_likelihood) and agree(prior, of_model.log_prior)
        if guide and same:
            same = agree(self.pair.posterior(some).log_prob(z[:, None]), of_model.log_guide)
        if not same:
            raise ValueError(
                f"{session.name} goes by the parts of a pair, and {type(self.pair).__name__} states another model or "
                "guide than they make, or a network that is not linear: take iwae or ais"
            )

    @torch.no_grad()
    def log_prob(self, x: Tensor) -> Tensor:
        centred = x - self.offset - self.weight @ self.mean
        z = torch.linalg.solve(self.precision, self.weight.T @ centred.T / self.variance).T
        rest = (centred - z @ self.weight.T).square().sum(-1) / self.variance
        prior = (z * torch.linalg.solve(self.covariance, z.T).T).sum(-1)
        log_det = x.shape[1] * self.variance.log() + torch.logdet(self.covariance) + torch.logdet(self.precision)
        return -0.5 * (x.shape[1] * math.log(2 * math.pi) + log_det + rest + prior)


def _analytic_elbo(session: Session, x: Any) -> Estimate:
    items = session.items(x).double()
    session.require_whole("elbo(analytic=True)")
    double = session.in_float64()
    parts = _Linear(double, "elbo(analytic=True)")
    parts.require_model(session, double, items, guide=True)
    with torch.no_grad():
        moments = _moments(parts.pair.posterior(items))
        if moments is None:
            raise ValueError("elbo(analytic=True) needs a normal posterior")
        loc, covariance = (moment.double() for moment in moments)
        rate = kl_divergence(MultivariateNormal(loc, covariance), MultivariateNormal(parts.mean, parts.covariance))
        rest = (items.flatten(1) - parts.offset - loc @ parts.weight.T).square().sum(-1)
        spread = torch.einsum("di,dj,...ij->...", parts.weight, parts.weight, covariance)
        size = items[0].numel()
        distortion = 0.5 * (size * torch.log(2 * math.pi * parts.variance) + (rest + spread) / parts.variance)
    zero = torch.zeros_like(rate)
    columns = {"value": -(distortion + rate), "se": zero, "rate": rate, "rate_se": zero}
    columns |= {"distortion": distortion, "distortion_se": zero}
    session.protocol["analytic"] = 1
    return session.estimate(columns, bound="lower", errors="none", words=OF_ELBO)


def _is_linear(network: nn.Module) -> bool:
    plain = (nn.Linear, nn.Identity, nn.Flatten, nn.Unflatten, nn.Sequential)
    return all(isinstance(module, plain) for module in network.modules())


def _moments(distribution: Any) -> tuple[Tensor, Tensor] | None:
    """Mean and covariance of a normal distribution over a vector; None for any other."""
    if isinstance(distribution, MultivariateNormal):
        return distribution.mean, distribution.covariance_matrix
    base = getattr(distribution, "base_dist", None)
    if isinstance(base, torch.distributions.Normal) and distribution.event_shape and len(distribution.event_shape) == 1:
        return distribution.mean, torch.diag_embed(distribution.variance)
    return None
