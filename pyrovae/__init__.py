"""Latent-variable models as Pyro model/guide pairs, and what a fitted one is worth in numbers known to be true."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# resolved on first use: `import pyrovae` alone brings in not even torch
_HOMES = {
    "pyrovae.models.batch": ["Batch"],
    "pyrovae.models.pair": ["Density", "LatentPair", "Pair"],
    "pyrovae.models.vae": ["VAE", "conv_vae", "linear_vae", "mlp_vae"],
    "pyrovae.models.autoencoder": ["AE", "conv_ae", "mlp_ae"],
    "pyrovae.models.density": ["GaussianPrior", "as_density"],
    "pyrovae.models.ensemble": ["Ensemble"],
    "pyrovae.models.independent": ["IndependentEntries"],
    "pyrovae.models.given": ["Given"],
    "pyrovae.models.mixture": ["ConditionalMixture", "GaussianMixture"],
    "pyrovae.models.bayesian": ["BayesianGaussianMixture"],
    "pyrovae.models.column_mixture": ["ColumnMixture"],
    "pyrovae.models.column_conditional": ["ConditionalColumns"],
    "pyrovae.columns": ["Column"],
    "pyrovae.models.table_vae": ["table_vae"],
    "pyrovae.models.bayesian_vae": ["BayesianVAE"],
    "pyrovae.models.classifiers": ["DiscriminativeClassifier", "GenerativeClassifier", "gaussian_classifier"],
    "pyrovae.models.distributions": [
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
        "VampPrior",
        "ZeroInflatedNegativeBinomial",
        "ZeroInflatedPoisson",
        "ZukoFlow",
    ],
    "pyrovae.models.registry": ["register"],
    "pyrovae.models.semi_supervised": ["SemiSupervisedVAE"],
    "pyrovae.inference.training": ["fit"],
    "pyrovae.inference.compiled_svi": ["CaptureError", "CompiledSVI", "CompilerError"],
    "pyrovae.inference.history": ["History"],
    "pyrovae.inference.svi.run": ["PosteriorCollapseWarning"],
    "pyrovae.inference.em": ["SingularDriftWarning", "VarianceFloorWarning"],
    "pyrovae.inference.em.columns": ["ZeroProbabilityWarning"],
    "pyrovae.inference.multiple_imputation": ["multiple_imputation"],
    "pyrovae.evaluation.pooling": ["Pooled", "pool"],
    "pyrovae.inference.discriminative": ["SeparableWarning"],
    "pyrovae.inference.checkpoint": ["CheckpointError", "load", "save"],
    "pyrovae.evaluation.classification": ["auroc", "classification_scores", "predictions", "reliability"],
    "pyrovae.evaluation.estimate": ["Estimate"],
    "pyrovae.evaluation.evidence": ["elbo", "exact", "iwae"],
    "pyrovae.evaluation.quadrature": ["quadrature"],
    "pyrovae.evaluation.annealing": ["ais", "bdmc"],
    "pyrovae.evaluation.gaps": ["Gaps", "gaps", "overfit"],
    "pyrovae.evaluation.calibration": ["Calibration", "calibrate"],
    "pyrovae.evaluation.criticism": ["PredictiveChecks", "predictive_checks"],
    "pyrovae.evaluation.novelty": ["Novelty", "NoveltyComparison", "NoveltyDetector"],
    "pyrovae.evaluation.code_space.survey": ["code_space"],
    "pyrovae.evaluation.code_space.codes": ["decoded", "encoded"],
    "pyrovae.evaluation.code_space.activity": ["active_units"],
    "pyrovae.evaluation.code_space.crispness": ["crispness"],
    "pyrovae.evaluation.code_space.judge": ["Judge"],
    "pyrovae.evaluation.code_space.reconstruction": ["reconstruction_error"],
    "pyrovae.evaluation.comparison": ["paired_interval", "verdicts"],
    "pyrovae.model_choice": ["Choice", "choose"],
    "pyrovae.export": ["to_arviz"],
    "pyrovae.export_program": ["export_program"],
    "pyrovae.ranks": ["distributed"],
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
_ROOMS = ("callbacks", "data", "evaluation", "inference", "methods", "models", "plotting", "report", "sklearn")

__all__ = [*_HOME_OF, *_ROOMS]

if TYPE_CHECKING:  # `name as name`: without it a type checker does not take a name for one of this module's own
    # isort: off
    from pyrovae import (
        callbacks as callbacks,
        data as data,
        evaluation as evaluation,
        inference as inference,
        methods as methods,
        models as models,
        plotting as plotting,
        report as report,
        sklearn as sklearn,
    )
    from pyrovae.evaluation.annealing import ais as ais, bdmc as bdmc
    from pyrovae.evaluation.calibration import Calibration as Calibration, calibrate as calibrate
    from pyrovae.evaluation.classification import (
        auroc as auroc,
        classification_scores as classification_scores,
        predictions as predictions,
        reliability as reliability,
    )
    from pyrovae.evaluation.code_space.activity import active_units as active_units
    from pyrovae.evaluation.code_space.codes import decoded as decoded, encoded as encoded
    from pyrovae.evaluation.code_space.crispness import crispness as crispness
    from pyrovae.evaluation.code_space.judge import Judge as Judge
    from pyrovae.evaluation.code_space.reconstruction import reconstruction_error as reconstruction_error
    from pyrovae.evaluation.code_space.survey import code_space as code_space
    from pyrovae.evaluation.comparison import paired_interval as paired_interval, verdicts as verdicts
    from pyrovae.evaluation.criticism import (
        PredictiveChecks as PredictiveChecks,
        predictive_checks as predictive_checks,
    )
    from pyrovae.evaluation.estimate import Estimate as Estimate
    from pyrovae.evaluation.evidence import elbo as elbo, exact as exact, iwae as iwae
    from pyrovae.evaluation.gaps import Gaps as Gaps, gaps as gaps, overfit as overfit
    from pyrovae.evaluation.novelty import (
        Novelty as Novelty,
        NoveltyComparison as NoveltyComparison,
        NoveltyDetector as NoveltyDetector,
    )
    from pyrovae.evaluation.quadrature import quadrature as quadrature
    from pyrovae.export import to_arviz as to_arviz
    from pyrovae.export_program import export_program as export_program
    from pyrovae.inference.checkpoint import CheckpointError as CheckpointError, load as load, save as save
    from pyrovae.inference.compiled_svi import (
        CaptureError as CaptureError,
        CompiledSVI as CompiledSVI,
        CompilerError as CompilerError,
    )
    from pyrovae.inference.discriminative import SeparableWarning as SeparableWarning
    from pyrovae.inference.em.columns import ZeroProbabilityWarning as ZeroProbabilityWarning
    from pyrovae.inference.multiple_imputation import multiple_imputation as multiple_imputation
    from pyrovae.evaluation.pooling import Pooled as Pooled, pool as pool
    from pyrovae.inference.em import (
        SingularDriftWarning as SingularDriftWarning,
        VarianceFloorWarning as VarianceFloorWarning,
    )
    from pyrovae.inference.history import History as History
    from pyrovae.inference.svi.run import PosteriorCollapseWarning as PosteriorCollapseWarning
    from pyrovae.inference.training import fit as fit
    from pyrovae.models.autoencoder import AE as AE, conv_ae as conv_ae, mlp_ae as mlp_ae
    from pyrovae.models.batch import Batch as Batch
    from pyrovae.models.bayesian import BayesianGaussianMixture as BayesianGaussianMixture
    from pyrovae.models.column_conditional import ConditionalColumns as ConditionalColumns
    from pyrovae.models.column_mixture import ColumnMixture as ColumnMixture
    from pyrovae.columns import Column as Column
    from pyrovae.model_choice import Choice as Choice, choose as choose
    from pyrovae.models.bayesian_vae import BayesianVAE as BayesianVAE
    from pyrovae.models.classifiers import (
        DiscriminativeClassifier as DiscriminativeClassifier,
        GenerativeClassifier as GenerativeClassifier,
        gaussian_classifier as gaussian_classifier,
    )
    from pyrovae.models.density import GaussianPrior as GaussianPrior, as_density as as_density
    from pyrovae.models.distributions import (
        Bernoulli as Bernoulli,
        Categorical as Categorical,
        ColumnFamily as ColumnFamily,
        ConditionalNormal as ConditionalNormal,
        ContinuousBernoulli as ContinuousBernoulli,
        DiagonalNormal as DiagonalNormal,
        DiscretizedLogistic as DiscretizedLogistic,
        FlowPosterior as FlowPosterior,
        FlowPrior as FlowPrior,
        FromDistribution as FromDistribution,
        FullNormal as FullNormal,
        Gamma as Gamma,
        HeteroscedasticNormal as HeteroscedasticNormal,
        Laplace as Laplace,
        Likelihood as Likelihood,
        LinearNormal as LinearNormal,
        LogNormal as LogNormal,
        MixturePrior as MixturePrior,
        NegativeBinomial as NegativeBinomial,
        Normal as Normal,
        Ordinal as Ordinal,
        PointMass as PointMass,
        Poisson as Poisson,
        StandardNormal as StandardNormal,
        StudentT as StudentT,
        VampPrior as VampPrior,
        ZeroInflatedNegativeBinomial as ZeroInflatedNegativeBinomial,
        ZeroInflatedPoisson as ZeroInflatedPoisson,
        ZukoFlow as ZukoFlow,
    )
    from pyrovae.models.independent import IndependentEntries as IndependentEntries
    from pyrovae.models.ensemble import Ensemble as Ensemble
    from pyrovae.models.given import Given as Given
    from pyrovae.models.mixture import ConditionalMixture as ConditionalMixture, GaussianMixture as GaussianMixture
    from pyrovae.models.pair import Density as Density, LatentPair as LatentPair, Pair as Pair
    from pyrovae.models.registry import register as register
    from pyrovae.models.semi_supervised import SemiSupervisedVAE as SemiSupervisedVAE
    from pyrovae.models.table_vae import table_vae as table_vae
    from pyrovae.models.vae import VAE as VAE, conv_vae as conv_vae, linear_vae as linear_vae, mlp_vae as mlp_vae
    from pyrovae.ranks import distributed as distributed
    # isort: on


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        value = getattr(_imported(_HOME_OF[name]), name)
    elif name in _ROOMS:
        value = _imported(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def _imported(module: str) -> Any:
    from pyrovae.interruption import held

    with held():  # torch and Pyro that are imported by half cannot be imported any more
        if "IPython" not in sys.modules:
            return import_module(module)
        from tqdm import TqdmWarning

        from pyrovae.warned import hushed

        with hushed(TqdmWarning):  # Pyro's bars ask a kernel for ipywidgets; those of this package need none
            return import_module(module)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
