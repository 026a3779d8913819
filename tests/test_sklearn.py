"""The estimators with scikit-learn's interface: its own checks, and the numbers of the functional core."""

from __future__ import annotations

import inspect
import json
import pickle
from typing import get_type_hints

import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn
import sklearn.mixture
import torch
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import NotFittedError
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import pyrovae
from pyrovae.sklearn import (
    AE,
    EXPECTED_FAILED_CHECKS,
    VAE,
    ColumnMixture,
    DiscriminativeClassifier,
    GaussianMixture,
    GenerativeClassifier,
    Imputer,
    TableVAE,
)

SMALL = {"hidden_dims": (8,), "epochs": 2, "random_state": 0}
COVARIANCES = ["full", "tied", "diag", "spherical"]


def rows(count: int = 40, features: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, features))


def two_groups(count: int = 200) -> np.ndarray:
    """Rows of two normal groups, about (0, 0) and (6, 1) with dependent columns, 3 in 4 of the first."""
    rng = np.random.default_rng(1)
    factor = np.array([[1.0, 0.0], [0.6, 0.5]])
    x = rng.normal(size=(count, 2)) @ factor.T
    x[3 * count // 4 :] += [6.0, 1.0]
    return x


# scikit-learn's own checks ---------------------------------------------------------------------------------------

CHECKED = [
    AE(hidden_dims=(4,), epochs=1),
    VAE(hidden_dims=(4,), epochs=1, num_particles=5),
    GaussianMixture(),
    GenerativeClassifier(),
    DiscriminativeClassifier(tol=1e-4),
    Imputer(),
    TableVAE(hidden_dims=(4,), epochs=1, num_particles=5),
    ColumnMixture(),
]


def expected(estimator) -> dict[str, str]:
    return EXPECTED_FAILED_CHECKS.get(type(estimator).__name__, {})


@pytest.mark.slow
@parametrize_with_checks(CHECKED, expected_failed_checks=expected)
def test_scikit_learns_checks(estimator, check):
    check(estimator)


OTHERS = [
    Imputer(VAE(hidden_dims=(4,), epochs=1), num_draws=2, add_indicator=True, keep_empty_features=True),
    VAE(hidden_dims=(4,), epochs=1, num_particles=5, missing=True),
    GaussianMixture(2, n_init=1, missing=True),
    ColumnMixture(2, n_init=1),
    GenerativeClassifier("full"),
    GenerativeClassifier(missing=True),
    GenerativeClassifier("full", missing=True),
    DiscriminativeClassifier((8,), epochs=40, batch_size=60, learning_rate=0.03),
]


OF_WEIGHTS = "check_sample_weight_equivalence_on_dense_data"


def expected_of_others(estimator) -> dict[str, str]:
    others: dict[str, str] = {}
    if isinstance(estimator, GaussianMixture | ColumnMixture) and estimator.n_components > 1:
        others = {OF_WEIGHTS: "copies of a row are other starts of two components"}
    if isinstance(estimator, DiscriminativeClassifier) and estimator.hidden_dims:
        others = {OF_WEIGHTS: "copies of a row have places in batches of their own, a weighted row has one"}
    return expected(estimator) | others


@pytest.mark.long
@parametrize_with_checks(OTHERS, expected_failed_checks=expected_of_others)
def test_scikit_learns_checks_with_other_parameters(estimator, check):
    check(estimator)


def test_every_class_is_checked_and_at_most_three_checks_of_it_are_expected_to_fail():
    classes = {type(estimator).__name__ for estimator in CHECKED}
    assert classes == set(pyrovae.sklearn.__all__)
    assert set(EXPECTED_FAILED_CHECKS) <= classes
    for reasons in EXPECTED_FAILED_CHECKS.values():
        assert len(reasons) <= 3 and all(reasons.values())


def test_each_class_states_its_parameters_with_their_types():
    for kind in map(type, CHECKED):
        signature, types = inspect.signature(kind), get_type_hints(kind.__init__)
        assert [*signature.parameters.values()][1].kind is inspect.Parameter.KEYWORD_ONLY  # all after the first
        assert {*kind().get_params()} == {*signature.parameters} == {*types} - {"return"}


# the numbers of the functional core ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float64, pytest.param(np.float32, marks=pytest.mark.slow)])
def test_a_vae_is_that_of_the_same_seed_made_by_hand(dtype):
    x = rows().astype(dtype)
    estimator = VAE(latent_dim=2, num_particles=7, **{**SMALL, "random_state": 3}).fit(x)
    torch.manual_seed(3)
    vae = pyrovae.mlp_vae((3,), 2, hidden_dims=(8,), likelihood="normal(per_entry=True)", standardize=True)
    vae = vae.to(torch.from_numpy(x).dtype)
    pyrovae.fit(vae, x, epochs=2, batch_size=128, seed=3, progress=False)
    code = vae.encode(x).detach()
    assert estimator.transform(x).dtype == dtype
    assert np.array_equal(estimator.transform(x), code.numpy())
    assert np.array_equal(estimator.inverse_transform(code.numpy()), vae.decode(code).detach().numpy())
    values = pyrovae.iwae(vae, x, num_particles=7, seed=3).pointwise["value"].values
    assert np.array_equal(estimator.score_samples(x), values)
    assert estimator.score(x) == values.mean()
    assert np.array_equal(estimator.sample(5), vae.sample(5, seed=3).numpy())
    assert not np.array_equal(estimator.score_samples(x), pyrovae.iwae(vae, x, num_particles=7).pointwise["value"])


@pytest.mark.slow
def test_an_autoencoder_is_that_of_the_same_seed_made_by_hand():
    x = rows()
    estimator = AE(latent_dim=1, **SMALL).fit(x)
    torch.manual_seed(0)
    ae = pyrovae.mlp_ae((3,), 1, hidden_dims=(8,)).double()
    pyrovae.fit(ae, x, epochs=2, batch_size=128, progress=False)
    assert np.array_equal(estimator.transform(x), ae.encode(x).detach().numpy())
    error = pyrovae.reconstruction_error(x, ae.reconstruct(x))
    assert estimator.score(x) == pytest.approx(-(float(error.rmse) ** 2), rel=1e-12)


@pytest.mark.parametrize("kind", COVARIANCES)
def test_a_mixture_from_starting_values_ends_where_scikit_learns_does(kind):
    x = two_groups()
    start = [[1.0, 1.0], [5.0, 0.0]]
    options = {"covariance_type": kind, "tol": 1e-10, "max_iter": 2000}
    ours = GaussianMixture(2, means_init=start, **options).fit(x)
    theirs = sklearn.mixture.GaussianMixture(2, means_init=start, reg_covar=0.0, **options).fit(x)
    assert ours.converged_ and ours.n_iter_ > 1
    for name in ("weights_", "means_", "covariances_", "precisions_"):
        assert getattr(ours, name) == pytest.approx(getattr(theirs, name), rel=1e-4, abs=1e-4), name
    assert ours.lower_bound_ == pytest.approx(theirs.lower_bound_, abs=1e-7)
    # from that end on, with nothing left to gain; from values elsewhere it takes longer
    again = {"weights_init": ours.weights_, "means_init": ours.means_, "precisions_init": ours.precisions_}
    assert GaussianMixture(2, covariance_type=kind, **again).fit(x).n_iter_ == 1


FREE = {"full": 2 + 9 + 18, "tied": 2 + 9 + 6, "diag": 2 + 9 + 9, "spherical": 2 + 9 + 3}  # of 3 means in 3 columns


@pytest.mark.parametrize(("kind", "free"), FREE.items())
def test_the_information_criteria_are_scikit_learns_at_the_same_parameters(kind, free):
    x = rows(60)
    ours = GaussianMixture(3, covariance_type=kind, max_iter=3, n_init=1, tol=0.0, random_state=0)
    with pytest.warns(UserWarning, match="has not converged"):
        ours.fit(x)
    theirs = sklearn.mixture.GaussianMixture(3, covariance_type=kind)
    theirs.weights_, theirs.means_, theirs.covariances_ = ours.weights_, ours.means_, ours.covariances_
    is_matrix = kind in ("full", "tied")
    theirs.precisions_cholesky_ = (
        np.swapaxes(np.linalg.inv(np.linalg.cholesky(ours.covariances_)), -1, -2)
        if is_matrix
        else ours.covariances_**-0.5
    )
    assert ours.num_parameters == free
    assert ours.score_samples(x) == pytest.approx(theirs.score_samples(x), rel=1e-12)
    assert ours.aic(x) == pytest.approx(theirs.aic(x), rel=1e-10)
    assert ours.bic(x) == pytest.approx(theirs.bic(x), rel=1e-10)
    assert ours.bic(x) == pytest.approx(ours.pair_.bic(x), rel=1e-12)
    assert ours.predict_proba(x) == pytest.approx(theirs.predict_proba(x), abs=1e-10)
    assert np.array_equal(ours.predict(x), theirs.predict(x))


def test_a_mixtures_draws_come_with_their_components():
    x = np.concatenate([rows(60, 1), 2.0 + 0.5 * rows(20, 1, seed=1)])
    mixture = GaussianMixture(2, n_init=1, tol=1e-2, random_state=0).fit(x)
    drawn, component = mixture.sample(4000)

    def distance(which: np.ndarray, k: int) -> float:
        """Of the mean of component k from its draws', in standard errors."""
        of_k = drawn[which == k, 0]
        return abs(of_k.mean() - mixture.means_[k, 0]) / (mixture.covariances_[k, 0, 0] / len(of_k)) ** 0.5

    for k in range(2):  # two groups that overlap: the false-alarm rate of four bounds of 5 standard errors is 2e-6
        share = mixture.weights_[k]
        assert abs((component == k).mean() - share) < 5 * (share * (1 - share) / 4000) ** 0.5
        assert distance(component, k) < 5
    assert max(distance(np.roll(component, 1), k) for k in range(2)) > 5  # beside others' components


def test_generative_classifiers_are_scikit_learns_discriminant_analysis():
    x, y = load_iris(return_X_y=True)
    names = np.array(["setosa", "versicolor", "virginica"], dtype=object)[y]
    ours, theirs = GenerativeClassifier(random_state=0).fit(x, names), LinearDiscriminantAnalysis(solver="lsqr")
    theirs.fit(x, names)
    assert ours.classes_.tolist() == theirs.classes_.tolist()
    assert ours.predict_proba(x) == pytest.approx(theirs.predict_proba(x), abs=1e-8)
    assert np.array_equal(ours.predict_proba(x), np.exp(ours.predict_log_proba(x)))
    assert np.array_equal(ours.predict(x), theirs.predict(x))
    assert ours.means_ == pytest.approx(theirs.means_) and ours.covariances_ == pytest.approx(theirs.covariance_)
    assert ours.priors_ == pytest.approx([1 / 3] * 3)
    assert np.array_equal(ours.score_samples(x), ours.pair_.log_prob(x).detach().numpy())
    drawn, label = ours.sample(300)
    assert drawn.shape == (300, 4) and (ours.predict(drawn) == label).mean() > 0.9
    prior = GenerativeClassifier(priors=[0.8, 0.1, 0.1]).fit(x, names)
    assert prior.priors_ == pytest.approx([0.8, 0.1, 0.1])


@pytest.mark.slow
def test_softmax_regression_is_scikit_learns_without_a_penalty():
    x, y = load_iris(return_X_y=True)
    x = x[:, :2]  # which do not separate the classes: there is a maximum
    ours = DiscriminativeClassifier(prior_scale=None, random_state=0).fit(x, y)
    theirs = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10000).fit(StandardScaler().fit_transform(x), y)
    assert ours.predict_proba(x) == pytest.approx(theirs.predict_proba(StandardScaler().fit_transform(x)), abs=1e-4)
    assert ours.n_iter_ == ours.history_.epochs.sizes["epoch"]
    network = DiscriminativeClassifier((8,), epochs=3, batch_size=50, random_state=1).fit(x, y)
    torch.manual_seed(1)
    pair = pyrovae.DiscriminativeClassifier((2,), 3, hidden_dims=(8,)).double()
    pyrovae.fit(pair, x, y, epochs=3, batch_size=50, seed=1, progress=False)
    assert np.array_equal(network.predict_log_proba(x), pair.predict_log_proba(x).detach().numpy())


# habits of scikit-learn ------------------------------------------------------------------------------------------


def people() -> pd.DataFrame:
    """A table with real columns of unlike scales, of which some entries are missing, and names."""
    rng = np.random.default_rng(2)
    z = rng.normal(size=120)
    frame = pd.DataFrame(
        {
            "height": 170 + 8 * z + rng.normal(size=120),
            "income": np.exp(10 + 0.3 * z + 0.1 * rng.normal(size=120)),
            "home": rng.choice(["flat", "house"], 120),
        }
    )
    frame.loc[rng.random(120) < 0.1, "height"] = np.nan
    return frame


def prepared(estimator) -> Pipeline:
    real = make_pipeline(SimpleImputer(), StandardScaler())
    columns = ColumnTransformer(
        [("real", real, ["height", "income"]), ("home", OneHotEncoder(sparse_output=False), ["home"])]
    )
    return Pipeline([("columns", columns), ("model", estimator)])


def test_a_pipeline_on_a_data_frame_keeps_names():
    frame = people()
    pipeline = prepared(VAE(latent_dim=2, **SMALL)).set_output(transform="pandas")
    codes = pipeline.fit_transform(frame)
    assert isinstance(codes, pd.DataFrame) and codes.index.equals(frame.index)
    assert codes.columns.tolist() == ["vae0", "vae1"] == pipeline.get_feature_names_out().tolist()
    model = pipeline["model"]
    assert model.feature_names_in_.tolist() == ["real__height", "real__income", "home__home_flat", "home__home_house"]
    assert np.isfinite(pipeline.score(frame))
    other = pipeline["columns"].transform(frame)[model.feature_names_in_[::-1]]
    with pytest.raises(ValueError, match="must be in the same order"):
        model.transform(other)


@pytest.mark.slow
def test_a_table_of_polars_comes_back_as_one():
    polars = pytest.importorskip("polars", reason="polars is not installed")
    frame = polars.DataFrame({"a": rows()[:, 0], "b": rows()[:, 1]})
    codes = AE(latent_dim=1, **SMALL).set_output(transform="polars").fit_transform(frame)
    assert isinstance(codes, polars.DataFrame) and codes.columns == ["ae0"]


@pytest.mark.slow
def test_the_number_of_dimensions_is_searched_for():
    search = GridSearchCV(prepared(VAE(**SMALL)), {"model__latent_dim": [1, 2]}, cv=2, error_score="raise")
    search.fit(people())
    assert search.best_params_["model__latent_dim"] in (1, 2)
    assert search.best_estimator_["model"].pair_.latent_dim == search.best_params_["model__latent_dim"]
    by_components = GridSearchCV(GaussianMixture(n_init=2, random_state=0), {"n_components": [1, 2]}, cv=3)
    assert by_components.fit(two_groups()[::-1]).best_params_ == {"n_components": 2}
    x, y = load_iris(return_X_y=True)
    assert cross_val_score(GenerativeClassifier(), x, y, cv=3).mean() > 0.95


@pytest.mark.slow
def test_a_second_fit_goes_on_where_it_is_asked_to():
    x = two_groups()
    mixture = GaussianMixture(2, max_iter=1, n_init=1, warm_start=True, tol=0.0, random_state=5)
    bounds = []
    with pytest.warns(UserWarning, match="has not converged"):
        for _ in range(4):
            bounds.append(mixture.fit(x).lower_bound_)
    assert (np.diff(bounds) > 0).all()
    assert len(mixture.history_.config["log_likelihoods"]) == 1  # from the present parameters alone
    afresh = clone(mixture).set_params(warm_start=False)
    with pytest.warns(UserWarning, match="has not converged"):
        assert afresh.fit(x).lower_bound_ == afresh.fit(x).lower_bound_ == bounds[0]
    with pytest.raises(ValueError, match="goes on from a fit with n_components=2, and n_components is 3"):
        mixture.set_params(n_components=3).fit(x)
    vae = VAE(warm_start=True, **SMALL).fit(rows())
    pair = vae.pair_
    before = vae.transform(rows())
    assert vae.fit(rows()).pair_ is pair and not np.array_equal(vae.transform(rows()), before)
    with pytest.raises(ValueError, match="X has 2 features, but VAE is expecting 3"):
        vae.fit(rows(features=2))


@pytest.mark.slow
def test_random_state_is_drawn_from_as_scikit_learn_does():
    x = rows()
    one, other = (VAE(**{**SMALL, "random_state": np.random.RandomState(4)}).fit(x) for _ in range(2))
    assert np.array_equal(one.transform(x), other.transform(x)) and one.seed_ == other.seed_
    assert not np.array_equal(one.sample(3), one.sample(3))  # the state goes on
    fixed = VAE(**SMALL).fit(x)
    assert np.array_equal(fixed.sample(3), fixed.sample(3))
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    GaussianMixture(random_state=0).fit(x), GenerativeClassifier().fit(x, x[:, 0] > 0)
    assert torch.equal(torch.get_rng_state(), before[0]) and np.array_equal(np.random.get_state()[1], before[1])


def code_of(seed: int) -> np.ndarray:
    return VAE(**{**SMALL, "random_state": seed}).fit(rows()).transform(rows())


@pytest.mark.slow  # processes import torch
@pytest.mark.parametrize("backend", ["threading", "loky"])
def test_threads_and_processes_give_the_same_bits(backend):
    alone = [code_of(seed) for seed in range(3)]
    together = joblib.Parallel(n_jobs=2, backend=backend)(joblib.delayed(code_of)(seed) for seed in range(3))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))
    assert not np.array_equal(alone[0], together[1])


def fitted(kind: type):
    x, y = load_iris(return_X_y=True)
    if kind is VAE:
        frame = pd.DataFrame(x, columns=list("abcd"))
        return VAE(prior="mixture", likelihood="student_t(df=4)", num_particles=3, **SMALL).fit(frame)
    if kind is AE:
        return AE(**SMALL).fit(x.astype(np.float32))
    if kind is GaussianMixture:
        return GaussianMixture(2, means_init=x[[0, 149]], random_state=0).fit(x)
    if kind is TableVAE:
        return TableVAE(families={"positive": "gamma"}, num_particles=3, **SMALL).fit(flowers())
    if kind is ColumnMixture:
        return ColumnMixture(2, n_init=2, drop=["name"], random_state=0).fit(flowers().assign(name=NAMES))
    if kind is Imputer:
        return Imputer(VAE(**SMALL), num_draws=3, random_state=0).fit(np.where(x > 6, np.nan, x))
    if kind is GenerativeClassifier:
        return GenerativeClassifier(priors=(0.2, 0.8)).fit(x[:100], np.array(["a", "b"], dtype=object)[y[:100]])
    return kind(random_state=0).fit(x, y)


NAMES = [f"flower {number}" for number in range(150)]  # an identifier


def flowers() -> pd.DataFrame:
    x, y = load_iris(return_X_y=True)
    frame = pd.DataFrame({"length": x[:, 0], "width": x[:, 1], "kind": np.array(["s", "c", "g"])[y]})
    return frame.mask(np.random.default_rng(0).random(frame.shape) < 0.1)


def answers(estimator) -> list[np.ndarray]:
    if isinstance(estimator, TableVAE):
        return [estimator.transform(flowers()), estimator.score_samples(flowers()), estimator.sample(5).to_numpy()]
    if isinstance(estimator, ColumnMixture):
        drawn, component = estimator.sample(5)
        return [
            estimator.predict_proba(flowers()),
            estimator.score_samples(flowers()),
            drawn.to_numpy(),
            component,
        ]
    x = load_iris(return_X_y=True)[0]
    x = pd.DataFrame(x, columns=list("abcd")) if hasattr(estimator, "feature_names_in_") else x
    x = np.where(x > 6, np.nan, x) if isinstance(estimator, Imputer) else x
    methods = ["transform", "predict", "predict_proba", "score_samples"]
    return [getattr(estimator, name)(x) for name in methods if hasattr(estimator, name)]


@pytest.mark.parametrize(
    "kind", [one if one is GaussianMixture else pytest.param(one, marks=pytest.mark.slow) for one in map(type, CHECKED)]
)
def test_a_fitted_estimator_is_the_same_after_pickle_and_from_its_folder(kind, tmp_path):
    estimator = fitted(kind)
    before = answers(estimator)
    assert len(before) >= 1
    assert estimator.save(tmp_path / "state") is estimator
    for again in (pickle.loads(pickle.dumps(estimator)), type(estimator).load(tmp_path / "state")):
        assert all(np.array_equal(a, b) for a, b in zip(before, answers(again), strict=True))
        assert repr(again) == repr(estimator) and str(getattr(again, "history_", 0)) == str(
            getattr(estimator, "history_", 0)
        )
        assert {*vars(again)} == {*vars(estimator)}
    fresh = clone(estimator)
    with pytest.raises(NotFittedError):
        answers(fresh)
    with pytest.raises(NotFittedError):
        fresh.save(tmp_path / "other")


@pytest.mark.slow
def test_a_saved_estimator_is_refused_where_it_is_none(tmp_path):
    mixture = GaussianMixture().fit(rows()).save(tmp_path / "m")
    mixture.save(tmp_path / "m")  # the same again, in its place
    with pytest.raises(pyrovae.CheckpointError, match="holds a GaussianMixture: load it as"):
        VAE.load(tmp_path / "m")
    with pytest.raises(FileNotFoundError, match=r"estimator\.json is missing"):
        VAE.load(tmp_path / "nothing")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    with pytest.raises(FileExistsError, match="is not a saved estimator"):
        mixture.save(tmp_path / "full")
    vae = VAE(likelihood=pyrovae.Normal(scale=1.0), **SMALL).fit(rows())
    with pytest.raises(TypeError, match=r"VAE\.likelihood is a Normal, and a saved estimator holds plain values"):
        vae.save(tmp_path / "v")
    record = json.loads((tmp_path / "m" / "estimator.json").read_text())
    for damaged in (
        "{",
        "[]",
        json.dumps({**record, "params": {"n_component": 1}}),
        json.dumps({**record, "fitted": 3}),
    ):
        (tmp_path / "m" / "estimator.json").write_text(damaged)
        with pytest.raises(pyrovae.CheckpointError):
            GaussianMixture.load(tmp_path / "m")


@pytest.mark.parametrize(
    ("estimator", "words"),
    [
        (GaussianMixture(0), "n_components must be an integer of at least 1, got 0"),
        (GaussianMixture(2, covariance_type="diagonal"), "covariance_type"),
        (GaussianMixture(2, weights_init=[0.5, 0.5]), "weights_init needs means_init"),
        (GaussianMixture(2, means_init=[[0.0, 0.0]]), r"means_init must have shape \(2, 3\), got \(1, 2\)"),
        (
            GaussianMixture(1, means_init=[[0.0] * 3], weights_init=[0.7]),
            "weights_init must be at least 0 and sum to 1",
        ),
        (
            GaussianMixture(1, means_init=[[0.0] * 3], precisions_init=-np.eye(3)[None]),
            "precisions_init must be positive",
        ),
        (GaussianMixture(50), "40 items for 50 components"),
        (VAE(latent_dim=0), "latent_dim"),
        (VAE(likelihood="bernoulli"), "outside|support"),
        (VAE(fit_options={"epochs": 3}), "fit_options has 'epochs', which is set elsewhere"),
        (VAE(random_state=-1), "random_state must be an integer of at least 0"),
        (AE(epochs=0), "epochs"),
    ],
)
def test_what_does_not_fit_is_named(estimator, words):
    with pytest.raises(ValueError, match=words):
        estimator.fit(rows())
    assert not hasattr(estimator, "pair_")


@pytest.mark.slow
def test_options_of_fit_reach_it():
    vae = VAE(fit_options={"beta": 0.5, "validation": rows(10, seed=1)}, **SMALL).fit(rows())
    assert vae.history_.config["beta"] == 0.5 and "validation_elbo" in vae.history_.epochs
    with pytest.raises(TypeError, match="fit_options must be a dict"):
        VAE(fit_options=3).fit(rows())


# weights and missing entries -------------------------------------------------------------------------------------


def test_a_row_of_weight_two_is_the_row_twice():
    x, weight = rows(), np.array([2.0, 0.0, 1.0, 3.0] * 10)
    copies = np.repeat(x, weight.astype(int), 0)
    options = {**SMALL, "epochs": 4, "batch_size": 1000}  # all rows in a step: there is no noise in an autoencoder
    weighted, repeated = AE(**options).fit(x, sample_weight=weight), AE(**options).fit(copies)
    assert np.abs(weighted.transform(x) - repeated.transform(x)).max() < 1e-10
    assert np.abs(weighted.transform(x) - AE(**options).fit(x).transform(x)).max() > 1e-5
    assert weighted.score(x, sample_weight=weight) == pytest.approx(repeated.score(copies), rel=1e-9)
    assert weighted.score(x) != pytest.approx(repeated.score(copies), rel=1e-3)
    alone = VAE(**SMALL).fit(x)
    assert np.array_equal(alone.transform(x), VAE(**SMALL).fit(x, sample_weight=np.ones(40)).transform(x))
    for wrong, words in [
        (-weight, "sample_weight says how many times"),
        (0 * weight, "non-zero number|sample_weight is zero for every row"),
    ]:
        with pytest.raises(ValueError, match=words):
            AE(**SMALL).fit(x, sample_weight=wrong)


@pytest.mark.slow
@pytest.mark.parametrize("classifier", [GenerativeClassifier("full"), DiscriminativeClassifier()])
def test_a_classifiers_row_of_weight_two_is_the_row_twice(classifier):
    x, y = load_iris(return_X_y=True)
    weight = np.tile([2, 0, 1], 50)
    weighted = clone(classifier).fit(x, y, sample_weight=weight).predict_proba(x)
    copies = clone(classifier).fit(np.repeat(x, weight, 0), np.repeat(y, weight)).predict_proba(x)
    alone = clone(classifier).fit(x, y).predict_proba(x)
    close = 1e-10 if isinstance(classifier, GenerativeClassifier) else 1e-4  # where a search ends, by its tolerance
    assert np.abs(weighted - copies).max() < close and np.abs(weighted - alone).max() > 1e-2
    two = clone(classifier).fit(x, y, sample_weight=(y < 2).astype(float))
    assert two.classes_.tolist() == [0, 1]


@pytest.mark.slow
def test_a_classifier_with_missing_entries_is_that_of_the_functions():
    x, y = load_iris(return_X_y=True)
    x[np.random.default_rng(0).random(x.shape) < 0.2] = np.nan
    classifier = GenerativeClassifier("full", missing=True).fit(x, y)
    pair = pyrovae.gaussian_classifier((4,), 3, covariance="full").double()
    pyrovae.fit(pair, x, y, missing=True, progress=False)
    expected = pair.predict_log_proba(x, missing=True).detach().numpy()
    assert classifier.predict_log_proba(x) == pytest.approx(expected, abs=1e-8)
    assert classifier.score_samples(x) == pytest.approx(pair.log_prob(x, missing=True).detach().numpy(), abs=1e-8)
    assert classifier.score(x, y) > 0.9
    with pytest.raises(ValueError, match="Input X contains NaN"):
        GenerativeClassifier().fit(x, y)


@pytest.mark.slow
def test_weights_are_routed():
    x, weight = rows(), np.arange(40.0)
    with sklearn.config_context(enable_metadata_routing=True):
        ae = AE(**SMALL).set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        scaler = StandardScaler().set_fit_request(sample_weight=False)
        routed = make_pipeline(scaler, ae).fit(x, sample_weight=weight)
    by_hand = AE(**SMALL).fit(StandardScaler().fit_transform(x), sample_weight=weight)
    assert np.array_equal(routed.transform(x), by_hand.transform(StandardScaler().fit_transform(x)))


def with_holes(seed: int = 3) -> np.ndarray:
    x = rows()
    x[np.random.default_rng(seed).random(x.shape) < 0.2] = np.nan
    return x


@pytest.mark.slow
def test_a_vae_of_entries_that_are_missing_is_that_made_by_hand():
    x = with_holes()
    estimator = VAE(missing=True, num_particles=5, **SMALL).fit(x)
    torch.manual_seed(0)
    options = {"likelihood": "normal(per_entry=True)", "standardize": True, "missing": True}
    vae = pyrovae.mlp_vae((3,), 2, hidden_dims=(8,), **options).double()
    pyrovae.fit(vae, x, epochs=2, batch_size=128, missing=True, progress=False)
    assert np.array_equal(estimator.transform(x), vae.encode(x, missing=True).detach().numpy())
    values = pyrovae.iwae(vae, x, num_particles=5, missing=True).pointwise["value"].values
    assert np.array_equal(estimator.score_samples(x), values)
    assert estimator.__sklearn_tags__().input_tags.allow_nan
    for one in (VAE(**SMALL), AE(**SMALL)):
        with pytest.raises(ValueError, match="Input X contains NaN"):
            one.fit(x)
    with pytest.raises(TypeError, match="missing must be True or False, got 'yes'"):
        VAE(missing="yes", **SMALL).fit(x)


def test_a_mixture_with_weights_and_missing_entries_is_that_of_the_functions():
    x, weight = with_holes(), np.array([2.0, 0.0, 1.0, 3.0] * 10)
    mixture = GaussianMixture(missing=True).fit(x, sample_weight=weight)
    pair = pyrovae.GaussianMixture((3,), 1).double()
    pyrovae.fit(pair, x, weight=weight, missing=True, num_restarts=1, progress=False)
    assert mixture.means_ == pytest.approx(pair.loc.detach().numpy(), abs=1e-10)
    values = pair.log_prob(x, missing=True).detach().numpy()
    assert mixture.score_samples(x) == pytest.approx(values, abs=1e-10)
    assert mixture.bic(x, sample_weight=weight) == pytest.approx(pair.bic(x, weight=weight, missing=True), rel=1e-10)
    copies = GaussianMixture(missing=True).fit(np.repeat(x, weight.astype(int), 0))
    assert copies.means_ == pytest.approx(mixture.means_, abs=1e-10)
    assert copies.bic(np.repeat(x, weight.astype(int), 0)) == pytest.approx(mixture.bic(x, weight), rel=1e-9)
    assert np.abs(mixture.means_ - GaussianMixture(missing=True).fit(x).means_).max() > 1e-3
    with pytest.raises(ValueError, match="Input X contains NaN"):
        GaussianMixture().fit(x)


def test_missing_entries_become_their_exact_conditional_means():
    x = two_groups()[:150] @ np.array([[1.0, 0.5, 0.0], [0.0, 1.0, 1.0]]) + 0.1 * rows(150)
    holes = np.where(np.random.default_rng(0).random(x.shape) < 0.2, np.nan, x)
    holes[3] = np.nan
    imputer = Imputer().fit(holes)
    filled = imputer.transform(holes)
    mean, covariance = imputer.estimator_.means_[0], imputer.estimator_.covariances_[0]
    for row, done in zip(holes, filled, strict=True):
        m, o = np.isnan(row), ~np.isnan(row)
        expected = mean[m] + covariance[np.ix_(m, o)] @ np.linalg.solve(covariance[np.ix_(o, o)], row[o] - mean[o])
        assert done[m] == pytest.approx(expected, abs=1e-8) and np.array_equal(done[o], row[o])
    error = np.square(filled - x)[np.isnan(holes)].mean()
    by_mean = np.square(SimpleImputer().fit_transform(holes) - x)[np.isnan(holes)].mean()
    assert error < 0.3 * by_mean
    draws = [Imputer(sample_posterior=True, random_state=seed).fit(holes).transform(holes) for seed in (0, 0, 1)]
    assert np.array_equal(draws[0], draws[1]) and not np.array_equal(draws[0], draws[2])
    assert np.isfinite(draws[0]).all() and np.array_equal(draws[0][~np.isnan(holes)], holes[~np.isnan(holes)])


@pytest.mark.slow
def test_a_vae_fills_in_the_mean_of_its_draws():
    x = with_holes()
    imputer = Imputer(VAE(**SMALL), num_draws=8, random_state=2).fit(x)
    pair = VAE(missing=True, **SMALL).fit(x).pair_
    some = np.isnan(x).any(1)
    draws = pair.impute(x[some], num_draws=8, seed=2).mean(0).detach().numpy()
    filled = imputer.transform(x)
    assert filled[some] == pytest.approx(np.where(np.isnan(x[some]), draws, x[some]), abs=1e-12)
    assert np.array_equal(filled[~some], x[~some])
    grid = GridSearchCV(
        make_pipeline(Imputer(), VAE(**SMALL)),
        {"imputer__estimator": [None, GaussianMixture(2, n_init=1, tol=0.01)]},
        cv=2,
    )
    assert np.isfinite(grid.fit(x).best_score_)


@pytest.mark.slow
def test_columns_of_which_nothing_was_seen_are_named():
    frame = pd.DataFrame(with_holes(), columns=["a", "b", "c"])
    frame["b"] = np.nan
    with pytest.warns(UserWarning, match="no entry was seen of 'b', which transform leaves out"):
        left = Imputer(add_indicator=True).set_output(transform="pandas").fit(frame)
    names = ["a", "c", "missingindicator_a", "missingindicator_b", "missingindicator_c"]
    assert left.get_feature_names_out().tolist() == names == left.transform(frame).columns.tolist()
    assert left.transform(frame)["missingindicator_a"].tolist() == frame["a"].isna().astype(float).tolist()
    kept = Imputer(keep_empty_features=True).fit_transform(frame)
    assert (
        kept.shape == (40, 3)
        and not kept[:, 1].any()
        and np.array_equal(kept[:, [0, 2]], left.transform(frame)[["a", "c"]])
    )
    with pytest.raises(ValueError, match="X has no entry that was seen"):
        Imputer().fit(np.full((4, 2), np.nan))
    with pytest.raises(TypeError, match="estimator must be a GaussianMixture or a VAE of"):
        Imputer(AE()).fit(frame)


# tables ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_vae_of_a_frame_is_that_of_its_table():
    frame = people()
    frame.loc[3, "home"] = None
    estimator = TableVAE(latent_dim=1, num_particles=5, families={"positive": "gamma"}, **SMALL).fit(frame)
    assert [column.kind for column in estimator.columns_] == ["positive", "positive", "binary"]
    table = pyrovae.data.table(frame)
    torch.manual_seed(0)
    vae = pyrovae.table_vae(table, 1, hidden_dims=(8,), families={"positive": "gamma"}).double()
    x = (table.x if table.exact is None else table.exact).double()
    pyrovae.fit(vae, x, epochs=2, batch_size=128, missing=True, progress=False)
    assert np.array_equal(estimator.transform(frame), vae.encode(x, missing=True).detach().numpy())
    values = pyrovae.iwae(vae, x, num_particles=5, missing=True).pointwise["value"].values
    assert np.array_equal(estimator.score_samples(frame), values)
    # rows of codes and draws are frames as the one that came
    for rows_shown in (estimator.inverse_transform(np.array([[-1.0], [1.0]])), estimator.sample(20)):
        assert rows_shown.dtypes.equals(frame.dtypes) and set(rows_shown["home"]) <= {"flat", "house"}
    filled = estimator.impute(frame, num_draws=3)
    seen = frame.notna()
    assert not filled.isna().any(axis=None) and filled.where(seen).equals(frame.where(seen))
    assert filled.index.equals(frame.index) and set(filled["home"]) == {"flat", "house"}
    with pytest.raises(ValueError, match="castle"):
        estimator.transform(frame.replace("flat", "castle"))
    with pytest.raises(ValueError, match="X must be a data frame with the columns of the fit"):
        estimator.transform(rows())


@pytest.mark.slow
def test_a_vae_of_frames_is_searched_over_with_missing_entries():
    search = GridSearchCV(TableVAE(**SMALL), {"latent_dim": [1, 2]}, cv=2, error_score="raise").fit(people())
    codes = search.best_estimator_.set_output(transform="pandas").transform(people())
    assert codes.columns.tolist()[0] == "tablevae0" and codes.index.equals(people().index)
    polars = pytest.importorskip("polars", reason="polars is not installed")
    frame = polars.from_pandas(people())
    assert isinstance(TableVAE(**SMALL).fit(frame).sample(3), polars.DataFrame)


@pytest.mark.slow
def test_columns_of_an_array_are_real_unless_it_is_said():
    x = np.column_stack([rows(30, 1)[:, 0], np.arange(30) % 3, np.arange(30.0) % 7])
    kinds = {"x1": ("categorical", 3), "x2": "count"}
    estimator = TableVAE(kinds=kinds, **SMALL).fit(x)
    assert [(column.name, column.kind) for column in estimator.columns_] == [
        ("x0", "real"),
        ("x1", "categorical"),
        ("x2", "count"),
    ]
    drawn = estimator.sample(50)
    assert set(drawn[:, 1]) <= {0.0, 1.0, 2.0}
    assert (drawn[:, 2] >= 0).all() and np.array_equal(drawn[:, 2], drawn[:, 2] // 1)
    with pytest.raises(ValueError, match="kinds names 'x9', which is no column"):
        TableVAE(kinds={"x9": "count"}).fit(x)
    with pytest.raises(ValueError, match="at least 2 rows, got 1 sample"):
        TableVAE().fit(people()[:1])


@pytest.mark.slow
def test_a_mixture_of_a_frame_is_that_of_its_table():
    frame, weight = flowers(), np.tile([2.0, 0.0, 1.0], 50)
    mixture = ColumnMixture(2, n_init=3, random_state=4)
    mixture.fit(frame, sample_weight=weight)
    table = pyrovae.data.table(frame)
    x = (table.x if table.exact is None else table.exact).double()
    pair = pyrovae.ColumnMixture(table, 2).double()
    pyrovae.fit(pair, x, weight=weight, missing=True, seed=4, num_restarts=3, tol=1e-6, progress=False)
    assert mixture.weights_ == pytest.approx(pair.weights.detach().numpy(), abs=1e-10)
    log_prob = pair.log_prob(x, missing=True).detach().numpy()
    assert mixture.score_samples(frame) == pytest.approx(log_prob, abs=1e-9)
    share = pair.responsibilities(x, missing=True).detach().numpy()
    assert mixture.predict_proba(frame) == pytest.approx(share, abs=1e-9)
    assert np.array_equal(mixture.predict(frame), share.argmax(1))
    assert mixture.score(frame, sample_weight=weight) == pytest.approx(np.average(log_prob, weights=weight), abs=1e-9)
    assert mixture.bic(frame, weight) == pytest.approx(pair.bic(x, weight=weight, missing=True), abs=1e-6)
    assert mixture.aic(frame) == pytest.approx(2 * pair.num_parameters - 2 * log_prob.sum(), abs=1e-6)
    assert np.abs(mixture.weights_ - ColumnMixture(2, n_init=3, random_state=4).fit(frame).weights_).max() > 1e-3
    drawn, component = mixture.sample(2000)
    assert drawn.dtypes.equals(frame.dtypes) and set(drawn["kind"]) == {"s", "c", "g"}
    error = (mixture.weights_[1] * mixture.weights_[0] / 2000) ** 0.5
    assert abs((component == 1).mean() - mixture.weights_[1]) < 5 * error  # false alarms: 6e-7
    stepwise = ColumnMixture(2, warm_start=True, n_init=1, max_iter=1, tol=0.0, random_state=0)
    with pytest.warns(UserWarning, match="has not converged"):
        bounds = [stepwise.fit(frame).lower_bound_ for _ in range(4)]
    assert (np.diff(bounds) > 0).all()
    with pytest.raises(ValueError, match="goes on from a fit with kinds=None, and kinds is"):
        stepwise.set_params(kinds={"length": "real"}).fit(frame)


def test_one_class_fills_in_means_and_the_commonest_category():
    frame = pd.DataFrame(
        {
            "a": [1.0, 2.0, np.nan, -6.0, 0.5],
            "n": [0, 5, 1, 4, np.nan],
            "c": ["x", None, "y", "x", "z"],
        }
    )
    mixture = ColumnMixture(pseudo_count=0.0, random_state=0).fit(frame)
    filled = mixture.impute(frame)
    assert filled["a"].tolist() == pytest.approx([1.0, 2.0, -0.625, -6.0, 0.5], abs=1e-12)
    assert filled["n"].tolist() == [0, 5, 1, 4, 2]  # of mean 2.5, to the even number
    assert filled["c"].tolist() == ["x", "x", "y", "x", "z"]
    assert mixture.fit_predict(frame).tolist() == [0] * 5 and mixture.predict_proba(frame).tolist() == [[1.0]] * 5
    assert mixture.__sklearn_tags__().input_tags.allow_nan


@pytest.mark.slow
@pytest.mark.parametrize("estimator", [TableVAE(num_particles=3, **SMALL), ColumnMixture(2, n_init=1, random_state=0)])
def test_columns_that_are_no_use_are_left_out(estimator):
    frame = flowers()
    named = frame.assign(name=NAMES)[["name", "length", "width", "kind"]]
    plain = clone(estimator).fit(frame).score_samples(frame)
    with pytest.raises(ValueError, match="'name': "):
        clone(estimator).fit(named)
    for drop in (["name"], "name", True):
        fitted = clone(estimator).set_params(drop=drop).fit(named)
        assert [column.name for column in fitted.columns_] == ["length", "width", "kind"]
        assert fitted.n_features_in_ == 4 and fitted.feature_names_in_.tolist() == ["name", "length", "width", "kind"]
        for rows_of in (named, frame):  # with the names and without
            assert fitted.score_samples(rows_of) == pytest.approx(plain, abs=1e-12)
    assert fitted.impute(named).columns.tolist() == ["length", "width", "kind"]
    with pytest.raises(ValueError, match="column 'other' is unknown"):
        fitted.score_samples(frame.assign(other=1.0))
    with pytest.raises(ValueError, match="must be in the same order"):
        fitted.score_samples(named[["kind", "name", "length", "width"]])
    with pytest.raises(ValueError, match="drop names columns of a data frame, and X is an array"):
        clone(estimator).set_params(drop=["x1"]).fit(rows())
    with pytest.raises(ValueError, match="nothing"):
        clone(estimator).set_params(drop="nothing").fit(named)


@pytest.mark.slow
def test_a_fit_that_fails_leaves_the_estimator_as_it_was():
    frame = flowers()
    vae = TableVAE(num_particles=3, **SMALL).fit(frame)
    before = vae.score_samples(frame)
    other = pd.DataFrame({"a": [1.5, 2.5, 4.0], "b": [3, 1, 4]})
    with pytest.raises(ValueError, match="epochs"):
        vae.set_params(epochs=0).fit(other)
    assert vae.set_params(epochs=2).feature_names_in_.tolist() == ["length", "width", "kind"]
    assert np.array_equal(vae.score_samples(frame), before)


def test_pickles_find_their_classes_where_they_were_made():
    places = {kind.__name__: kind.__module__ for kind in map(type, CHECKED)}
    assert places["GaussianMixture"] == "pyrovae.sklearn.mixture"
    assert places["TableVAE"] == "pyrovae.sklearn.table"
    assert places["Imputer"] == "pyrovae.sklearn.imputer"


def test_a_state_without_a_record_of_a_parameter_goes_on():
    mixture = ColumnMixture(warm_start=True).fit(flowers())
    mixture.built_with_ = {"n_components": 1}  # as older states have it
    pair = mixture.pair_
    assert mixture.fit(flowers()).pair_ is pair
    with pytest.raises(NotFittedError):
        ColumnMixture().impute(flowers())


def test_names_to_drop_are_any_collection_and_nothing_else(tmp_path):
    frame = pd.DataFrame({0: [1.5, 2.0, 3.3], 1: [2.0, 3.0, 5.5], 2: ["a", "b", "a"]})
    table = pyrovae.data.table(frame, drop=[1])
    assert table.frame(with_dropped=True).equals(frame) and [each.name for each in table.columns] == ["0", "2"]
    named = frame.set_axis(["a", "b", "c"], axis=1)
    assert len(pyrovae.data.table(named, drop=np.True_).columns) == 3
    for drop in (None, 3):
        for rows_of in (named, rows()):
            with pytest.raises(TypeError, match="drop must be names of columns in a list, or True or False, got"):
                ColumnMixture(drop=drop).fit(rows_of)
    with pytest.raises(ValueError, match="kinds of 'x0' must be one of"):
        ColumnMixture(kinds={"x0": 3}).fit(rows())
    mixture = ColumnMixture(drop={"c", "b"}).fit(named).save(tmp_path / "m")
    assert ColumnMixture.load(tmp_path / "m").drop == ["b", "c"]
    assert mixture.score_samples(named[["c", "a", "b"]]) == pytest.approx(mixture.score_samples(named[["a"]]))


def test_the_order_of_columns_is_that_of_the_fit_with_dropped_ones_or_without():
    frame = flowers().assign(id=NAMES)
    mixture = ColumnMixture(drop=["id"]).fit(frame)
    before = mixture.score_samples(frame)
    for names in (["length", "id", "width", "kind"], ["length", "width", "kind"]):
        assert np.array_equal(mixture.score_samples(frame[names]), before)
    for names in (["kind", "length", "width"], ["kind", "id", "length", "width"]):
        with pytest.raises(ValueError, match="must be in the same order"):
            mixture.score_samples(frame[names])
