"""Lower bounds on log p(x) from draws of the guide, and log p(x) itself where it has a closed form."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, kl_divergence

from pyrovae import checks
from pyrovae.evaluation.agreement import CODES, agree, few_items, scored_components, scored_few
from pyrovae.evaluation.estimate import Estimate
from pyrovae.evaluation.members import by_guided_members, by_members
from pyrovae.evaluation.session import TAKES, Session, split_of
from pyrovae.evaluation.tables import MAX_BYTES
from pyrovae.evaluation.weights import effective_size, log_mean, pareto_k
from pyrovae.models.batch import has_missing, items_of, keywords_of
from pyrovae.models.column_mixture import ColumnMixture
from pyrovae.models.distributions import Normal
from pyrovae.models.linear_gaussian import LinearGaussian, seen_log_prob
from pyrovae.models.missing import whole
from pyrovae.models.mixture import GaussianMixture
from pyrovae.models.pair import Pair, covariate_dim_of, covariates_for
from pyrovae.models.particles import Items, Particles
from pyrovae.models.parts.standardizer import InUnits, Standardizer

__all__ = ["Estimate", "elbo", "exact", "iwae", "pareto_k"]

PARETO_LIMIT = 0.7  # above it the mean of importance weights is of no use (Vehtari et al. 2024, section 2.4)

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
@by_guided_members
def elbo(
    pair: Pair,
    x: Any,
    *,
    num_particles: int = 16,
    seed: int = 0,
    analytic: bool = False,
    max_bytes: int = MAX_BYTES,
    covariates: Any = None,
    exposure: Any = None,
    weight: Any = None,
    missing: Any = None,
) -> Estimate:
    """The evidence lower bound, per item: E_q[log p(x | z)] - E_q[log q(z | x) - log p(z)] = -(distortion + rate).

    The expectations are means over `num_particles` draws of q(z | x). The estimate is a lower bound
    on log p(x) in expectation (Kingma and Welling 2014, eq. 3; rate and distortion as in Alemi et
    al. 2018, section 2). With `analytic` both expectations are in closed form, which is possible for
    linear-Gaussian pairs.

    `x` has shape (N, *event_shape) and is cast to the pair's dtype; it may be a `data.Split`, for
    which the keywords `covariates`, `exposure`, `weight` and `missing` stand too. With `missing` NaN
    is an entry that was not seen, and the estimate is one of log p of the seen entries, for a pair
    whose guide takes such items. `weight` says how many times each item counts in the means and
    their errors, as a frequency. `max_bytes` limits the memory of
    the decodings of a chunk; the draws do not depend on it. The draws are scored by a compiled graph
    if there are enough of them for the compilation to pay off. Inside `pyrovae.distributed()` each
    process evaluates its share of the items.

    Returns an `Estimate`, in nats, whose `pointwise` also has "rate" and "distortion" with their
    standard errors "rate_se" and "distortion_se", all sd / sqrt(K) and NaN for one particle. It has
    the effective sample size "ess" and the Pareto shape "pareto_k" of the same draws' importance
    weights. Raises ValueError for a pair without p(x) (`is_normalized` is False) or with weights
    that are not finite, for values outside the likelihood's support, and with `analytic` for a pair
    that is not linear.

    >>> import pyrovae
    >>> x = pyrovae.data.binarize(pyrovae.data.load("digits").test.x)
    >>> estimate = pyrovae.elbo(pyrovae.mlp_vae((1, 8, 8)), x, num_particles=4)
    >>> estimate.pointwise.sizes["item"], estimate.mean < 0
    (360, True)
    """
    session = Session("elbo", pair)
    x = split_of(x, "elbo", covariates, exposure, weight, missing)
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
@by_members
def iwae(
    pair: Pair,
    x: Any,
    *,
    num_particles: int = 1000,
    seed: int = 0,
    max_bytes: int = MAX_BYTES,
    covariates: Any = None,
    exposure: Any = None,
    weight: Any = None,
    missing: Any = None,
) -> Estimate:
    """The importance-weighted bound, per item: log (1/K) sum_k p(x, z_k) / q(z_k | x), with z_k drawn from q(z | x).

    Its exponential is an unbiased estimate of p(x). The bound is therefore a lower bound in
    expectation, which more particles can only tighten (Burda, Grosse and Salakhutdinov 2016, theorem
    1). Its bias is about -se^2 / 2 if se is small against 1 nat, and up to several times as large if
    a few weights make up most of the sum.

    The standard error "se" is that of the delta method, sd(w) / (mean(w) sqrt(K)), if the jackknife
    agrees with it within 5 %, and otherwise that of the jackknife. The latter is accurate to 10 %
    for normal log-weights with a standard deviation of up to 3 nats (analysis/standard_errors.py),
    and can be infinite. For K = 1 it is NaN.

    The error measures the variation between seeds and not the distance to log p(x). An item is
    "unreliable" if its log-weights spread so far that the bias probably exceeds the error (about 3.8
    nats above the median for K = 100, 4.0 for 1,000); take more draws, or a better guide. If the
    draws of a seed miss the largest weights, both the value and its error are too small: the error
    is accurate on average over seeds, but the mean of one seed can be several errors below log p(x).

    Neither the error nor the flag can detect what no draw has seen. If the guide misses a mode of
    p(z | x), or if the tail of the weights is heavier than that of the drawn weights, the bound is
    far too low with a small error and no flag. A "pareto_k" over 0.7 suggests such a tail.

    Returns an `Estimate`, in nats, with "unreliable", "ess" = (sum w)^2 / sum w^2 and "pareto_k".
    Arguments and errors are those of `elbo`.

    >>> import pyrovae
    >>> x = pyrovae.data.binarize(pyrovae.data.load("digits").test.x[:20])
    >>> estimate = pyrovae.iwae(pyrovae.mlp_vae((1, 8, 8)), x, num_particles=100)
    >>> estimate.kind, sorted(estimate.pointwise)
    ('iwae(100)', ['ess', 'pareto_k', 'se', 'unreliable', 'value'])
    """
    session = Session("iwae", pair)
    x = split_of(x, "iwae", covariates, exposure, weight, missing)

    def bound(table: Particles) -> dict[str, Any]:
        return log_mean(table.log_weight) | _of_weights(table.log_weight)

    columns = session.from_particles(x, bound, num_particles=num_particles, seed=seed, max_bytes=max_bytes)
    words = {"value": ("importance-weighted lower bound", "nats")} | OF_WEIGHTS
    return session.estimate(columns, kind=f"iwae({num_particles})", bound="lower", words=words)


@checks.allocating
@by_members
def exact(
    pair: Pair,
    x: Any,
    *,
    covariates: Any = None,
    exposure: Any = None,
    weight: Any = None,
    missing: Any = None,
) -> Estimate:
    """log p(x) in closed form and in float64, for a linear-Gaussian pair and for a mixture.

    A linear-Gaussian pair has x = W z + mu + e with z ~ N(m, S) and e ~ N(0, s^2 I), so that x has
    the distribution N(W m + mu, W S W' + s^2 I) (Tipping and Bishop 1999, section 3.1); with a scale for
    each entry, as in factor analysis, s^2 is a diagonal matrix. Its quadratic form is computed at the
    posterior mean z of the code, as |x - mu - W z|^2 / s^2 + (z - m)' S^-1 (z - m), in which no large
    terms cancel.

    Returns an `Estimate`, in nats, with standard errors of 0. Raises ValueError for a pair that is
    neither a `GaussianMixture`, a `ColumnMixture` nor linear-Gaussian. A linear-Gaussian pair has a `Normal` likelihood
    with the identity link, a decoder network that consists of linear layers, and a normal prior.

    >>> import torch
    >>> import pyrovae
    >>> pyrovae.exact(pyrovae.linear_vae(5, 2), torch.zeros(3, 5)).se
    0.0
    """
    session = Session("exact", pair)
    given = split_of(x, "exact", covariates, exposure, weight, missing)
    items = session.items(given, takes=TAKES, guide=False)
    session.require_whole()
    if isinstance(session.pair, GaussianMixture | ColumnMixture):
        with torch.no_grad():
            value = session.pair.log_joint_table(items_of(items)).logsumexp(-1)
        _require_model_of_components(session, items_of(whole(session.pair, items)))
    else:
        linear = _Linear(session.in_float64(), "exact", items.double())
        linear.require_model(session, whole(session.pair, items.double()))
        x_in_full = items_of(items).double().flatten(1)
        value = linear.log_prob_of_seen(x_in_full) if has_missing(items) else linear.log_prob(x_in_full)
    columns = {"value": value, "se": np.zeros(len(items))}
    return session.estimate(columns, bound="exact", errors="none", words={"value": ("log p(x)", "nats")})


def _of_weights(log_weight: Tensor) -> dict[str, np.ndarray]:
    return {"ess": effective_size(log_weight), "pareto_k": pareto_k(log_weight)}


def _se(values: Tensor) -> Tensor:
    """The standard error of the mean over particles, dim 0; NaN for one particle."""
    return values.std(0) / math.sqrt(len(values)) if len(values) > 1 else torch.full_like(values[0], math.nan)


def _require_model_of_components(session: Session, items: Tensor) -> None:
    """Refuse a mixture whose model, as a subclass may define, is not that of its components."""
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
    """The parameters of a linear-Gaussian pair in float64: x = W z + mu + e, z ~ N(m, S), e ~ N(0, diag s^2)."""

    def __init__(self, double: Any, estimator: str, x: Items) -> None:
        self.pair, covariates = double.eval(), keywords_of(x).get("covariates")
        network = getattr(getattr(double, "likelihood", None), "network", None)
        family = getattr(getattr(double, "likelihood", None), "family", None)
        with torch.no_grad():
            linear = isinstance(network, nn.Module) and _is_linear(network)
            normal = isinstance(family, Normal) and family.link == "identity"
            given = covariates_for(getattr(double, "prior", None), covariates)
            prior = _moments(double.prior(**given)) if linear and normal else None
            if prior is None or not isinstance(network, nn.Module) or not isinstance(family, Normal):
                raise ValueError(
                    f"{estimator} is for linear-Gaussian pairs: a Normal likelihood with the identity link, a network "
                    "of linear layers alone and a normal prior, as linear_vae has; for others quadrature (one or "
                    "two dimensions), ais or iwae"
                )
            self.mean, self.covariance = (moment.double() for moment in prior)
            size, of_c = self.mean.shape[-1], covariate_dim_of(double.likelihood)
            origin = network(self.mean.new_zeros(1, size + of_c)).flatten(1)
            units = torch.eye(size, size + of_c, dtype=self.mean.dtype, device=self.mean.device)
            self.weight = (network(units).flatten(1) - origin).T
            self.offset = origin[0]
            self.variance = family.scale.double().square().flatten().expand(len(self.offset))
            self.per_variance = self.weight / self.variance[:, None]
            self.precision = torch.linalg.inv(self.covariance) + self.weight.T @ self.per_variance
            if covariates is not None and of_c:  # (N, F): that of each item
                rows = torch.cat([covariates.new_zeros(len(covariates), size), covariates], -1)
                self.offset = network(rows).flatten(1)

    @torch.no_grad()
    def require_model(self, session: Session, x: Items, *, guide: bool = False) -> None:
        """Refuse a pair whose model is not the linear-Gaussian one of its parts, or whose guide is not its posterior.

        A subclass may define another model, and a network of linear layers may have a hook that is not linear.
        """
        some = few_items(x)
        codes, of_model = scored_few(session, self.pair, some, guide=guide)
        covariates = keywords_of(some).get("covariates")
        # at the prior's codes: the guide's of items far from zero are so large that the weights' rounding shows
        z = codes[: CODES // 2]
        offset = few_items(self.offset) if self.offset.ndim == 2 else self.offset
        decoded = offset + (z @ self.weight.T)[:, None]
        items = items_of(some).flatten(1)
        likelihood = torch.distributions.Normal(decoded, self.variance.sqrt()).log_prob(items).sum(-1)
        # a decoding is rounded by a few units of its last place, which the residuals multiply
        ulp = 64 * torch.finfo(decoded.dtype).eps * (decoded.abs() + items.abs())
        rounding = (ulp * ((items - decoded).abs() + ulp) / self.variance).sum(-1)
        if self.mean.ndim == 2:
            prior = MultivariateNormal(few_items(self.mean), few_items(self.covariance)).log_prob(z[:, None])
        else:
            prior = MultivariateNormal(self.mean, self.covariance).log_prob(z)[:, None]
        same = agree(likelihood, of_model.log_likelihood[: len(z)], rounding)
        same = same and agree(prior, of_model.log_prior[: len(z)])
        if guide and same:
            q = self.posterior(items_of(some), covariates)
            same = agree(q.log_prob(codes[:, None]), of_model.log_guide)
        if not same:
            raise ValueError(
                f"{session.name} goes by the parts of a pair, and {type(self.pair).__name__} states another model or "
                "guide than they make, or a network that is not linear: take iwae or ais"
            )

    def posterior(self, x: Tensor, covariates: Tensor | None) -> Any:
        """q(z | x) by the pair's part, given covariates where it takes some."""
        given = covariates_for(self.pair.posterior, covariates)
        return self.pair.posterior(x, **given)

    @torch.no_grad()
    def log_prob_of_seen(self, x: Tensor) -> Tensor:
        """log p of the entries that are not NaN."""
        if self.mean.ndim == 2:
            return self._seen_log_prob_each(x)
        factor = torch.linalg.cholesky(self.covariance)
        whitened = LinearGaussian(self.weight @ factor, self.weight @ self.mean, self.variance)
        return seen_log_prob(whitened, x - self.offset)

    def _seen_log_prob_each(self, x: Tensor) -> Tensor:
        """The same with a prior for each item: a missing entry has no precision, and adds nothing."""
        seen, mean, covariance = ~x.isnan(), self.mean, self.covariance
        centred = torch.where(seen, x - self.offset - mean @ self.weight.T, 0.0)
        per_variance = seen.to(x.dtype)[:, :, None] * self.per_variance  # (N, F, d)
        precision = torch.linalg.inv(covariance) + self.weight.T @ per_variance
        z = torch.linalg.solve(precision, (centred[:, None] @ per_variance).squeeze(1))
        residual = torch.where(seen, (centred - z @ self.weight.T).square() / self.variance, 0.0).sum(-1)
        prior = (z * torch.linalg.solve(covariance, z)).sum(-1)
        log_det = torch.where(seen, (2 * math.pi * self.variance).log(), 0.0).sum(-1)
        log_det = log_det + torch.logdet(covariance) + torch.logdet(precision)
        return -0.5 * (log_det + residual + prior)

    @torch.no_grad()
    def log_prob(self, x: Tensor) -> Tensor:
        if self.mean.ndim == 2:  # a prior for each item
            return self._log_prob_each(x)
        centred = x - self.offset - self.weight @ self.mean
        z = torch.linalg.solve(self.precision, self.per_variance.T @ centred.T).T
        residual = ((centred - z @ self.weight.T).square() / self.variance).sum(-1)
        prior = (z * torch.linalg.solve(self.covariance, z.T).T).sum(-1)
        log_det = self.variance.log().sum() + torch.logdet(self.covariance) + torch.logdet(self.precision)
        return -0.5 * (x.shape[1] * math.log(2 * math.pi) + log_det + residual + prior)

    def _log_prob_each(self, x: Tensor) -> Tensor:
        """The same where each item has a mean and a covariance of its code of its own."""
        centred = x - self.offset - self.mean @ self.weight.T
        z = torch.linalg.solve(self.precision, centred @ self.per_variance)
        residual = ((centred - z @ self.weight.T).square() / self.variance).sum(-1)
        prior = (z * torch.linalg.solve(self.covariance, z)).sum(-1)
        log_det = self.variance.log().sum() + torch.logdet(self.covariance) + torch.logdet(self.precision)
        return -0.5 * (x.shape[1] * math.log(2 * math.pi) + log_det + residual + prior)


def _analytic_elbo(session: Session, x: Any) -> Estimate:
    items = session.items(x, takes=("weight",)).double()
    session.require_whole("elbo(analytic=True)")
    parts = _Linear(session.in_float64(), "elbo(analytic=True)", items)
    covariates = keywords_of(items).get("covariates")
    parts.require_model(session, items, guide=True)
    with torch.no_grad():
        moments = _moments(parts.posterior(items_of(items), covariates))
        if moments is None:
            raise ValueError("elbo(analytic=True) needs a normal posterior")
        loc, covariance = (moment.double() for moment in moments)
        rate = kl_divergence(MultivariateNormal(loc, covariance), MultivariateNormal(parts.mean, parts.covariance))
        residual = ((items_of(items).flatten(1) - parts.offset - loc @ parts.weight.T).square() / parts.variance).sum(
            -1
        )
        spread = torch.einsum("di,dj,...ij->...", parts.weight, parts.per_variance, covariance)
        distortion = 0.5 * (torch.log(2 * math.pi * parts.variance).sum() + residual + spread)
    zero = torch.zeros_like(rate)
    columns = {"value": -(distortion + rate), "se": zero, "rate": rate, "rate_se": zero}
    columns |= {"distortion": distortion, "distortion_se": zero}
    session.protocol["analytic"] = 1
    return session.estimate(columns, bound="lower", errors="none", words=OF_ELBO)


def _is_linear(network: nn.Module) -> bool:
    plain = (nn.Linear, nn.Identity, nn.Flatten, nn.Unflatten, nn.Sequential, InUnits, Standardizer)
    return all(isinstance(module, plain) for module in network.modules())


def _moments(distribution: Any) -> tuple[Tensor, Tensor] | None:
    """The mean and covariance of a normal distribution over a vector; None for any other distribution."""
    if isinstance(distribution, MultivariateNormal):
        return distribution.mean, distribution.covariance_matrix
    base = getattr(distribution, "base_dist", None)
    if isinstance(base, torch.distributions.Normal) and distribution.event_shape and len(distribution.event_shape) == 1:
        return distribution.mean, torch.diag_embed(distribution.variance)
    return None
