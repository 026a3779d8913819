"""The likelihoods, priors and posteriors of `pyrovae.models.parts` under one name."""

from __future__ import annotations

from pyrovae.models.parts.bernoulli import Bernoulli
from pyrovae.models.parts.categorical import Categorical
from pyrovae.models.parts.columns import ColumnFamily
from pyrovae.models.parts.conditional import ConditionalNormal
from pyrovae.models.parts.continuous_bernoulli import ContinuousBernoulli, TruncatedExponential
from pyrovae.models.parts.diagonal_normal import DiagonalNormal
from pyrovae.models.parts.discretized_logistic import DiscretizedLogistic
from pyrovae.models.parts.flow import FlowPosterior, FlowPrior
from pyrovae.models.parts.from_distribution import FromDistribution
from pyrovae.models.parts.full_normal import FullNormal
from pyrovae.models.parts.gamma import Gamma
from pyrovae.models.parts.heteroscedastic_normal import HeteroscedasticNormal
from pyrovae.models.parts.laplace import Laplace
from pyrovae.models.parts.likelihood import Likelihood
from pyrovae.models.parts.linear_normal import LinearNormal
from pyrovae.models.parts.log_normal import LogNormal
from pyrovae.models.parts.mixture_prior import MixturePrior
from pyrovae.models.parts.negative_binomial import NegativeBinomial
from pyrovae.models.parts.normal import Normal
from pyrovae.models.parts.ordinal import Ordinal
from pyrovae.models.parts.point_mass import PointMass
from pyrovae.models.parts.poisson import Poisson
from pyrovae.models.parts.standard_normal import StandardNormal
from pyrovae.models.parts.student_t import StudentT
from pyrovae.models.parts.vamp import VampPrior
from pyrovae.models.parts.zero_inflated import ZeroInflatedNegativeBinomial, ZeroInflatedPoisson
from pyrovae.models.parts.zuko_flow import ZukoFlow

__all__ = [
    "Bernoulli",
    "Categorical",
    "ColumnFamily",
    "ConditionalNormal",
    "ContinuousBernoulli",
    "DiagonalNormal",
    "DiscretizedLogistic",
    "FlowPosterior",
    "FlowPrior",
    "FromDistribution",
    "FullNormal",
    "Gamma",
    "HeteroscedasticNormal",
    "Laplace",
    "Likelihood",
    "LinearNormal",
    "LogNormal",
    "MixturePrior",
    "NegativeBinomial",
    "Normal",
    "Ordinal",
    "PointMass",
    "Poisson",
    "StandardNormal",
    "StudentT",
    "TruncatedExponential",
    "VampPrior",
    "ZeroInflatedNegativeBinomial",
    "ZeroInflatedPoisson",
    "ZukoFlow",
]
