"""Calls of the methods of fitted pairs and estimators, of results, of tables, and with weights and missing entries."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pyro
import pyro.infer
import pyro.optim
import torch
from calls import (
    CODES,
    ITEMS,
    LABELS,
    PAIR,
    QUIET,
    ROWS,
    WORDS,
    M,
    fitted,
    fitting,
    frame,
    mixture,
    of,
    table,
    vae,
    x,
    y,
)

import pyrovae
from pyrovae import callbacks, data, methods, plotting, report, sklearn

__all__ = ["ABSENT"]

ABSENT = M(lambda: x().index_put((torch.tensor([1]), torch.tensor([1])), torch.tensor(torch.nan)))
MASK = M(lambda: torch.zeros(12, 4, dtype=torch.bool).index_put((torch.tensor([1]),), torch.tensor(True)))
WEIGHT = M(lambda: torch.ones(12).index_put((torch.tensor([1]),), torch.tensor(2.0)))
TABLE = M(table)

# pairs -------------------------------------------------------------------------------------------


@cache
def semi_supervised() -> Any:
    torch.manual_seed(0)
    pair = pyrovae.SemiSupervisedVAE((4,), 2, 1, hidden_dims=(3,), likelihood="normal")
    pyrovae.fit(pair, x(), y(), epochs=1, **QUIET)
    return pair


@cache
def bayesian() -> Any:
    torch.manual_seed(0)
    pair = pyrovae.BayesianGaussianMixture((2,), 2)
    pyrovae.fit(pair, torch.rand(20, 2), epochs=2, **QUIET)
    return pair


@cache
def bayesian_vae() -> Any:
    torch.manual_seed(0)
    pair = pyrovae.BayesianVAE(vae())
    pyrovae.fit(pair, x(), epochs=1, **QUIET)
    return pair


@cache
def ensemble() -> Any:
    return pyrovae.Ensemble([vae(), pyrovae.linear_vae(4, 2)])


@cache
def independent() -> Any:
    pair = pyrovae.IndependentEntries((4,))
    pyrovae.fit(pair, x(), **QUIET)
    return pair


def table_vae() -> Any:
    torch.manual_seed(0)
    return pyrovae.table_vae(table().columns, 1, hidden_dims=(3,))


for _name in ("encode", "reconstruct", "log_joint", "log_prob", "predict", "predict_log_proba"):
    of(f"semi.{_name}", lambda name=_name: getattr(semi_supervised(), name), x=ITEMS)
of("semi.sample", lambda: semi_supervised().sample, n=2, label=1)
of("semi.of_class", lambda: semi_supervised().of_class, label=1)
of("classifier.numbers", lambda: fitted("classifier").numbers, y=LABELS, count=12)
of("classifier.with_standard_error", lambda: fitted("classifier").with_standard_error, x=ITEMS)
for _name in ("log_prob", "with_standard_error", "responsibilities"):
    of(f"bayesian.{_name}", lambda name=_name: getattr(bayesian(), name), x=M(lambda: torch.rand(3, 2)))
of("bayesian.sample", lambda: bayesian().sample, n=2)
of("bayesian_vae.model", lambda: bayesian_vae().model, x=ITEMS)
of("ensemble.sample", lambda: ensemble().sample, n=2)
of("ensemble.encode", lambda: ensemble().encode, x=ITEMS)
of("ensemble.decode", lambda: ensemble().decode, z=M(lambda: torch.zeros(3, 4)))
of("ensemble.reconstruct", lambda: ensemble().reconstruct, x=ITEMS)
of("independent.log_prob", lambda: independent().log_prob, x=ITEMS)
of("independent.sample", lambda: independent().sample, n=2)
of("mixture.impute", lambda: fitted("mixture").impute, x=ABSENT, num_draws=2)
of("table_vae.impute", lambda: table_vae().impute, x=M(lambda: table().x), num_draws=2)
of("table_vae.encode", lambda: table_vae().encode, x=M(lambda: table().x))
of("table_vae.sample", lambda: table_vae().sample, n=2)
of("columns.parameters_of", lambda: fitted("columns").parameters_of, column="a")
of("ConditionalColumns.probabilities", lambda: fitted("columns").conditional(table().x).probabilities, column="b")
of("Given.sample", lambda: pyrovae.Given(pyrovae.linear_vae(4, 2, covariate_dim=1), [1.0]).sample, n=2)
of("Bernoulli", lambda: pyrovae.Bernoulli)
of("CompiledSVI", lambda: compiled)
of("ZukoFlow", lambda: pyrovae.ZukoFlow, flow=M(lambda: zuko_flow()))


def compiled(**settings: Any) -> Any:
    pair = vae()
    parts = {"optim": pyro.optim.Adam({"lr": 1e-3}), "loss": pyro.infer.Trace_ELBO(), **settings}
    return pyrovae.CompiledSVI(parts.pop("model", pair.model), parts.pop("guide", pair.guide), **parts)


compiled.__signature__ = __import__("inspect").signature(pyrovae.CompiledSVI)  # type: ignore[attr-defined]


def zuko_flow() -> Any:
    import zuko

    return zuko.flows.MAF(2, 0, transforms=1, hidden_features=(3,))


# weights, missing entries and tables -------------------------------------------------------------

of("fit weighted", lambda: pyrovae.fit, pair=PAIR, x=ITEMS, weight=WEIGHT, epochs=1, progress=False)
of("fit mixture weighted", lambda: pyrovae.fit, pair=M(mixture), x=ITEMS, weight=WEIGHT, **QUIET)
of(
    "fit missing",
    lambda: pyrovae.fit,
    pair=M(lambda: pyrovae.linear_vae(4, 2, missing=True)),
    x=ABSENT,
    missing=True,
    epochs=1,
    progress=False,
)
of("fit table", lambda: pyrovae.fit, pair=M(table_vae), x=TABLE, epochs=1, progress=False)
of("fit independent", lambda: pyrovae.fit, pair=M(lambda: pyrovae.IndependentEntries((4,))), x=ITEMS, progress=False)
of("elbo weighted", lambda: pyrovae.elbo, pair=PAIR, x=ITEMS, num_particles=2, weight=WEIGHT)
of("elbo table", lambda: pyrovae.elbo, pair=M(table_vae), x=TABLE, num_particles=2)
of("iwae missing", lambda: pyrovae.iwae, pair=M(lambda: pyrovae.linear_vae(4, 2, missing=True)), x=ABSENT, missing=True)
of("Split with all", lambda: data.Split, x=ITEMS, y=LABELS, weight=WEIGHT, missing=MASK)
of("Dataset", lambda: data.Dataset, **M(lambda: dict(vars(data.load("digits"))))())
of("Table.followed_by", lambda: table().followed_by, other=TABLE)
of(
    "MappedArray.followed_by",
    lambda: data.MappedArray(x().numpy()).followed_by,
    other=M(lambda: data.MappedArray(x().numpy())),
)
of("Encoding.encode", lambda: table().encoding.encode, frame=M(frame))
of("Encoding.frame", lambda: table().encoding.frame, x=M(lambda: table().x))

# results -----------------------------------------------------------------------------------------


@cache
def pooled() -> Any:
    return pyrovae.pool([1.0, 1.1], [0.1, 0.1], complete_df=10)


@cache
def judge() -> Any:
    return pyrovae.Judge.fit(x(), y())


of("Pooled.interval", lambda: pooled().interval, level=0.9)
of("Calibration", lambda: pyrovae.Calibration, **M(lambda: dict(vars(fitted("calibration"))))())
of("History.line", lambda: lambda **k: str(pyrovae.History(**k)), epochs=M(lambda: fitted("history").epochs))
of("plotting.post_ae_grid", lambda: plotting.post_ae_grid)
for _name in ("latent_scatter", "cdf_scatter"):
    of(f"plotting.{_name} labels", lambda name=_name: getattr(plotting, name), codes=CODES, labels=LABELS)

# where one adds one's own ------------------------------------------------------------------------


@dataclass(frozen=True)
class OwnMethod(methods.Method):
    """A method that does nothing."""

    name = "own"


of("methods.register_methods", lambda: lambda kind: methods.register_methods(kind, OwnMethod()), kind=M(lambda: Own()))
of("report.Section", lambda: report.Section, title="a", how_to_read="b", html="<p>c</p>")
of("report.add_section", lambda: lambda order: report.add_section(order=order), order=2000.0)
of("callbacks.Run", lambda: callbacks.Run, pair=PAIR, epochs=1, config={})


def Own() -> type:  # noqa: N802
    return type("Own", (torch.nn.Module,), {})


ENTRIES = M(lambda: [report.Entry("a", pyrovae.linear_vae(64, 2))])
of("report.explorer", lambda: report.explorer, entries=ENTRIES, data=M(lambda: flat()))


def flat() -> Any:
    part = data.Split(torch.rand(20, 64), torch.arange(20) % 2)
    import dataclasses

    return dataclasses.replace(data.load("digits"), train=part, test=part)


# scikit-learn's interface ------------------------------------------------------------------------

fitting("ColumnMixture", items=M(frame), n_init=1, max_iter=3)
ESTIMATORS = {
    "sk_ae": ("fit_transform", "inverse_transform"),
    "sk_vae": ("fit_transform",),
    "sk_mixture": ("fit_predict",),
    "sk_imputer": ("fit_transform",),
}


@cache
def estimator(name: str) -> Any:
    kind = {"sk_columns": sklearn.ColumnMixture}[name]
    return kind(n_init=1, max_iter=3).fit(frame())


for _name, _names in ESTIMATORS.items():
    for _method in _names:
        key = "Z" if _method == "inverse_transform" else "X"
        items = M(lambda: np.zeros((3, 2))) if key == "Z" else ROWS
        of(f"{_name}.{_method}", lambda a=_name, b=_method: getattr(fitted(a), b), **{key: items})
for _name in ("sk_generative", "sk_discriminative"):
    of(f"{_name}.score", lambda a=_name: fitted(a).score, X=ROWS, y=WORDS)
for _method in ("predict", "predict_proba", "score", "score_samples", "aic", "bic", "impute"):
    of(f"sk_columns.{_method}", lambda b=_method: getattr(estimator("sk_columns"), b), X=M(frame))
for _method in ("score_samples",):
    of(f"sk_table.{_method}", lambda b=_method: getattr(fitted("sk_table"), b), X=M(frame))
of("sk_columns.sample", lambda: estimator("sk_columns").sample, n_samples=2)
of("sk_table.sample", lambda: fitted("sk_table").sample, n_samples=2)
of("sk_table.inverse_transform", lambda: fitted("sk_table").inverse_transform, Z=M(lambda: np.zeros((3, 2))))
