"""Runs from few labels: stopped and gone on with to the same bits, watched, ended early, and as one compiled graph."""

import copy
import math

import pytest
import torch
from conftest import needs_compiler

import pyrovae
from pyrovae import SemiSupervisedVAE, fit
from pyrovae.callbacks import Callback
from pyrovae.inference.checkpoint import ArchitectureError
from pyrovae.inference.semi_supervised import terms_of
from pyrovae.inference.svi.loop import Loop

generator = torch.Generator().manual_seed(0)
X, Y = torch.rand(14, 5, generator=generator), [0, 1, 2, 1, 0, 2, 2, 0, 1, 0, 0, 1, 2, 1]
MORE, HELD_OUT = torch.rand(40, 5, generator=generator), (torch.rand(9, 5, generator=generator), [0, 1, 2] * 3)
STEPS = 3  # an epoch, of 15, 15 and 10 unlabelled items beside 6, 6 and 2 labelled ones, or of these alone
QUICK = {"batch_size": 15, "labeled_batch_size": 6, "binarize": True, "progress": False, "compile": False}


def pair(seed=0, **options):
    torch.manual_seed(seed)
    return SemiSupervisedVAE((5,), 3, 2, hidden_dims=(8,), **options)


def weights(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def quiet(one, x=X, y=Y, **options):
    return fit(one, x, y, **{"unlabeled": MORE, **QUICK, **options})


def killed(folder, step, **options):
    """Begin a run that dies before a step, counted over all epochs."""
    take = Loop.step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "step", lambda loop, *batch: take(loop, *batch) if loop.taken < step else 1 // 0)
        with pytest.raises(ZeroDivisionError):
            quiet(pair(), checkpoint=folder, checkpoint_every=STEPS, **options)


# to go on with a run --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"validation": HELD_OUT, "patience": 3, "warmup": 3, "schedule": "cosine", "weight_decay": 0.1},
        pytest.param({"unlabeled": None, "schedule": "plateau"}, marks=pytest.mark.slow),
    ],
)
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, options):
    options = {"epochs": 3, **options}
    one, again = pair(), pair(seed=1)
    whole = quiet(one, **options)
    killed(tmp_path / "run", 2 * STEPS + 1, **options)
    history = quiet(again, checkpoint=tmp_path / "run", resume=True, **options)  # from weights that count for nothing
    assert history.epochs.drop_vars("seconds").equals(whole.epochs.drop_vars("seconds"))
    assert torch.equal(weights(again), weights(one))
    assert history.config["resumed_after"] == 1 and whole.config["resumed_after"] is None
    assert pyrovae.load(tmp_path / "run" / "epoch-000002").classes_.tolist() == [0, 1, 2]


def test_another_start_is_another_run():  # the control of the test above
    one, other = pair(), pair(seed=1)
    quiet(one, epochs=1)
    quiet(other, epochs=1)
    assert not torch.equal(weights(one), weights(other))


def test_a_run_of_something_else_is_refused_and_nothing_changes(tmp_path):
    quiet(pair(), epochs=1, validation=HELD_OUT, checkpoint=tmp_path / "run")
    same = {"epochs": 2, "validation": HELD_OUT, "checkpoint": tmp_path / "run", "resume": True}
    another = "resume=True goes on with the same run, and this is another: "
    one = pair(seed=1)
    before = weights(one)
    for changed, message in [
        ({"x": X.flip(0)}, f"{another}items: "),
        ({"unlabeled": MORE.flip(0)}, f"{another}unlabeled_items: "),
        ({"unlabeled": None}, f"{another}unlabeled_items: .*None now"),
        ({"validation": (HELD_OUT[0], [0] * 9)}, f"{another}validation_items: "),
        ({"alpha": 0.5}, f"{another}alpha: 1.0 before, 0.5 now"),
        ({"y": [str(label) for label in Y]}, "classes"),
        ({"resume": False}, "holds a run: resume=True goes on with it, or name another folder"),
    ]:
        with pytest.raises((ValueError, FileExistsError), match=message):
            quiet(one, **{**same, **changed})
    with pytest.raises(ArchitectureError, match="holds another architecture"):
        quiet(SemiSupervisedVAE((5,), 3, 2, hidden_dims=(9,)), **same)
    assert torch.equal(weights(one), before)
    quiet(one, **same)  # the control: the same run is none of these


def test_a_run_that_broke_names_the_terms_and_has_the_weights_before():
    one = pair()
    with pytest.raises(FloatingPointError, match=r"at step 3 \(batch 3 of epoch 1\): L\(x, y\).* is not"):
        quiet(one, schedule=lambda step, steps: 1.0 if step < 1 else 1e38)
    assert weights(one).isfinite().all()


# callbacks and early stopping -----------------------------------------------------------------------


class Noted(Callback):
    def __init__(self):
        self.calls = []

    def begin(self, run):
        self.calls.append(("begin", run.config["alpha"]))

    def epoch(self, run, row):
        self.calls.append((row["validation_log_loss"], weights(run.pair)))

    def end(self, run):
        self.calls.append(("end", weights(run.pair)))


def test_a_run_ends_early_with_its_best_weights():
    noted, one = Noted(), pair()
    rates = {"schedule": lambda step, steps: 1.0 if step < 2 * STEPS else 1e3}  # which only make it worse
    history = quiet(one, epochs=30, validation=HELD_OUT, patience=2, callbacks=[noted], **rates)
    scores = [score for score, _ in noted.calls[1:-1]]
    best = scores.index(min(scores))
    assert len(scores) == best + 3 < 30
    assert history.config["weights_epoch"] == best and history.config["stopped"] == f"weights of epoch {best + 1}"
    assert noted.calls[0] == ("begin", 1.0) and noted.calls[-1][0] == "end"
    assert torch.equal(weights(one), noted.calls[1 + best][1])
    with pytest.raises(ValueError, match="patience stops on the validation ELBO, or a classifier's log-loss: give"):
        quiet(pair(), patience=2)


def test_a_run_that_ends_inside_its_warm_up_says_so():
    with pytest.warns(UserWarning, match=r"ended after 1 of 4 warm-up epochs, with U\(x\) weighed by 0.25: raise"):
        quiet(pair(), epochs=1, warmup=4)


# one compiled graph ---------------------------------------------------------------------------------


@needs_compiler
@pytest.mark.slow
def test_a_compiled_run_is_the_eager_one_but_for_rounding(tmp_path):
    one = pair().double()
    two, three = copy.deepcopy(one), copy.deepcopy(one)
    options = {"epochs": 3, "warmup": 2, "weight_decay": 0.1, "schedule": "cosine"}
    eager = quiet(one, X.double(), unlabeled=MORE.double(), **options)
    options |= {"unlabeled": MORE.double(), "compile": True}
    compiled = quiet(two, X.double(), checkpoint=tmp_path / "run", checkpoint_every=1, **options)
    assert compiled.config["compiled"] and compiled.config["compiles"] == 1 and not eager.config["compiled"]
    for name in ("loss", "labeled_loss", "cross_entropy", "unlabeled_loss"):
        assert compiled.epochs[name].values == pytest.approx(eager.epochs[name].values, rel=1e-10)
    assert torch.allclose(weights(one), weights(two), rtol=1e-8, atol=1e-10)
    quiet(three, X.double(), **options | {"alpha": 1.001})
    assert not torch.allclose(weights(one), weights(three), rtol=1e-8, atol=1e-10)  # what 1 % of a term would do
    (tmp_path / "run" / "epoch-000002").rename(tmp_path / "lost")
    again = pair(seed=1).double()
    quiet(again, X.double(), checkpoint=tmp_path / "run", resume=True, **options | {"compile": "auto"})
    assert torch.equal(weights(again), weights(two))


def test_the_loss_of_a_step_has_no_read_of_a_value():
    """What a graph is captured from; class numbers are taken by index, as `indicators` has them."""
    one, y = pair(), torch.tensor(Y)
    torch.manual_seed(0)
    terms = terms_of(one, X.round(), y, MORE.round())
    torch.manual_seed(0)
    z = one.code(X.round(), one.indicators(y))
    noise = torch.randn(14, 2)
    found = one.given(one.indicators(y), z.mean + z.stddev * noise).log_prob(X.round())
    kl = torch.distributions.kl_divergence(z, one.prior().expand(z.batch_shape))
    torch.testing.assert_close(terms.labeled, kl - found + math.log(3))
