"""A call of every public function, class and method that works, so that one argument after another can be spoilt."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import cache
from typing import Any

import numpy as np
import torch

import pyrovae
from pyrovae import callbacks, data, evaluation, methods, plotting, report, sklearn

__all__ = ["CALLS", "Call"]

Call = tuple[Callable[..., Any], dict[str, Any]]
CALLS: dict[str, Callable[[], Call]] = {}
"""By name: a function that gives what is called, made anew, and arguments by which it works."""

QUIET = {"progress": False}


def x(n: int = 12) -> torch.Tensor:
    return torch.linspace(0, 1, n * 4).reshape(n, 4).roll(1, 0)


def y(n: int = 12) -> torch.Tensor:
    return torch.arange(n) % 2


def images() -> torch.Tensor:
    return torch.linspace(0, 1, 12 * 64).reshape(12, 1, 8, 8)


def frame() -> Any:
    import pandas as pd

    return pd.DataFrame({"a": np.linspace(0, 1, 40), "b": ["u", "v"] * 20, "c": np.arange(40) % 3})


def vae() -> Any:
    torch.manual_seed(0)
    return pyrovae.linear_vae(4, 2)


def mlp() -> Any:
    torch.manual_seed(0)
    return pyrovae.mlp_vae((4,), 1, hidden_dims=(3,))


def mixture() -> Any:
    torch.manual_seed(0)
    return pyrovae.GaussianMixture((4,), 2)


def classifier() -> Any:
    return pyrovae.gaussian_classifier((4,), 2)


@cache
def _fitted(name: str) -> Any:
    if name == "mixture":
        pair = mixture()
        pyrovae.fit(pair, x(40), **QUIET)
        return pair
    if name == "classifier":
        pair = classifier()
        pyrovae.fit(pair, torch.rand(40, 4), y(40), **QUIET)
        return pair
    if name == "columns":
        pair = pyrovae.ColumnMixture(table().columns, 2)
        pyrovae.fit(pair, table(), max_iterations=3, num_restarts=1, **QUIET)
        return pair
    if name == "history":
        return pyrovae.fit(vae(), x(), epochs=10, validation=x(), **QUIET)
    if name == "exact":
        return pyrovae.exact(vae(), x(2))
    if name == "calibration":
        return pyrovae.calibrate(vae(), num_simulations=20, num_draws=9)
    if name == "predictions":
        return pyrovae.predictions(fitted("classifier"), x(40), y(40))
    if name == "gaps":
        pair = vae()
        return pyrovae.gaps(
            pair, x(2), pyrovae.exact(pair, x(2)), num_starts=4, num_particles=6, num_evaluation=4, max_steps=2, **QUIET
        )
    kind, settings = {
        "sk_ae": (sklearn.AE, {"epochs": 1}),
        "sk_vae": (sklearn.VAE, {"epochs": 1, "num_particles": 2}),
        "sk_mixture": (sklearn.GaussianMixture, {"n_init": 1}),
        "sk_generative": (sklearn.GenerativeClassifier, {}),
        "sk_discriminative": (sklearn.DiscriminativeClassifier, {"max_iter": 5}),
        "sk_imputer": (sklearn.Imputer, {"num_draws": 2}),
        "sk_table": (sklearn.TableVAE, {"epochs": 1, "num_particles": 2}),
    }[name]
    estimator = kind(**settings)
    items = np.random.default_rng(0).random((40, 4))
    labelled = name in ("sk_generative", "sk_discriminative")
    return (
        estimator.fit(frame()) if name == "sk_table" else estimator.fit(items, *([y(40).numpy()] if labelled else []))
    )


def fitted(name: str) -> Any:
    return deepcopy(_fitted(name))


@cache
def table() -> Any:
    return data.table(frame())


def call(name: str, make: Callable[[], Call]) -> None:
    CALLS[name] = make


def of(name: str, function: Callable[[], Callable[..., Any]], /, **values: Any) -> None:
    """A call whose arguments are made by functions, where they are no plain values."""

    def make() -> Call:
        return function(), {
            key: value() if isinstance(value, _Made) else deepcopy(value) for key, value in values.items()
        }

    CALLS[name] = make


class _Made:
    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make

    def __call__(self) -> Any:
        return self.make()


M = _Made
PAIR, ITEMS, LABELS = M(vae), M(x), M(y)
SPLIT = M(lambda: data.Split(x(40), y(40)))


# builders and parts ------------------------------------------------------------------------------

of("mlp_vae", lambda: pyrovae.mlp_vae, event_shape=(4,), hidden_dims=(3,))
of("conv_vae", lambda: pyrovae.conv_vae, event_shape=(1, 8, 8), channels=(2,), strides=(1,))
of("linear_vae", lambda: pyrovae.linear_vae, features=4, latent_dim=2)
of("table_vae", lambda: pyrovae.table_vae, columns=M(lambda: table().columns), hidden_dims=(3,))
of("mlp_ae", lambda: pyrovae.mlp_ae, event_shape=(4,), hidden_dims=(3,))
of("conv_ae", lambda: pyrovae.conv_ae, event_shape=(1, 8, 8), channels=(2,), strides=(1,))
of("gaussian_classifier", lambda: pyrovae.gaussian_classifier, event_shape=(4,), num_classes=2)
of("SemiSupervisedVAE", lambda: pyrovae.SemiSupervisedVAE, event_shape=(4,), num_classes=2, hidden_dims=(3,))
of("GaussianMixture", lambda: pyrovae.GaussianMixture, event_shape=(4,), num_components=2)
of("BayesianGaussianMixture", lambda: pyrovae.BayesianGaussianMixture, event_shape=(4,), num_components=2)
of("ColumnMixture", lambda: pyrovae.ColumnMixture, columns=M(lambda: table().columns), num_components=2)
of("IndependentEntries", lambda: pyrovae.IndependentEntries, event_shape=(4,))
of("DiscriminativeClassifier", lambda: pyrovae.DiscriminativeClassifier, event_shape=(4,), num_classes=2)
of("GenerativeClassifier", lambda: pyrovae.GenerativeClassifier, densities=M(lambda: {"a": mixture(), "b": mixture()}))
of("Ensemble", lambda: pyrovae.Ensemble, members=M(lambda: [vae(), vae()]))
of("BayesianVAE", lambda: pyrovae.BayesianVAE, vae=PAIR)
of(
    "VAE",
    lambda: pyrovae.VAE,
    prior=M(lambda: vae().prior),
    likelihood=M(lambda: vae().likelihood),
    posterior=M(lambda: vae().posterior),
)
of(
    "AE",
    lambda: pyrovae.AE,
    likelihood=M(lambda: pyrovae.mlp_ae((4,)).likelihood),
    encoder=M(lambda: pyrovae.mlp_ae((4,)).posterior),
)
of(
    "as_density",
    lambda: pyrovae.as_density,
    ae=M(lambda: pyrovae.mlp_ae((4,))),
    prior=M(lambda: pyrovae.StandardNormal(2)),
)
of("Column", lambda: pyrovae.Column, name="a", kind="real")
of("Batch", lambda: pyrovae.Batch, x=ITEMS)
of("Given", lambda: pyrovae.Given, pair=M(lambda: pyrovae.linear_vae(4, 2, covariate_dim=1)), covariates=[1.0])
of("GaussianPrior", lambda: pyrovae.GaussianPrior, loc=M(lambda: torch.zeros(2)), covariance=M(lambda: torch.eye(2)))
of("GaussianPrior.fit", lambda: pyrovae.GaussianPrior.fit, codes=M(lambda: torch.rand(12, 2)))
NETWORK = M(lambda: torch.nn.Linear(4, 3))
of("Categorical", lambda: pyrovae.Categorical, num_classes=3)
of("ColumnFamily", lambda: pyrovae.ColumnFamily, columns=M(lambda: table().columns))
of("ConditionalNormal", lambda: pyrovae.ConditionalNormal, latent_dim=2, covariate_dim=1)
of("DiagonalNormal", lambda: pyrovae.DiagonalNormal, network=NETWORK, features=3, latent_dim=2)
of("FullNormal", lambda: pyrovae.FullNormal, network=NETWORK, features=3, latent_dim=2)
of("PointMass", lambda: pyrovae.PointMass, network=NETWORK, features=3, latent_dim=2)
of("FlowPosterior", lambda: pyrovae.FlowPosterior, network=NETWORK, features=3, latent_dim=2)
of("LinearNormal", lambda: pyrovae.LinearNormal, features=4, latent_dim=2)
of("DiscretizedLogistic", lambda: pyrovae.DiscretizedLogistic)
of("FlowPrior", lambda: pyrovae.FlowPrior, latent_dim=2)
of("FromDistribution", lambda: pyrovae.FromDistribution)
of("Gamma", lambda: pyrovae.Gamma)
of("HeteroscedasticNormal", lambda: pyrovae.HeteroscedasticNormal)
of("Laplace", lambda: pyrovae.Laplace)
of("LogNormal", lambda: pyrovae.LogNormal)
of("MixturePrior", lambda: pyrovae.MixturePrior, latent_dim=2)
of("NegativeBinomial", lambda: pyrovae.NegativeBinomial)
of("Normal", lambda: pyrovae.Normal)
of("Ordinal", lambda: pyrovae.Ordinal, num_classes=3)
of("StandardNormal", lambda: pyrovae.StandardNormal, latent_dim=2)
of("StudentT", lambda: pyrovae.StudentT)
of("VampPrior", lambda: pyrovae.VampPrior, latent_dim=2)
of("ZeroInflatedNegativeBinomial", lambda: pyrovae.ZeroInflatedNegativeBinomial)
of(
    "Likelihood",
    lambda: pyrovae.Likelihood,
    network=M(lambda: torch.nn.Linear(2, 4)),
    family=M(pyrovae.Normal),
    event_shape=(4,),
)
of("register", lambda: pyrovae.register, name="my_part", kind="prior")

# what a pair does --------------------------------------------------------------------------------

for _pair in (vae, mlp):
    of(f"{_pair.__name__}.encode", lambda make=_pair: make().encode, x=ITEMS)
    of(f"{_pair.__name__}.reconstruct", lambda make=_pair: make().reconstruct, x=ITEMS)
of("vae.decode", lambda: vae().decode, z=M(lambda: torch.zeros(3, 2)))
of(
    "vae.probabilities",
    lambda: pyrovae.linear_vae(4, 2, likelihood="categorical(num_classes=3)").probabilities,
    z=M(lambda: torch.zeros(3, 2)),
)
of("vae.sample", lambda: vae().sample, n=3)
of("vae.model", lambda: vae().model)
of("vae.guide", lambda: vae().guide, x=ITEMS)
of("vae.frozen", lambda: vae().frozen)
of("vae.impute", lambda: vae().impute, x=M(lambda: torch.tensor([[0.5, torch.nan, 0.1, 0.2]])), num_draws=2)
of(
    "mixture.conditional",
    lambda: fitted("mixture").conditional,
    x=M(lambda: torch.tensor([[0.5, torch.nan, 0.1, 0.2]])),
)
for _name in ("log_prob", "responsibilities", "bic"):
    of(f"mixture.{_name}", lambda name=_name: getattr(fitted("mixture"), name), x=ITEMS)
of("mixture.sample", lambda: fitted("mixture").sample, n=3)
for _name in ("log_prob", "responsibilities", "bic", "conditional"):
    of(f"columns.{_name}", lambda name=_name: getattr(fitted("columns"), name), x=M(lambda: table().x))
of("columns.impute", lambda: fitted("columns").impute, x=M(lambda: table().x), num_draws=2)
of("columns.sample", lambda: fitted("columns").sample, n=3)
for _name in ("predict", "predict_log_proba", "log_prob"):
    of(f"classifier.{_name}", lambda name=_name: getattr(fitted("classifier"), name), x=ITEMS)
of("classifier.log_joint", lambda: fitted("classifier").log_joint, x=ITEMS)
of("classifier.with_class_prior", lambda: fitted("classifier").with_class_prior, class_prior=[0.5, 0.5])
of("classifier.sample", lambda: fitted("classifier").sample, label=1, n=3)
of("encoded", lambda: pyrovae.encoded, pair=PAIR, x=ITEMS)
of("decoded", lambda: pyrovae.decoded, pair=PAIR, z=M(lambda: torch.zeros(3, 2)))
of("export_program", lambda: pyrovae.export_program, pair=PAIR, what="decode")
of("save", lambda: pyrovae.save, path="state", pair=PAIR)
of("load", lambda: pyrovae.load, path=M(lambda: pyrovae.save("state", vae())))
of("to_arviz", lambda: pyrovae.to_arviz, pair=PAIR, x=ITEMS, num_draws=2)

# fits --------------------------------------------------------------------------------------------

of("fit", lambda: pyrovae.fit, pair=PAIR, x=ITEMS, epochs=1, progress=False)
of("fit mixture", lambda: pyrovae.fit, pair=M(mixture), x=M(lambda: x(40)), num_restarts=1, progress=False)
of(
    "fit classifier",
    lambda: pyrovae.fit,
    pair=M(classifier),
    x=M(lambda: torch.rand(40, 4)),
    y=M(lambda: y(40)),
    progress=False,
)
of(
    "fit semi-supervised",
    lambda: pyrovae.fit,
    pair=M(lambda: pyrovae.SemiSupervisedVAE((4,), 2, 1, hidden_dims=(3,))),
    x=ITEMS,
    y=LABELS,
    unlabeled=ITEMS,
    binarize=True,
    epochs=1,
    progress=False,
)
for _method in ("SVI", "EM", "LBFGS", "NUTS", "ClosedForm", "LinearEM", "SemiSupervisedSVI"):
    of(f"methods.{_method}", lambda name=_method: getattr(methods, name))
of("methods.methods_of", lambda: methods.methods_of, pair=PAIR)
of("callbacks.CSVLog", lambda: callbacks.CSVLog, path="log.csv")
of("callbacks.TensorBoard", lambda: callbacks.TensorBoard, folder="board")
of(
    "multiple_imputation",
    lambda: pyrovae.multiple_imputation,
    build=M(lambda: lambda: pyrovae.linear_vae(4, 1, missing=True)),
    x=M(lambda: x(20).index_put((torch.tensor([1]), torch.tensor([1])), torch.tensor(torch.nan))),
    num_imputations=2,
    epochs=1,
    progress=False,
)
of(
    "choose",
    lambda: pyrovae.choose,
    build=M(lambda: lambda latent_dim=1: pyrovae.linear_vae(4, latent_dim)),
    x=ITEMS,
    folds=2,
    options={"epochs": 1},
    latent_dim=[1],
    progress=False,
)
of("pool", lambda: pyrovae.pool, estimates=[1.0, 1.1], variances=[0.1, 0.1], complete_df=10)

# estimates ---------------------------------------------------------------------------------------

of("elbo", lambda: pyrovae.elbo, pair=PAIR, x=ITEMS, num_particles=2)
of("iwae", lambda: pyrovae.iwae, pair=PAIR, x=ITEMS, num_particles=2)
of("exact", lambda: pyrovae.exact, pair=PAIR, x=ITEMS)
of("quadrature", lambda: pyrovae.quadrature, pair=PAIR, x=M(lambda: x(2)))
of("ais", lambda: pyrovae.ais, pair=PAIR, x=M(lambda: x(2)), num_chains=2, num_steps=2, progress=False)
of("bdmc", lambda: pyrovae.bdmc, pair=PAIR, n=2, num_chains=2, num_steps=2, progress=False)
of(
    "gaps",
    lambda: pyrovae.gaps,
    pair=PAIR,
    x=M(lambda: x(2)),
    evidence=M(lambda: fitted("exact")),
    num_starts=4,
    num_particles=6,
    num_evaluation=4,
    max_steps=2,
    progress=False,
)
of("Gaps.mean", lambda: fitted("gaps").mean, name="approximation")
of("overfit", lambda: pyrovae.overfit, train=M(lambda: fitted("gaps")), test=M(lambda: fitted("gaps")))
of("calibrate", lambda: pyrovae.calibrate, pair=PAIR, num_simulations=20, num_draws=9)
of("predictive_checks", lambda: pyrovae.predictive_checks, pair=PAIR, x=ITEMS, draws=19, num_particles=4)
of(
    "NoveltyDetector",
    lambda: pyrovae.NoveltyDetector,
    pair=PAIR,
    usual=M(lambda: x(60)),
    score="typicality",
    num_particles=2,
)
_detector = cache(lambda: pyrovae.NoveltyDetector(vae(), x(60), score="typicality", num_particles=2))
of("NoveltyDetector.detect", lambda: _detector().detect, x=ITEMS)
of("NoveltyDetector.compare", lambda: _detector().compare, usual=ITEMS, strange=ITEMS)
of("code_space", lambda: pyrovae.code_space, pair=PAIR, train=SPLIT, test=SPLIT, num_codes=20, num_pairs=2)
of("active_units", lambda: pyrovae.active_units, loc=M(lambda: torch.rand(12, 2)))
of("crispness", lambda: pyrovae.crispness, images=M(images), reference=M(images))
of("reconstruction_error", lambda: pyrovae.reconstruction_error, x=ITEMS, reconstruction=ITEMS)
of("Judge.fit", lambda: pyrovae.Judge.fit, x=ITEMS, y=LABELS)
of("paired_interval", lambda: pyrovae.paired_interval, differences=[1.0, 2.0, 1.5])
of("auroc", lambda: pyrovae.auroc, usual=[1.0, 2.0], strange=[2.0, 3.0])
of("predictions", lambda: pyrovae.predictions, classifier=M(lambda: fitted("classifier")), x=ITEMS, y=LABELS)
of("classification_scores", lambda: pyrovae.classification_scores, table=M(lambda: fitted("predictions")))
of("reliability", lambda: pyrovae.reliability, table=M(lambda: fitted("predictions")))
of("verdicts", lambda: pyrovae.verdicts, effects={"a": [1.0, 2.0, 1.5]}, smallest={"a": 0.1})
of("Estimate", lambda: pyrovae.Estimate, kind="elbo", pointwise=M(lambda: fitted("exact").pointwise))
of("Estimate.named", lambda: fitted("exact").named, data="a")
of("Estimate.line", lambda: fitted("exact").line)
of("evaluation.Session", lambda: evaluation.Session, name="mine", pair=PAIR)
of("evaluation.log_mean", lambda: evaluation.log_mean, log_weight=M(lambda: torch.rand(5, 3)))
of("History", lambda: pyrovae.History, epochs=M(lambda: fitted("history").epochs))
of("History.levelled_off", lambda: fitted("history").levelled_off)

# data --------------------------------------------------------------------------------------------

of("data.load", lambda: data.load, name_or_path="digits")
of("data.table", lambda: data.table, frame=M(frame))
of("data.one_hot", lambda: data.one_hot, y=LABELS)
of("data.binarize", lambda: data.binarize, x=ITEMS)
of(
    "data.batches",
    lambda: lambda **k: list(data.batches(**k)),
    x=ITEMS,
    batch_size=4,
    seed=0,
    epoch=0,
    shuffle=True,
    share=None,
)
of("data.labelled_subset", lambda: data.labelled_subset, y=LABELS, count=2)
of("data.Split", lambda: data.Split, x=ITEMS)
of("Split.followed_by", lambda: data.Split(x(), y()).followed_by, other=M(lambda: data.Split(x(), y())))
of("Split.__getitem__", lambda: lambda index: data.Split(x(), y())[index], index=[0])
of("data.MappedArray", lambda: data.MappedArray, source=M(lambda: x().numpy()))
of("MappedArray.select", lambda: data.MappedArray(x().numpy()).select, index=[1])
of("MappedArray.exactly", lambda: data.MappedArray(x().numpy()).exactly, index=[1])
of("MappedArray.__getitem__", lambda: lambda index: data.MappedArray(x().numpy())[index], index=0)
of("Table.split", lambda: table().split)
of("Table.frame", lambda: table().frame)
of("Table.like", lambda: table().like, frame=M(frame))
of("Encoding.from_recipe", lambda: data.Encoding.from_recipe, recipe=M(lambda: table().encoding.recipe()))

# pictures and pages ------------------------------------------------------------------------------

CODES = M(lambda: torch.rand(12, 2))
of(
    "plotting.bound_curve",
    lambda: plotting.bound_curve,
    particles=[1, 10],
    bounds={"iwae": ([-2.0, -1.0], [0.1, 0.1])},
)
of("plotting.box_grid", lambda: plotting.box_grid, codes=CODES)
of("plotting.cdf_scatter", lambda: plotting.cdf_scatter, codes=CODES)
of("plotting.coverage_curve", lambda: plotting.coverage_curve, uniform=M(lambda: fitted("calibration")))
of("plotting.decoded_grid", lambda: plotting.decoded_grid, images=M(images), n_rows=3, n_cols=4)
of("plotting.gap_histogram", lambda: plotting.gap_histogram, gaps=M(lambda: fitted("gaps")))
of(
    "plotting.grid_over_scatter",
    lambda: plotting.grid_over_scatter,
    codes=CODES,
    labels=LABELS,
    grid_codes=M(lambda: plotting.normal_quantile_grid(3)),
    images=M(lambda: images()[:9]),
)
of("plotting.interpolations", lambda: plotting.interpolations, images=M(lambda: images().reshape(3, 4, 1, 8, 8)))
of(
    "plotting.interval_curves",
    lambda: plotting.interval_curves,
    at=[1, 2],
    curves={"a": ([1, 2], [0, 1], [2, 3])},
    xlabel="x",
    ylabel="y",
)
of("plotting.interval_plot", lambda: plotting.interval_plot, names=["a"], mean=[1.0], low=[0.5], high=[1.5])
of("plotting.latent_scatter", lambda: plotting.latent_scatter, codes=CODES)
of("plotting.learning_curve", lambda: plotting.learning_curve, epochs=M(lambda: fitted("history")))
of("plotting.normal_quantile_grid", lambda: plotting.normal_quantile_grid)
of("plotting.per_class", lambda: plotting.per_class, values={"a": [1.0, 2.0]})
of("plotting.rank_histogram", lambda: plotting.rank_histogram, uniform=M(lambda: fitted("calibration")))
of("plotting.rate_distortion", lambda: plotting.rate_distortion, rate=[1.0], distortion=[2.0])
of("plotting.reconstructions", lambda: plotting.reconstructions, x=M(images), rows={"a": np.zeros((12, 1, 8, 8))})
of(
    "plotting.reliability_curve",
    lambda: plotting.reliability_curve,
    tables=M(lambda: {"a": pyrovae.reliability(fitted("predictions"))}),
)
of("plotting.sample_sheet", lambda: plotting.sample_sheet, images=M(images))
of("report.Entry", lambda: report.Entry, name="a", pair=PAIR)
of("report.items", lambda: report.items, data=M(lambda: data.load("digits")), num_items=20)
of("report.page", lambda: report.page, title="a", sections=[])

# scikit-learn's interface ------------------------------------------------------------------------

ROWS = M(lambda: np.random.default_rng(0).random((40, 4)))
WORDS = M(lambda: y(40).numpy())


def fitting(kind: str, with_labels: bool = False, items: Any = ROWS, **settings: Any) -> None:
    """Settings are looked at by `fit`, as scikit-learn has it."""

    def fit(**own: Any) -> Any:
        arguments = (items(), WORDS()) if with_labels else (items(),)
        return getattr(sklearn, kind)(**{**settings, **own}).fit(*arguments)

    import inspect

    fit.__signature__ = inspect.signature(getattr(sklearn, kind))  # type: ignore[attr-defined]
    of(f"sklearn.{kind}(...).fit", lambda: fit)


fitting("AE", epochs=1)
fitting("VAE", epochs=1)
fitting("DiscriminativeClassifier", with_labels=True, max_iter=3)
fitting("GaussianMixture", n_init=1, max_iter=5)
fitting("GenerativeClassifier", with_labels=True)
fitting("Imputer")
fitting("TableVAE", items=M(frame), epochs=1)


def saved(name: str) -> str:
    fitted(name).save("estimator")
    return "estimator"


for _name, _methods in {
    "sk_ae": ("transform", "score"),
    "sk_vae": ("transform", "score", "score_samples"),
    "sk_mixture": ("predict", "predict_proba", "score", "score_samples", "aic", "bic"),
    "sk_generative": ("predict", "predict_proba", "predict_log_proba", "score_samples"),
    "sk_discriminative": ("predict", "predict_proba", "predict_log_proba"),
    "sk_imputer": ("transform",),
}.items():
    for _method in _methods:
        of(f"{_name}.{_method}", lambda a=_name, b=_method: getattr(fitted(a), b), X=ROWS)
    of(f"{_name}.fit", lambda a=_name: fitted(a).fit, X=ROWS, **({"y": WORDS} if "ive" in _name else {}))
    of(f"{_name}.save", lambda a=_name: fitted(a).save, path="estimator")
    of(f"{_name}.load", lambda a=_name: type(fitted(a)).load, path=M(lambda a=_name: saved(a)))
of("sk_vae.sample", lambda: fitted("sk_vae").sample, n_samples=2)
of("sk_mixture.sample", lambda: fitted("sk_mixture").sample, n_samples=2)
of("sk_generative.sample", lambda: fitted("sk_generative").sample, n_samples=2)
of("sk_vae.inverse_transform", lambda: fitted("sk_vae").inverse_transform, Z=M(lambda: np.zeros((3, 2))))
of("sk_table.transform", lambda: fitted("sk_table").transform, X=M(frame))
of("sk_table.impute", lambda: fitted("sk_table").impute, X=M(frame))
of("sk_table.score", lambda: fitted("sk_table").score, X=M(frame))
