"""Is it better to model p(x | y) or p(y | x) alone? Nine questions, each with an interval and a verdict in words.

    python analysis/generative_vs_discriminative.py                              # 8x8 digits
    python analysis/generative_vs_discriminative.py --data breast-cancer         # 30 measured features
    python analysis/generative_vs_discriminative.py --data mnist --root data     # hours on two cores

Generative: naive Bayes and LDA (normal classes), mixtures of up to three normals a class (of one where a class has
under ten items: naive Bayes then), and where asked a VAE a class, whose log p(x | y) is an importance-weighted bound,
of grey values by a continuous Bernoulli likelihood and of pixels above one half by a Bernoulli one.
Discriminative: softmax regression and a multilayer perceptron, both at their posterior's mode. How strongly each is
held back, by a floor of variances or the scale of a prior, is chosen for either kind alike, by cross-validated log-loss
on the labelled items in two or three folds (on 2,000 of them at most, and so for fewer labels than the fit then has),
walking downhill in half decades; a VAE's is not chosen. Each seed draws training and test items anew from all, the same
for all models: MNIST's writers then stand on both sides. Intervals over seeds are Student's at 95 %, widened for the
share of test items that seeds have in common (Nadeau and Bengio 2003), and verdicts over seeds within one question
share an error rate of 5 % (Holm 1979). Calibration, strange and samples judge one fit on the data set's own split:
their intervals are over its test items, each at its own level. Questions: learning, specification, missing, noise,
priors, calibration, strange, unlabelled, samples.
"""

from __future__ import annotations

import argparse
import inspect
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from generative_vs_discriminative_report import REPORTS
from scipy.stats import binomtest
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, SimpleImputer
from sklearn.model_selection import StratifiedKFold, cross_val_predict

import pyrovae

MEASURED = 4  # raised when what is measured changes: earlier tables are then made again
FLOOR = 0.1  # of variances, in units of a pixel's range squared or of a feature's variance: where the walk starts
SCALE = 1.0  # of a prior on weights: the same
HALF_DECADES = 6  # at most, either way
FOLDS = 3
CHOSEN_ON = 2000  # labelled items at most that a floor or a scale is chosen on
FULL_BATCH = 5000  # labelled items up to which a perceptron is fitted by L-BFGS
SHARES = (0.0, 0.25, 0.5, 0.75)
NOISE = (0.0, 0.1, 0.2, 0.4)


@dataclass(frozen=True)
class Problem:
    """A labelled data set in two parts, flat features apart from an image's shape."""

    name: str
    x: torch.Tensor
    y: torch.Tensor
    test_x: torch.Tensor
    test_y: torch.Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.x.shape[1:])

    @property
    def classes(self) -> int:
        return len(self.y.unique())

    def overlap(self, items: int | None = None) -> float:
        """What intervals over splits of which `items` test items are judged are widened by: m / (N - m), m of all N."""
        m = min(len(self.test_y), len(self.test_y) if items is None else items)
        return m / (len(self.y) + len(self.test_y) - m)

    def split(self, seed: int) -> Problem:
        """As many training and test items, drawn anew from all."""
        order = torch.from_numpy(np.random.default_rng([seed, 3]).permutation(len(self.y) + len(self.test_y)))
        x, y = (torch.cat(parts)[order] for parts in ((self.x, self.test_x), (self.y, self.test_y)))
        n = len(self.y)
        if len(self.shape) == 1:  # features in units of the training items' spread
            x = (x - x[:n].mean(0)) / x[:n].std(0)
        return Problem(self.name, x[:n], y[:n], x[n:], y[n:])

    def labelled(self, n: int, seed: int) -> np.ndarray:
        """The numbers of `n` training items: two of each class, then all classes in proportion."""
        order = np.random.default_rng([seed, n]).permutation(len(self.y))
        of = [order[self.y.numpy()[order] == c] for c in range(self.classes)]
        first = np.concatenate([rows[:2] for rows in of])
        place = np.concatenate([np.arange(2, len(rows)) / len(rows) for rows in of])
        rest = np.concatenate([rows[2:] for rows in of])[np.argsort(place, kind="stable")]
        return np.concatenate([first, rest])[: max(n, len(first))]


def problem(name: str, root: str | None) -> Problem:
    if name != "breast-cancer":
        data = pyrovae.data.load(name, root=root)
        return Problem(name, data.train.x[:], data.train.y[:], data.test.x[:], data.test.y[:])
    x, y = load_breast_cancer(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order], y[order]
    x = (x - x[:400].mean(0)) / x[:400].std(0)
    items, labels = torch.from_numpy(x).float(), torch.from_numpy(y)
    return Problem(name, items[:400], labels[:400], items[400:], labels[400:])


# models ---------------------------------------------------------------------------------------------


def gaussian(covariance: str, p: Problem, _: np.ndarray, floor: float) -> Any:
    return pyrovae.gaussian_classifier(p.shape, p.classes, covariance=covariance, floor=floor)


def mixtures(p: Problem, y: np.ndarray, floor: float) -> Any:
    """At least five of the labelled items a component."""
    components = int(np.clip(np.bincount(y).min() // 5, 1, 3))
    make = partial(pyrovae.GaussianMixture, p.shape, components, covariance="diagonal", floor=floor)
    return pyrovae.GenerativeClassifier({c: make() for c in range(p.classes)})


def network(hidden_dims: tuple[int, ...], p: Problem, _: np.ndarray, scale: float) -> Any:
    return pyrovae.DiscriminativeClassifier(p.shape, p.classes, hidden_dims=hidden_dims, prior_scale=scale)


def vaes(likelihood: str, p: Problem, *_: Any) -> Any:
    likelihood = likelihood if len(p.shape) == 3 else "normal"
    make = partial(pyrovae.mlp_vae, p.shape, 8, hidden_dims=(128,), likelihood=likelihood)
    evidence = partial(pyrovae.iwae, num_particles=100)
    return pyrovae.GenerativeClassifier({c: make() for c in range(p.classes)}, evidence=evidence)


def perceptron_fit(n: int) -> dict[str, Any]:
    if n <= FULL_BATCH:
        return {"method": "lbfgs", "max_iterations": 300, "tol": 1e-4}
    return {"epochs": 20, "learning_rate": 2e-3, "schedule": "cosine", "batch_size": 64}


@dataclass(frozen=True)
class Kind:
    """A classifier from (problem, labels, strength), where strengths start, how it is fitted, and what it sees."""

    make: Callable[[Problem, np.ndarray, float], Any]
    start: float | None
    options: Callable[[int], dict[str, Any]] = lambda n: {}
    seen: Callable[[torch.Tensor], torch.Tensor] = lambda x: x


def vae_fit(n: int) -> dict[str, Any]:
    return {"epochs": 40 if n > 10_000 else 200, "learning_rate": 2e-3, "schedule": "cosine", "batch_size": 64}


DEEP = {
    "naive Bayes": Kind(partial(gaussian, "diagonal"), FLOOR),
    "LDA": Kind(partial(gaussian, "tied"), FLOOR),
    "mixtures": Kind(mixtures, FLOOR, lambda n: {"num_restarts": 3, "tol": 1e-4}),
    "softmax": Kind(partial(network, ()), SCALE),
    "perceptron": Kind(partial(network, (128,)), SCALE, perceptron_fit),
    "VAE a class": Kind(partial(vaes, "continuous_bernoulli"), None, vae_fit),
    "VAE a class, binary": Kind(partial(vaes, "bernoulli"), None, vae_fit, lambda x: (x > 0.5).float()),
}
MODELS = [name for name, kind in DEEP.items() if kind.options is not vae_fit]
KINDS = {**DEEP, "QDA": Kind(partial(gaussian, "full"), FLOOR)}


def deep(p: Problem) -> list[str]:
    """The models where one fit is judged: that of binary pixels is for images."""
    return [name for name in DEEP if len(p.shape) == 3 or not name.endswith("binary")]


def fitted(name: str, p: Problem, x: Any, y: Any, seed: int, **more: Any) -> Any:
    """The model of that name, fitted to these items: the same for a seed, whatever ran before."""
    y = np.asarray(y)
    return made(name, p, x, y, seed, chosen(name, p, x, y, seed, **more), y, **more)


def made(
    name: str, p: Problem, x: Any, y: np.ndarray, seed: int, strength: float, all_y: np.ndarray, **more: Any
) -> Any:
    """A fit at one strength to some of the labelled items, of the kind that all labels `all_y` call for."""
    torch.manual_seed(seed)
    classifier = KINDS[name].make(p, all_y, strength)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of floors and of collapsed units: the scores tell
        pyrovae.fit(
            classifier, KINDS[name].seen(x), y, progress=False, seed=seed, **KINDS[name].options(len(x)), **more
        )
    return classifier


def chosen(name: str, p: Problem, x: Any, y: np.ndarray, seed: int, **more: Any) -> float:
    """The strength with the least cross-validated log-loss, by a walk downhill in half decades."""
    start = KINDS[name].start
    if start is None:
        return np.nan
    x, y = x[:CHOSEN_ON], y[:CHOSEN_ON]
    folds = StratifiedKFold(min(FOLDS, int(np.bincount(y).min())), shuffle=True, random_state=seed)
    parts = list(folds.split(y, y))

    @cache
    def loss(step: int) -> float:
        total = 0.0
        for own, other in parts:
            classifier = made(name, p, x[own], y[own], seed, start * 10 ** (step / 2), y, **more)
            total += len(other) * judged(classifier, x[other], y[other])["log_loss"]
        return total if np.isfinite(total) else np.inf

    return float(start * 10 ** (descended(loss) / 2))


def descended(loss: Callable[[int], float]) -> int:
    """The step from 0 at which a walk downhill over whole steps ends."""
    at = 0
    for way in (1, -1):
        while abs(at + way) <= HALF_DECADES and loss(at + way) < loss(at):
            at += way
        if at:
            break
    return at


def judged(classifier: Any, x: Any, y: Any, **options: Any) -> dict[str, float]:
    """Accuracy and log-loss on these items."""
    table = pyrovae.predictions(classifier, x, y, **options)
    right = (table["predicted"] == table["y"]).values
    return {"accuracy": float(right.mean()), "log_loss": -float(table["log_proba_y"].mean())}


def tabulated(rows: dict[tuple[Any, str, int], dict[str, float]], condition: str, overlap: float = 0.0) -> xr.Dataset:
    """Scores by (condition, model, seed), and the `overlap` of the seeds' splits."""
    axes = [list(dict.fromkeys(key[i] for key in rows)) for i in range(3)]
    names = next(iter(rows.values()))
    coords = {condition: axes[0], "model": axes[1], "seed": axes[2]}
    empty = np.full([len(axis) for axis in axes], np.nan)
    found = xr.Dataset({name: (tuple(coords), empty.copy()) for name in names}, {**coords, "overlap": overlap})
    for (a, model, seed), scores in rows.items():
        for name, value in scores.items():
            found[name].loc[{condition: a, "model": model, "seed": seed}] = value
    return found


# questions ------------------------------------------------------------------------------------------


def learning(p: Problem, options: argparse.Namespace) -> xr.Dataset:
    """Accuracy and log-loss against the number of labels."""
    counts = [n for n in (20, 40, 80, 160, 320, 640, 1280, 5120, 20_480) if 2 * p.classes <= n <= len(p.x)]
    rows = {}
    for n in counts:
        for seed in range(options.seeds):
            q = p.split(seed)
            own = q.labelled(n, seed)
            for name in MODELS:
                rows[n, name, seed] = judged(fitted(name, q, q.x[own], q.y[own], seed), q.test_x, q.test_y)
    return tabulated(rows, "labels", p.overlap())


SIMULATED = {
    "normal, one covariance": lambda rng, y, d: rng.normal(size=(len(y), d)) + 1.2 * np.eye(d)[0] * y[:, None],
    "normal, unlike covariances": lambda rng, y, d: (
        rng.normal(size=(len(y), d)) * np.where(y, 2.0, 1.0)[:, None] + y[:, None]
    ),
    "exponential": lambda rng, y, d: rng.exponential(np.where(y, 2.0, 1.0)[:, None], size=(len(y), d)),
    "one class in two clusters": lambda rng, y, d: (
        rng.normal(size=(len(y), d)) + 3 * np.eye(d)[0] * (y * rng.choice([-1, 1], size=len(y)))[:, None]
    ),
}


def specification(_: Problem, options: argparse.Namespace) -> xr.Dataset:
    """Simulated classes of which the normal ones are well specified; 500 labels, 20,000 test items, new for each seed.

    Softmax regression is LDA's pair, of the same boundaries; on features, squares and products it is QDA's.
    """
    rows, d = {}, 5
    for kind, law in SIMULATED.items():
        for seed in range(options.seeds):
            rng = np.random.default_rng(seed)
            y, test_y = rng.integers(0, 2, size=500), rng.integers(0, 2, size=20_000)
            x, test_x = (torch.from_numpy(law(rng, labels, d)).float() for labels in (y, test_y))
            p = Problem(kind, x, torch.from_numpy(y), test_x, torch.from_numpy(test_y))
            for name in ("LDA", "QDA", "naive Bayes", "softmax", "perceptron"):
                rows[kind, name, seed] = judged(fitted(name, p, p.x, p.y, seed), p.test_x, p.test_y)
            q = Problem(kind, squared(p.x), p.y, squared(p.test_x), p.test_y)
            rows[kind, "quadratic softmax", seed] = judged(fitted("softmax", q, q.x, q.y, seed), q.test_x, q.test_y)
    return tabulated(rows, "classes")


def squared(x: torch.Tensor) -> torch.Tensor:
    """The features, their squares and products."""
    return torch.cat([x, torch.stack([a * b for a, b in combinations_with_replacement(x.unbind(1), 2)], 1)], 1)


def missing(p: Problem, options: argparse.Namespace) -> xr.Dataset:
    """Test items with entries missing at random: summed out exactly, or imputed."""
    rows = {}
    for seed in range(options.seeds):
        q, rng = p.split(seed), np.random.default_rng(seed)
        own, names = q.labelled(min(len(q.x), 2000), seed), ("LDA", "mixtures", "softmax", "perceptron")
        models = {name: fitted(name, q, q.x[own], q.y[own], seed) for name in names}
        test_x, test_y, flat = q.test_x[: options.items], q.test_y[: options.items], q.x[own].flatten(1).numpy()
        for share in SHARES:
            x = test_x.masked_fill(torch.from_numpy(rng.random(test_x.shape) < share), torch.nan)
            for name in ("LDA", "mixtures"):
                rows[share, f"{name}, exact", seed] = judged(models[name], x, test_y, missing=True)
            gone = np.where(rng.random(flat.shape) < max(share, 0.1), np.nan, flat)
            near = min(16, flat.shape[1] - 1)
            imputers = {"mean": SimpleImputer(keep_empty_features=True)}
            if flat.shape[1] < 100:
                imputers["iterated"] = IterativeImputer(
                    max_iter=3, n_nearest_features=near, random_state=seed, keep_empty_features=True
                )
            for how, imputer in imputers.items():
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # three rounds need not have converged
                    filled = imputer.fit(gone).transform(x.flatten(1).numpy())
                whole = torch.from_numpy(filled).float().reshape(x.shape)
                for name in models:
                    rows[share, f"{name}, {how}", seed] = judged(models[name], whole, test_y)
    return tabulated(rows, "missing", p.overlap(options.items))


def noise(p: Problem, options: argparse.Namespace) -> xr.Dataset:
    """A share of the training labels replaced by another class; the test labels are clean."""
    rows = {}
    for seed in range(options.seeds):
        q = p.split(seed)
        own = q.labelled(min(len(q.x), 1000), seed)
        for share in NOISE:
            rng, y = np.random.default_rng([seed, 1]), q.y[own].numpy().copy()
            wrong = rng.random(len(y)) < share
            wrong[: 2 * p.classes] = False  # every class keeps two items
            y[wrong] = (y[wrong] + rng.integers(1, p.classes, size=int(wrong.sum()))) % p.classes
            for name in MODELS:
                rows[share, name, seed] = judged(fitted(name, q, q.x[own], y, seed), q.test_x, q.test_y)
    return tabulated(rows, "noise", p.overlap())


def priors(p: Problem, options: argparse.Namespace) -> xr.Dataset:
    """Test items of classes in other proportions: each classifier as it is, and told the new ones without a refit."""
    rows = {}
    for seed in range(options.seeds):
        q, rng = p.split(seed), np.random.default_rng([seed, 2])
        own = q.labelled(min(len(q.x), 1000), seed)
        new = 0.5 ** rng.permutation(p.classes)
        new = new / new.sum()
        weight = (new / np.bincount(q.test_y, minlength=p.classes))[q.test_y]
        again = rng.choice(len(q.test_y), size=len(q.test_y), p=weight / weight.sum())
        x, y = q.test_x[again], q.test_y[again]
        for name in ("LDA", "mixtures", "softmax", "perceptron"):
            classifier = fitted(name, q, q.x[own], q.y[own], seed)
            rows["as fitted", name, seed] = judged(classifier, x, y)
            if hasattr(classifier, "with_class_prior"):
                rows["told", name, seed] = judged(classifier.with_class_prior(new), x, y)
                continue
            with torch.no_grad():  # p(y | x) over the old prior times the new one
                old = torch.bincount(q.y[own], minlength=p.classes) / len(own)
                moved = classifier.predict_log_proba(x) - old.log() + torch.from_numpy(new).float().log()
                table = moved.log_softmax(-1)
            right = (table.argmax(-1) == y).float().mean()
            rows["told", name, seed] = {
                "accuracy": float(right),
                "log_loss": -float(table.gather(1, y[:, None]).mean()),
            }
    return tabulated(rows, "prior", p.overlap())


def calibration(p: Problem, options: argparse.Namespace) -> xr.Dataset:
    """One fit of each to all labels: scores with intervals over test items, and reliability."""
    parts, names = [], deep(p)
    for name in names:
        x, y = DEEP[name].seen(p.test_x[: options.items]), p.test_y[: options.items]
        table = pyrovae.predictions(fitted(name, p, p.x, p.y, 0), x, y)
        found = pyrovae.classification_scores(table)
        bins = pyrovae.reliability(table, bins=10).rename(
            {n: f"bin_{n}" for n in ("confidence", "accuracy", "lower", "upper", "count")}
        )
        with np.errstate(all="ignore"):
            p_max, hit = np.exp(table["log_proba"].max("label")), table["predicted"] == table["y"]
        over = (p_max - hit).values
        ece = {"overconfidence": over.mean(), "overconfidence_se": over.std(ddof=1) / np.sqrt(len(over))}
        ece |= {"ece_calibrated": found.ece_calibrated[0], "ece_calibrated_upper": found.ece_calibrated[1]}
        parts.append(xr.merge([found.metrics, bins]).assign(ece).drop_vars("units"))
    return xr.concat(parts, xr.Variable("model", names), join="outer", combine_attrs="override")


def strange(p: Problem, options: argparse.Namespace) -> xr.Dataset:
    """AUROC of usual test items against strange ones: by p(x), and by the largest p(y | x).

    Floors are those that serve p(y | x) best, and not p(x).
    """
    x, rng = p.test_x[: options.items], np.random.default_rng(0)
    low, high = p.x.amin(0), p.x.amax(0)
    noise_x = low + (high - low) * torch.from_numpy(rng.random(x.shape)).float()
    shuffled = torch.stack(
        [one.flatten()[torch.from_numpy(rng.permutation(one.numel()))].reshape(one.shape) for one in x]
    )
    mean = p.x.mean(0)
    sets = {
        "uniform noise": noise_x,
        "entries shuffled": shuffled,
        "half as far from the mean": mean + 0.5 * (x - mean),
    }
    if len(p.shape) == 3:
        sets |= {"half as bright": 0.5 * x, "inverted": 1 - x}
    rows = []
    for name in deep(p):
        classifier, seen = fitted(name, p, p.x, p.y, 0), DEEP[name].seen
        for score in ("log p(x)", "largest p(y | x)"):
            if score == "log p(x)" and not hasattr(classifier, "log_prob"):
                continue

            def of(items: torch.Tensor, score: str = score, classifier: Any = classifier, seen: Any = seen) -> Any:
                with torch.no_grad():
                    if score == "log p(x)":
                        return classifier.log_prob(seen(items))
                    return classifier.predict_log_proba(seen(items)).amax(-1)

            usual = of(x)
            found = [pyrovae.auroc(usual, of(other)) for other in sets.values()]
            values = {k: ("set", [getattr(one, k) for one in found]) for k in ("value", "lower", "upper")}
            rows.append(xr.Dataset(values, {"set": list(sets), "by": f"{score}, {name}"}))
    return xr.concat(rows, "by")


def unlabelled(p: Problem, options: argparse.Namespace) -> xr.Dataset:
    """Generative classifiers with few labels: alone, and with the other training items without theirs.

    Floors are chosen for each, with the unlabelled items where they take part.
    """
    rows = {}
    for n in (n for n in (20, 40, 100, 400) if 2 * p.classes <= n < len(p.x) // 2):
        for seed in range(options.seeds):
            q = p.split(seed)
            own = q.labelled(n, seed)
            rest = np.setdiff1d(np.arange(len(q.x)), own)[:5000]
            for name in ("naive Bayes", "LDA", "mixtures"):
                x, y = q.x[own], q.y[own]
                alone = judged(fitted(name, q, x, y, seed), q.test_x, q.test_y)
                together = judged(fitted(name, q, x, y, seed, unlabeled=q.x[rest]), q.test_x, q.test_y)
                rows[n, name, seed] = {
                    "alone": alone["accuracy"],
                    "together": together["accuracy"],
                    "gain": together["accuracy"] - alone["accuracy"],
                }
    return tabulated(rows, "labels", p.overlap())


def samples(p: Problem, options: argparse.Namespace) -> xr.Dataset:
    """Draws of p(x | y): the class that a judge that never saw them gives them, and whether a forest tells them apart.

    A random forest is trained to tell draws from as many test items and judged on folds that it has not seen; its share
    right is one half where there is no difference (a classifier two-sample test: Lopez-Paz and Oquab 2017). Floors are
    those that serve p(y | x) best, and not p(x): draws carry their variance.
    """
    half = len(p.x) // 2
    judge = fitted("perceptron", p, p.x[:half], p.y[:half], 1)
    y, real = p.test_y[: options.items], p.test_x[: options.items]
    others = half + np.random.default_rng(0).permutation(len(p.x) - half)[: len(y)]
    drawn, labels = {"training items": p.x[others]}, {"training items": p.y[others]}
    for name in ("naive Bayes", "LDA", "mixtures", "VAE a class"):
        classifier = fitted(name, p, p.x, p.y, 0)
        torch.manual_seed(0)
        drawn[name] = torch.cat([classifier.sample(int(c), 1) for c in y])
        labels[name] = y
    rows = []
    for name, items in drawn.items():
        table = pyrovae.predictions(judge, items, labels[name])
        accuracy = pyrovae.classification_scores(table).metrics.sel(metric="accuracy")
        right, p_value = told_apart(real.flatten(1).numpy(), items.flatten(1).numpy())
        found = {k: float(accuracy[k]) for k in ("value", "lower", "upper")}
        rows.append(xr.Dataset({**found, "told_apart": right, "p_value": p_value}))
    return xr.concat(rows, xr.Variable("model", list(drawn)))


def told_apart(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """The share of items that a forest assigns rightly on unseen folds, and the p-value of its being over one half."""
    both, whose = np.concatenate([a, b]), np.repeat([0, 1], [len(a), len(b)])
    forest = RandomForestClassifier(300, random_state=0, n_jobs=1)
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    hits = int((cross_val_predict(forest, both, whose, cv=folds) == whose).sum())
    return hits / len(both), float(binomtest(hits, len(both), 0.5, alternative="greater").pvalue)


QUESTIONS = {
    f.__name__: f for f in (learning, specification, missing, noise, priors, calibration, strange, unlabelled, samples)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", default="digits", help="digits, breast-cancer, mnist, fashion-mnist, kmnist, or a path"
    )
    parser.add_argument("--root", default=None, help="folder of the data set, in torchvision's layout")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument(
        "--items", type=int, default=1000, help="test items at most, of one fit's and with entries missing"
    )
    parser.add_argument("--questions", nargs="*", default=list(QUESTIONS), choices=list(QUESTIONS))
    parser.add_argument("--out", type=Path, default=None, help="folder for results (out/generative-DATA)")
    options, start = parser.parse_args(), time.perf_counter()
    if options.seeds < 2:
        parser.error("--seeds must be at least 2: intervals are over seeds")
    options.out = options.out or Path("out") / f"generative-{Path(options.data).name}"
    options.out.mkdir(parents=True, exist_ok=True)
    p = problem(options.data, options.root)
    for name in options.questions:
        home = options.out / f"{name}-{options.seeds}-{options.items}-{MEASURED}.nc"
        if not home.exists():
            QUESTIONS[name](p, options).to_netcdf(home.with_suffix(".part"), engine="h5netcdf")
            home.with_suffix(".part").rename(home)  # a kill leaves no half a table
        with xr.open_dataset(home, engine="h5netcdf") as found:
            words, figure = REPORTS[name](found.load())
        print(f"\n{name}: {inspect.getdoc(QUESTIONS[name])}\n{words}", flush=True)
        figure.savefig(options.out / f"{name}.png", dpi=120)
    print(f"\n{time.perf_counter() - start:.0f} s; tables and figures are in {options.out}/")


if __name__ == "__main__":
    main()
