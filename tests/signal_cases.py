"""Pieces of work that `random_signals.py` sends signals to, and what each of them may leave behind."""

import hashlib
import math

import numpy as np
import torch

import pyrovae
from pyrovae.inference.svi.loop import Loop

DRAWN = np.random.default_rng(0)
X = (DRAWN.random((64, 6)) < 0.5).astype("float32")
MORE = (DRAWN.random((3000, 6)) < 0.5).astype("float32")  # three batches of a validation
CLUSTERS = np.concatenate([DRAWN.normal(m, 1.0, (60, 2)) for m in (0.0, 3.0, 9.0)])
LABELS = np.repeat([0, 1, 1], 60)
COLUMNS = [pyrovae.Column("a", "binary"), pyrovae.Column("b", "categorical", 3), pyrovae.Column("c", "real")]
ROWS = np.column_stack([DRAWN.integers(0, 2, 120), DRAWN.integers(0, 3, 120), DRAWN.normal(size=120)])
QUICK = {"progress": False, "seed": 1}
SVI = {**QUICK, "epochs": 4, "batch_size": 8, "compile": False}


def digest(tensors):
    return hashlib.sha256(b"".join(t.detach().numpy().tobytes() for t in tensors)).hexdigest()[:16]


def digest_of(pair):
    return digest(pair.state_dict().values())


class Case:
    """A fit of a new pair, which has the same bits each time; `wrong_with` says what it must not leave."""

    def __init__(self, build, *data, **options):
        self.builder, self.data, self.options = build, data, options

    def build(self, seed=0):
        torch.manual_seed(seed)
        return self.builder()

    def work(self, pair, folder, **options):
        return pyrovae.fit(pair, *self.data, **{**self.options, **options})

    def expected(self):
        """What an uninterrupted run leaves; a dict that becomes JSON."""
        pair = self.build()
        history = self.work(pair, None)
        return {"final": digest_of(pair), "before": digest_of(self.build()), "losses": losses(history)}

    def wrong_with(self, pair, history, expected, folder, *, is_second):
        """A list of sentences; of a method that leaves the pair as it was where it does not end."""
        is_whole = self.is_whole(history, expected)
        if digest_of(pair) != expected["final" if is_whole else "before"]:
            return [f"the pair is not as {'after' if is_whole else 'before'} the fit"]
        return []

    def is_whole(self, history, expected):
        return losses(history) == expected["losses"]


class Stochastic(Case):
    """A fit by SVI, which leaves the weights of the last whole batch."""

    def expected(self):
        digests, step, module = [], Loop.step, []

        def noting(loop, *batch):
            module[:] = [loop.module]
            digests.append(digest_of(loop.module))
            return step(loop, *batch)

        Loop.step = noting
        try:
            found = super().expected()
        finally:
            Loop.step = step
        return {**found, "digests": [*digests, found["final"]]}

    def wrong_with(self, pair, history, expected, folder, *, is_second):
        batches = self.batches(history, expected)
        if not batches and not is_second:
            return super().wrong_with(pair, history, expected, folder, is_second=is_second)
        if batches and history.config.get("stopped") and "after" not in history.config["stopped"]:
            return [f"it says {history.config['stopped']}"]
        if not is_second and digest_of(pair) != expected["digests"][batches]:
            return [f"not the weights after {batches} batches"]
        return []

    def batches(self, history, expected):
        if "batches" in history.config:
            return history.config["batches"]
        return len(expected["digests"]) - 1 if self.is_whole(history, expected) else 0


class Written(Stochastic):
    """The same with a folder: none of the batches is lost, and the run goes on to the same bits."""

    def work(self, pair, folder, **options):
        place = {} if folder is None else {"checkpoint": folder / "run", "checkpoint_every": 1}
        return super().work(pair, folder, **place, **options)

    def wrong_with(self, pair, history, expected, folder, *, is_second):
        found = super().wrong_with(pair, history, expected, folder, is_second=is_second)
        if self.batches(history, expected) == len(expected["digests"]) - 1:
            return found
        again = self.build(seed=1)
        resumed = self.work(again, folder, resume=True)
        each = (len(expected["digests"]) - 1) // self.options["epochs"]
        after = resumed.config["resumed_after"]
        kept = (0 if after is None else after + 1) * each + resumed.config["resumed_batch"]
        final = expected["final"]
        if not kept:  # nothing is there to go on with: the run begins with the weights at hand
            self.work(begun := self.build(seed=1), None)
            final = digest_of(begun)
        if digest_of(again) != final:
            found.append("the run goes on to other bits")
        lost = self.batches(history, expected) - kept
        if (lost > 1) if is_second else lost:
            found.append(f"{lost} batches are lost of {self.batches(history, expected)}")
        return found


class Climbing(Case):
    """EM from several starts, which leaves the best one so far."""

    values = "log_likelihoods"

    def expected(self):
        pair = self.build()
        history = self.work(pair, None)
        found = {"iterations": history.config["iterations"], "values": history.config[self.values]}
        return {**super().expected(), **found}

    def wrong_with(self, pair, history, expected, folder, *, is_second):
        if is_second:  # which may come as the pair is written to
            return []
        if self.values not in history.config:
            return super().wrong_with(pair, history, expected, folder, is_second=is_second)
        done, whole = history.config["iterations"], expected["iterations"]
        values = history.config[self.values]
        found = []
        if done[:-1] != whole[: len(done) - 1] or done[-1] > whole[len(done) - 1]:
            found.append(f"iterations {done} of {whole}")
        if values[:-1] != expected["values"][: len(done) - 1]:
            found.append(f"log-likelihoods {values} of {expected['values']}")
        if abs(self.value_of(pair) - max(values)) > 1e-9:
            found.append(f"log-likelihood {self.value_of(pair)}, and {max(values)} is the best")
        return found

    def value_of(self, pair):
        with torch.no_grad():
            mean = float(pair.log_prob(torch.as_tensor(self.data[0])).mean())
            return mean + (float(pair.log_prior()) / len(self.data[0]) if self.values == "objectives" else 0.0)


class OfColumns(Climbing):
    """The same for a latent class model."""

    values = "objectives"


class Linear(Case):
    """EM of a linear pair, which leaves what so many iterations find."""

    def wrong_with(self, pair, history, expected, folder, *, is_second):
        count = history.config.get("iterations", 0)
        if not count or losses(history) == expected["losses"]:
            return super().wrong_with(pair, history, expected, folder, is_second=is_second)
        again = self.build()
        self.work(again, None, max_iterations=count)
        return [] if digest_of(again) == digest_of(pair) else [f"not the parameters after {count} iterations"]


class ByClass(Case):
    """A classifier, of which the classes that were fitted are kept."""

    def expected(self):
        pair = self.build()
        self.work(pair, None)
        return {**super().expected(), "parts": [digest_of(part) for part in pair.densities.parts]}

    def wrong_with(self, pair, history, expected, folder, *, is_second):
        if "label" not in history.epochs.sizes:
            return super().wrong_with(pair, history, expected, folder, is_second=is_second)
        whole = history.epochs.sizes["label"] - (history.config.get("stopped") is not None)
        parts = [digest_of(part) for part in pair.densities.parts]
        same = [ours == theirs for ours, theirs in zip(parts, expected["parts"], strict=True)]
        return [] if all(same[:whole]) else [f"{whole} classes were fitted, and of those are right {same}"]


class Estimate(Case):
    """An estimator, which changes nothing."""

    def work(self, pair, folder, **options):
        return pyrovae.iwae(pair, *self.data, **self.options)

    def expected(self):
        return {"final": digest_of(self.build()), "before": digest_of(self.build()), "losses": []}

    def is_whole(self, history, expected):
        return True


def losses(history):
    values = getattr(getattr(history, "epochs", None), "loss", None)
    return [] if values is None else [None if math.isnan(v) else v for v in values.values.flatten().tolist()]


def mixture():
    return pyrovae.GaussianMixture((2,), 3).double()


def classifier():
    densities = {label: pyrovae.GaussianMixture((2,), 2) for label in range(2)}
    return pyrovae.GenerativeClassifier(densities).double()


def small_vae():
    return pyrovae.mlp_vae((6,), hidden_dims=(8,))


EM = {**QUICK, "num_restarts": 4, "tol": 1e-5}
CASES = {
    "svi": Stochastic(small_vae, X, **SVI),
    "validation": Stochastic(small_vae, X, **SVI, validation=MORE),
    "checkpoint": Written(small_vae, X, **SVI),
    "compiled": Written(small_vae, X, **{**SVI, "epochs": 400, "batch_size": 16, "compile": True}),
    "semi_supervised": Stochastic(
        lambda: pyrovae.SemiSupervisedVAE((6,), 3, 2, hidden_dims=(8,)),
        X[:24],
        np.arange(24) % 3,
        **QUICK,
        unlabeled=X[24:],
        epochs=4,
        batch_size=8,
        labeled_batch_size=6,
        compile=False,
    ),
    "bayesian": Stochastic(
        lambda: pyrovae.BayesianGaussianMixture((2,), 2), CLUSTERS, **QUICK, method="svi", epochs=12, compile=False
    ),
    "em": Climbing(mixture, CLUSTERS, **EM),
    "columns": OfColumns(lambda: pyrovae.ColumnMixture(COLUMNS, 2).double(), ROWS, **EM),
    "linear": Linear(lambda: pyrovae.linear_vae(6, 2).double(), X.astype(float), **QUICK, method="em"),
    "classes": ByClass(classifier, CLUSTERS, LABELS, **EM),
    "lbfgs": Case(
        lambda: pyrovae.DiscriminativeClassifier((2,), 2, hidden_dims=(), prior_scale=1.0), CLUSTERS, LABELS, **QUICK
    ),
    "nuts": Case(
        lambda: pyrovae.BayesianGaussianMixture((2,), 2),
        CLUSTERS,
        **QUICK,
        method="nuts",
        num_chains=1,
        num_draws=5,
        num_warmup=5,
    ),
    "iwae": Estimate(small_vae, MORE, num_particles=20),
}
