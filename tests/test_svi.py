"""`fit`: what it minimises, what it leaves alone, and that it reaches maxima known in closed form."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
import warnings

import numpy as np
import pyro
import pytest
import torch
from conftest import linear_log_prob
from pyro import poutine
from pyro.infer import Trace_ELBO
from sklearn.datasets import load_wine
from torch import nn

import pyrovae
from pyrovae.data import MappedArray, batches
from pyrovae.inference.svi import validation
from pyrovae.inference.svi.loop import Loop
from pyrovae.inference.svi.run import PosteriorCollapseWarning
from pyrovae.inference.svi.schedule import schedule_of
from pyrovae.methods import SVI
from pyrovae.models.particles import particles

SOME = torch.rand(23, 1, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
SOME = SOME.to(torch.get_default_dtype())  # the same numbers in any
STILL = 1e-30  # a learning rate that moves no weight, of either dtype


def pair(seed=0, **options):
    torch.manual_seed(seed)
    options = {"hidden_dims": (8,), "likelihood": pyrovae.Normal(scale=0.1), **options}
    return pyrovae.mlp_vae((1, 4, 3), latent_dim=3, **options)


def quiet_fit(vae, x=SOME, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PosteriorCollapseWarning)
        return pyrovae.fit(vae, x, progress=False, **options)


def weights(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def ppca_maximum(x: np.ndarray, k: int) -> float:
    """Log-likelihood per item at the maximum (Tipping and Bishop 1999, section 3.2), from the 1/N covariance."""
    values = np.linalg.eigvalsh(np.cov(x.T, bias=True))[::-1]
    d = len(values)
    rest = values[k:].mean()
    return -0.5 * (np.log(values[:k]).sum() + (d - k) * np.log(rest) + d * (1 + np.log(2 * np.pi)))


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 2, 5])
def test_a_linear_vae_reaches_the_maximum_of_probabilistic_pca(k):
    # standardised wine, full batch: no more than 1e-3 nats an item below the maximum, and never above it
    x = load_wine().data
    x = (x - x.mean(0)) / x.std(0)
    torch.manual_seed(0)
    vae = pyrovae.linear_vae(13, k)
    for epochs, rate in ((1500, 1e-2), (500, 1e-3), (1000, 1e-4)):
        pyrovae.fit(vae, x, epochs=epochs, batch_size=178, learning_rate=rate, progress=False)
    best = ppca_maximum(x, k)
    reached = float(linear_log_prob(vae, torch.from_numpy(x)).mean())
    assert best - 1e-3 < reached <= best + 1e-9
    # there the diagonal guide is exact: the ELBO touches log p(x), within 4 standard errors
    elbo = pyrovae.elbo(vae, x, num_particles=64)
    assert abs(elbo.mean - reached) < 4 * elbo.se + 1e-3


def by_hand(vae, x, noise_seed, scale=0.1):
    """-ELBO in nats an item, written out from Kingma and Welling's appendix B: the second implementation."""
    q = vae.posterior(x).base_dist
    with torch.random.fork_rng():
        torch.manual_seed(noise_seed)
        noise = torch.randn(q.loc.shape)
    z = q.loc + q.scale * noise
    loc = vae.likelihood.network(z)
    d = math.prod(vae.event_shape)
    distortion = ((x - loc) ** 2).flatten(1).sum(1) / (2 * scale**2) + d * math.log(scale * math.sqrt(2 * math.pi))
    log_ratio = (-(noise**2) / 2 - q.scale.log() + z**2 / 2).sum(1)
    return distortion, log_ratio


class TestObjective:
    def test_the_loss_is_the_negative_elbo_per_item(self):
        # at a learning rate of 1e-12 the weights stand still: the mean of many epochs is the loss itself
        vae = pair(likelihood=pyrovae.Normal(scale=1.0))
        with torch.no_grad():
            vae.posterior.loc.bias.add_(1.0)
        history = quiet_fit(vae, epochs=200, batch_size=5, learning_rate=1e-12)
        with torch.no_grad():
            runs = [sum(t.mean() for t in by_hand(vae, SOME, seed, scale=1.0)).item() for seed in range(200)]
            kl = np.mean([by_hand(vae, SOME, seed, scale=1.0)[1].mean().item() for seed in range(50)])
        got = history.epochs.loss.values
        error = math.hypot(np.std(got) / math.sqrt(200), np.std(runs) / math.sqrt(200))
        assert abs(got.mean() - np.mean(runs)) < 4 * error  # false alarm 6e-5
        assert kl > 20 * error  # control: a loss without its KL term, or with it turned round, would be seen

    @pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, 4.0])
    def test_one_step_is_adams_on_the_written_out_loss(self, beta):
        vae, twin = pair(), pair()
        noise = {}

        class Spy(poutine.messenger.Messenger):
            def _pyro_post_sample(self, msg):
                if msg["name"] == "latent":
                    noise["z"] = msg["value"].detach()

        with Spy():
            history = quiet_fit(vae, epochs=1, batch_size=23, learning_rate=0.01, beta=beta)
        order = pyrovae.data.batches(SOME, 23, seed=0, epoch=0)
        x = next(iter(order))
        q = twin.posterior(x).base_dist
        draw = (noise["z"] - q.loc) / q.scale  # the noise fit drew, seen from the same weights
        z = q.loc + q.scale * draw.detach()
        distortion = -torch.distributions.Normal(twin.likelihood.network(z), 0.1).log_prob(x).flatten(1).sum(1)
        log_ratio = (torch.distributions.Normal(q.loc, q.scale).log_prob(z) + z**2 / 2).sum(1) + 1.5 * math.log(
            2 * math.pi
        )
        loss = (distortion + beta * log_ratio).mean()
        loss.backward()
        torch.optim.Adam(twin.parameters(), lr=0.01).step()
        assert float(history.epochs.loss[0]) == pytest.approx(loss.item(), rel=1e-5)
        assert torch.allclose(weights(vae), weights(twin), atol=1e-5)

    def test_the_importance_weighted_loss_is_the_negative_bound_per_item(self):
        # K = 1 is the ELBO; K = 20 is the log-mean-exp over K for each item, not over the batch's sum
        vae = pair()
        one = quiet_fit(
            copy.deepcopy(vae), epochs=1, batch_size=23, learning_rate=1e-12, objective="iwae", num_particles=1
        )
        elbo = quiet_fit(copy.deepcopy(vae), epochs=1, batch_size=23, learning_rate=1e-12)
        assert float(one.epochs.loss[0]) == pytest.approx(float(elbo.epochs.loss[0]), rel=1e-6)
        many = quiet_fit(vae, epochs=100, batch_size=23, learning_rate=1e-12, objective="iwae", num_particles=20)
        x = next(iter(pyrovae.data.batches(SOME, 23, seed=0, epoch=0)))
        expected = []
        with torch.no_grad():
            for seed in range(100):
                repeats = x.repeat(20, *[1] * (x.ndim - 1))  # with noise of their own
                terms = -sum(by_hand(vae, repeats, seed)).reshape(20, len(x))
                expected.append((math.log(20) - terms.logsumexp(0).mean()).item())
        got = many.epochs.loss.values
        error = math.hypot(np.std(got), np.std(expected)) / 10
        assert abs(got.mean() - np.mean(expected)) < 4 * error  # false alarm 6e-5
        assert got.mean() < float(elbo.epochs.loss[0]) - 4 * error

    def test_validation_is_the_elbo_at_beta_one_whatever_the_loss(self):
        first, second = pair(), pair()
        options = {"epochs": 1, "learning_rate": STILL, "validation": SOME}
        at_one = quiet_fit(first, **options)
        at_three = quiet_fit(second, beta=3.0, **options)
        assert float(at_one.epochs.validation_elbo[0]) == float(at_three.epochs.validation_elbo[0])
        assert float(at_one.epochs.loss[0]) != float(at_three.epochs.loss[0])


class TestSchedules:
    def plan(self, **options):
        return SVI(**{"epochs": 10, "batch_size": 4, "learning_rate": 0.1, **options}).plan(pair(), SOME, seed=0)

    def test_the_warm_up_ends_at_the_asked_beta(self):
        plan = self.plan(beta=2.5, warmup=4)
        betas = [plan.weight(step, 6) for step in range(60)]
        assert betas[0] == pytest.approx(2.5 / 24)
        assert np.allclose(np.diff(betas[:24]), 2.5 / 24)
        assert all(b == 2.5 for b in betas[23:])

    def test_the_cosine_ends_near_nothing(self):
        plan = self.plan(schedule="cosine")
        rates = [plan.learning_rate * schedule_of(plan, 6).factor(step) for step in range(60)]
        assert rates[0] == 0.1
        assert rates[30] == pytest.approx(0.05)
        assert 0 < rates[-1] < 1e-4

    def test_history_notes_what_was_used(self):
        history = quiet_fit(pair(), epochs=4, batch_size=23, beta=2.0, warmup=2, schedule="cosine", learning_rate=0.01)
        assert history.epochs.beta.values.tolist() == [1.0, 2.0, 2.0, 2.0]
        assert np.allclose(history.epochs.learning_rate, [0.005 * (1 + math.cos(math.pi * e / 4)) for e in range(4)])

    def test_a_run_that_ends_inside_its_warm_up_says_so(self):
        with pytest.warns(UserWarning, match=r"ended after 3 of 10 warm-up epochs, at beta = 0.3 of 1"):
            quiet_fit(pair(), epochs=3, warmup=10)


class TestBinarize:
    def test_training_items_are_drawn_anew_each_epoch(self, monkeypatch):
        seen = []
        monkeypatch.setattr(Loop, "step", lambda loop, x, y: seen.append(x) or torch.zeros(()))
        grey = torch.full((400, 1, 4, 3), 0.3)
        quiet_fit(pair(likelihood="bernoulli"), grey, binarize=True, epochs=2, batch_size=400)
        assert not torch.equal(*seen)
        for x in seen:
            assert set(x.unique().tolist()) == {0.0, 1.0}
            assert abs(float(x.mean()) - 0.3) < 4 * math.sqrt(0.3 * 0.7 / x.numel())  # false alarm 6e-5

    def test_validation_items_are_drawn_once_whatever_the_training_draws(self, monkeypatch):
        seen = []

        def watched(pair, x, num_particles):
            seen.append(x)
            return particles(pair, x, num_particles)

        monkeypatch.setattr(validation, "particles", watched)
        for batch_size in (23, 5):
            quiet_fit(
                pair(likelihood="bernoulli"), SOME, validation=SOME, binarize=True, epochs=2, batch_size=batch_size
            )
        assert len(seen) == 4
        assert all(torch.equal(seen[0], x) for x in seen[1:])
        assert set(seen[0].unique().tolist()) == {0.0, 1.0}
        assert not torch.equal(seen[0], SOME.gt(0.5).float())


def test_dropout_is_off_for_validation():
    curves = []
    for extra in (nn.Identity(), nn.Dropout(0.5)):
        vae = pair()
        vae.likelihood.network = nn.Sequential(vae.likelihood.network, extra)
        history = quiet_fit(vae, validation=SOME, epochs=1, learning_rate=STILL)
        curves.append(float(history.epochs.validation_elbo[0]))
    assert curves[0] == curves[1]


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_it_trains_where_the_caller_has_gradients_switched_off(off):
    vae, expected = pair(), pair()
    quiet_fit(expected, epochs=2)
    with off():
        quiet_fit(vae, SOME.clone(), epochs=2)
    assert torch.equal(weights(vae), weights(expected))


class TestWhatIsLeftAlone:
    def test_validation_items_never_reach_the_weights(self):
        alone, watched, other = pair(), pair(), pair()
        quiet_fit(alone, epochs=3, batch_size=5)
        quiet_fit(watched, epochs=3, batch_size=5, validation=SOME + 0.1)
        quiet_fit(other, torch.cat([SOME, SOME[:1] + 0.1]), epochs=3, batch_size=5)
        assert torch.equal(weights(alone), weights(watched))
        assert not torch.equal(weights(alone), weights(other))  # control

    def test_the_callers_generators_store_and_settings(self):
        pyro.param("mine", torch.tensor(3.0))
        torch.manual_seed(7)
        np.random.seed(7)
        before = torch.random.get_rng_state(), np.random.get_state()[1].tolist(), pyro.settings.get()
        vae = pair()
        torch.manual_seed(7)
        vae.eval()
        quiet_fit(vae, epochs=1, validation=SOME, binarize=False)
        assert torch.equal(before[0], torch.random.get_rng_state())
        assert before[1] == np.random.get_state()[1].tolist()
        assert before[2] == pyro.settings.get()
        assert list(pyro.get_param_store()) == ["mine"]
        assert not vae.training
        assert all(p.grad is None and "unconstrained" not in p.__dict__ for p in vae.parameters())

    def test_the_items_themselves(self):
        x = np.random.default_rng(0).random((9, 1, 4, 3)).astype(np.float32)
        kept = x.copy()
        x.flags.writeable = False
        quiet_fit(pair(), x[::-1], epochs=1)
        assert np.array_equal(x, kept)

    def test_a_seed_fixes_everything(self):
        first, second, third = pair(), pair(), pair()
        quiet_fit(first, epochs=2, batch_size=5, seed=4, binarize=True)
        torch.rand(3)
        quiet_fit(second, epochs=2, batch_size=5, seed=4, binarize=True)
        quiet_fit(third, epochs=2, batch_size=5, seed=5, binarize=True)
        assert torch.equal(weights(first), weights(second))
        assert not torch.equal(weights(first), weights(third))


FRESH = """
import sys, hashlib, warnings; warnings.simplefilter("ignore")
import torch, pyro, pyrovae
from pyro.infer import SVI, Trace_ELBO
torch.set_num_threads(1)
x = torch.rand(40, 1, 4, 3, generator=torch.Generator().manual_seed(0)).round()
def digest(pair):
    return hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in pair.parameters())).hexdigest()
def through_fit(seed, width):
    torch.manual_seed(seed)
    vae = pyrovae.mlp_vae((1, 4, 3), hidden_dims=(width,))
    pyrovae.fit(vae, x, epochs=3, batch_size=16, progress=False)
    return digest(vae)
def through_svi(seed, width):
    torch.manual_seed(seed)
    vae = pyrovae.mlp_vae((1, 4, 3), hidden_dims=(width,))
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    for _ in range(5):
        svi.step(x)
    return digest(vae)
for job in sys.argv[1:]:
    way, seed, width = job.split(",")
    print(job, {"fit": through_fit, "svi": through_svi}[way](int(seed), int(width)))
"""


def fresh_process(*jobs: str) -> dict[str, str]:
    out = subprocess.run([sys.executable, "-c", FRESH, *jobs], capture_output=True, text=True, check=True).stdout
    return dict(line.split() for line in out.splitlines())


@pytest.mark.slow
def test_two_models_in_one_process_end_as_each_does_alone():
    # of one shape, the case where a name in Pyro's global store would be shared
    jobs = ["fit,0,8", "fit,1,8", "svi,0,8", "svi,1,8"]
    together = fresh_process(*jobs)
    alone = {**fresh_process(jobs[1]), **fresh_process(jobs[3])}
    assert together[jobs[1]] == alone[jobs[1]]
    assert together[jobs[3]] == alone[jobs[3]]
    assert len(set(together.values())) == 4


class TestStopping:
    def test_early_stopping_takes_the_best_weights_back(self):
        # over-fitting on purpose: 4 items, a tiny scale
        vae = pair(hidden_dims=(64,))
        history = quiet_fit(
            vae, SOME[:4], validation=SOME[4:], epochs=400, batch_size=4, learning_rate=0.02, patience=5
        )
        curve = history.epochs.validation_elbo.values
        assert len(curve) < 400
        assert curve.argmax() == len(curve) - 6
        assert history.config["stopped"] == f"weights of epoch {curve.argmax() + 1}"
        assert f"validation ELBO {curve.max():.3f}" in str(history)
        again = quiet_fit(vae, SOME[:4], validation=SOME[4:], epochs=1, learning_rate=1e-12)
        assert float(again.epochs.validation_elbo[0]) == pytest.approx(curve.max(), rel=1e-4)

    @pytest.mark.usefixtures("float32")
    def test_a_loss_that_is_not_finite_takes_the_weights_back(self):
        vae = pair(likelihood="normal")
        with pytest.raises(
            FloatingPointError, match=r"at step 2 \(batch 2 of epoch 1\): log p\(x \| z\).* is not finite"
        ):
            quiet_fit(vae, batch_size=5, learning_rate=1e6, epochs=3)
        assert np.isfinite(pyrovae.elbo(vae, SOME).mean)
        assert torch.equal(weights(vae), weights(pair(likelihood="normal")))  # those of step 0

    @pytest.mark.usefixtures("float32")
    def test_the_weights_taken_back_are_those_of_the_last_finite_loss(self, monkeypatch):
        fourth = list(batches(torch.arange(23.0)[:, None], 5, seed=0, epoch=0))[3]
        x = SOME.clone()
        x[int(fourth[0])] = 1e25
        before = []
        step = Loop.step

        def watched(loop, *batch):
            before.append(weights(loop.module))
            return step(loop, *batch)

        monkeypatch.setattr(Loop, "step", watched)
        vae = pair()
        with pytest.raises(FloatingPointError, match=r"at step 4 \(batch 4 of epoch 1\)"):
            quiet_fit(vae, x, batch_size=5, epochs=1)
        assert torch.equal(weights(vae), before[2])
        assert not torch.equal(before[2], before[0])

    @pytest.mark.usefixtures("float32")
    def test_an_update_that_breaks_the_weights_is_seen_though_no_loss_follows(self):
        ae = pyrovae.mlp_ae((4,))
        before = weights(ae)
        with pytest.raises(FloatingPointError, match=r"an update before step 2 .* left .* not finite"):
            quiet_fit(ae, torch.rand(64, 4), epochs=1, learning_rate=1e39)
        assert torch.equal(weights(ae), before)

    @pytest.mark.usefixtures("float32")
    def test_a_weight_at_infinity_that_gives_finite_losses_is_seen_too(self):
        ae = pyrovae.mlp_ae((3,), likelihood=pyrovae.Normal())
        ae.requires_grad_(False)
        ae.likelihood.family.log_scale.requires_grad_(True)
        before = weights(ae)
        with pytest.raises(FloatingPointError, match=r"log_scale not finite; the weights are those from the start"):
            quiet_fit(ae, torch.zeros(64, 3), batch_size=8, epochs=1, learning_rate=2e38)
        assert torch.equal(weights(ae), before)

    @pytest.mark.usefixtures("float32")
    def test_a_gradient_whose_norm_overflows_is_named(self):
        vae = pyrovae.linear_vae(4, 2, likelihood=pyrovae.Normal(scale=1e-3))
        x = 1e15 * np.random.default_rng(0).random((8, 4))
        with pytest.raises(FloatingPointError, match=r"the gradient of (likelihood|posterior)\."):
            quiet_fit(vae, x, epochs=1)

    def test_a_gradient_that_is_not_finite_stops_before_the_update(self):
        class Cliff(nn.Module):
            support, base_measure = pyrovae.Normal.support, "density"

            def __init__(self):
                super().__init__()
                self.bias = nn.Parameter(torch.ones(1))

            def forward(self, loc):
                return pyro.distributions.Normal(loc + (self.bias * 0).sqrt(), 1.0)

        vae = pair(likelihood=Cliff())
        before = weights(vae)
        with pytest.raises(FloatingPointError, match=r"the gradient of likelihood\.family\.bias is not finite"):
            quiet_fit(vae, epochs=1)
        assert torch.equal(weights(vae), before)

    def test_weights_that_are_not_finite_are_named(self):
        vae = pair()
        with torch.no_grad():
            vae.posterior.loc.bias[0] = math.nan
        with pytest.raises(ValueError, match=r"parameter 'posterior.loc.bias' of the pair is not finite"):
            quiet_fit(vae)

    @pytest.mark.parametrize("patience", [None, 2])
    @pytest.mark.usefixtures("float32")
    def test_a_validation_elbo_that_is_not_finite_stops(self, patience):
        with pytest.raises(FloatingPointError, match="the validation ELBO became -inf in epoch 1"):
            quiet_fit(pair(), validation=SOME * 1e25, epochs=3, patience=patience)

    def test_levelled_off_is_the_last_fifth_against_the_one_before(self):
        import xarray as xr

        def history(curve):
            return pyrovae.History(xr.Dataset({"validation_elbo": ("epoch", curve)}))

        flat = [0.0] * 6 + [1.0, 1.5] + [1.5, 1.69]
        assert history(flat).levelled_off()[0]
        steep = [0.0] * 6 + [1.0, 1.5] + [1.5, 1.8]
        settled, slope = history(steep).levelled_off()
        assert not settled
        assert slope == pytest.approx(0.15)
        with pytest.raises(ValueError, match="needs a fit with `validation`"):
            pyrovae.History(xr.Dataset({"loss": ("epoch", [1.0])})).levelled_off()


def test_a_collapsed_posterior_is_reported_with_its_active_units():
    x = torch.randn(200, 12, generator=torch.Generator().manual_seed(0)).reshape(200, 1, 4, 3)
    with pytest.warns(PosteriorCollapseWarning, match="0 of 3 latent units are active"):
        history = pyrovae.fit(
            pair(likelihood=pyrovae.Normal(scale=5.0)), x, epochs=40, learning_rate=0.01, progress=False
        )
    assert history.config["active_units"] == 0


def test_a_memory_mapped_view_trains_as_the_array_does(tmp_path):
    x = (SOME * 255).to(torch.uint8).numpy()
    np.save(tmp_path / "x.npy", x)
    view = MappedArray(np.load(tmp_path / "x.npy", mmap_mode="r"))
    first, second = pair(), pair()
    quiet_fit(first, view, epochs=2, batch_size=5, validation=view)
    quiet_fit(second, x.astype(np.float32) / 255, epochs=2, batch_size=5)
    assert torch.equal(weights(first), weights(second))


def test_a_view_is_looked_at_whole_before_anything_changes(tmp_path):
    x = np.repeat(SOME.numpy(), 50, axis=0)  # more than are read at once
    x[1117, 0, 2, 1] = math.nan
    np.save(tmp_path / "x.npy", x)
    vae = pair()
    before = weights(vae)
    with pytest.raises(ValueError, match=r"the first at x\[1117, 0, 2, 1\]"):
        quiet_fit(vae, MappedArray(np.load(tmp_path / "x.npy", mmap_mode="r")), batch_size=5)
    assert torch.equal(weights(vae), before)


def test_a_parameter_that_would_not_be_trained_is_refused():
    class Stored(nn.Module):
        event_shape, latent_dim, is_normalized = (1,), 1, True

        def __init__(self):
            super().__init__()
            self.loc = nn.Parameter(torch.zeros(1))

        def model(self, x=None, *, size=1):
            with pyro.plate("data", len(x)):
                scale = pyro.param("mine", torch.tensor(1.0))
                pyro.sample("obs", pyro.distributions.Normal(self.loc, scale).to_event(1), obs=x)

        def guide(self, x=None, *, size=1):
            pass

    with pytest.raises(ValueError, match=r"pyro.param 'mine' is not among the pair's parameters\(\)"):
        quiet_fit(Stored(), torch.zeros(3, 1))


def test_the_modes_of_submodules_and_torchs_own_flag_are_put_back():
    vae = pair()
    vae.likelihood.eval()
    torch.distributions.Distribution.set_default_validate_args(False)
    try:
        quiet_fit(vae, epochs=1, validation=SOME)
        assert not torch.distributions.Distribution._validate_args
    finally:
        torch.distributions.Distribution.set_default_validate_args(True)
    assert (vae.training, vae.likelihood.training, vae.posterior.training) == (True, False, True)


def test_a_progress_bar_is_silent_where_nobody_watches(capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pyrovae.fit(pair(), SOME, epochs=1)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_history_reads_like_a_report():
    history = quiet_fit(pair(), epochs=2, validation=SOME)
    assert history.epochs.loss.attrs["units"] == "nats per item"
    assert str(history).startswith("2 epochs, loss ")
    assert history.config["items"] == 23
    assert set(history.epochs) == {"loss", "validation_elbo", "beta", "learning_rate", "seconds"}


class TestBadInput:
    """BAD_INPUTS.md, by row."""

    def refuse(self, message, x=SOME, error=ValueError, vae=None, **options):
        vae = pair() if vae is None else vae
        before = weights(vae)
        with pytest.raises(error, match=message):
            quiet_fit(vae, x, **options)
        assert torch.equal(weights(vae), before)

    def test_row_1_shape(self):
        self.refuse(
            r"x must have shape \(N, 1, 4, 3\), got \(23, 12\); x.reshape\(\(-1, 1, 4, 3\)\) would fit", SOME.flatten(1)
        )
        self.refuse(r"one item is x\[None\]", SOME[0])
        self.refuse(r"validation must have shape", validation=SOME.flatten(1))

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_row_2_not_finite(self, value):
        x = SOME.clone()
        x[4, 0, 1, 2] = x[6, 0, 0, 0] = value
        self.refuse(r"2 NaN or infinite values, the first at x\[4, 0, 1, 2\]", x)

    def test_row_3_outside_the_support(self):
        self.refuse(r"min 0.*max 1.2.*fits: 'normal'", SOME / SOME.max() * 1.2, vae=pair(likelihood="bernoulli"))
        self.refuse(
            r"outside the support of the continuous_bernoulli likelihood",
            SOME - 1,
            vae=pair(likelihood="continuous_bernoulli"),
        )

    def test_row_4_grey_under_bernoulli_even_with_validation_off(self):
        with pyro.validation_enabled(False):
            self.refuse(
                r"grey values.*binarize=True.*'continuous_bernoulli' or 'normal'", vae=pair(likelihood="bernoulli")
            )

    def test_row_5_bytes(self):
        self.refuse(r"looks like 0..255 integers; divide by 255 \(min 0, max 2", (SOME * 255).to(torch.uint8))

    def test_row_6_empty(self):
        self.refuse(r"x is empty", SOME[:0])

    def test_row_7_one_item(self):
        assert np.isfinite(quiet_fit(pair(), SOME[:1], epochs=1).epochs.loss).all()

    def test_rows_8_to_10_labels(self):
        self.refuse("x has 23 items, y has 22", y=np.arange(22))
        self.refuse(r"1 missing labels .*y\[3\]", y=np.array([0.0, 1, 2, math.nan] + [1.0] * 19))
        self.refuse("validation has 23 items, validation labels has 3", validation=(SOME, [1, 2, 3]))
        self.refuse("takes no labels", y=np.arange(23))

    @pytest.mark.parametrize("kind", ["float64", "float16", "strided", "reversed", "read-only", "list"])
    def test_rows_12_to_14_kinds_of_arrays(self, kind):
        x = SOME.numpy()
        given = {
            "float64": x.astype(np.float64),
            "float16": x.astype(np.float16).astype(np.float32).astype(np.float16),
            "strided": np.repeat(x, 2, axis=3)[..., ::2],
            "reversed": x[::-1].copy()[::-1],
            "read-only": x.copy(),
            "list": x.tolist(),
        }[kind]
        if kind == "read-only":
            given.flags.writeable = False
        expected = torch.from_numpy(x.astype(np.float16).astype(np.float32)) if kind == "float16" else SOME
        first, second = pair(), pair()
        quiet_fit(first, given, epochs=1)
        quiet_fit(second, expected, epochs=1)
        assert torch.equal(weights(first), weights(second))
        assert weights(first).dtype == weights(pair()).dtype == torch.get_default_dtype()

    def test_a_double_pair_stays_double(self):
        vae = pair().double()
        quiet_fit(vae, SOME, epochs=1)
        assert weights(vae).dtype == torch.float64

    @pytest.mark.parametrize("name", ["epochs", "batch_size", "learning_rate", "num_particles", "patience"])
    @pytest.mark.parametrize("value", [0, -1])
    def test_row_15_ranges(self, name, value):
        self.refuse(rf"{name} must be .*(at least 1|greater than 0), got {value}", **{name: value}, validation=SOME)

    def test_row_33_unknown_names(self):
        self.refuse(
            "schedule must be one of 'constant', 'cosine', 'plateau', got 'cosin'; did you mean 'cosine'",
            schedule="cosin",
        )
        self.refuse("objective must be one of 'elbo', 'iwae'", objective="vae")
        self.refuse("device must be 'auto' or a torch device, got 'gpu'; available here: cpu", device="gpu")
        self.refuse("device 'meta' cannot be used; available here: cpu", device="meta")
        self.refuse("binarize must be True or False, got 'threshold'", error=TypeError, binarize="threshold")

    @pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is here")
    def test_row_34_cuda_that_is_not_there(self):
        self.refuse("device 'cuda' cannot be used; available here: cpu", device="cuda")

    def test_options_that_contradict(self):
        self.refuse("leave beta at 1 and warmup at 0", objective="iwae", beta=2.0)
        self.refuse("patience stops on the validation ELBO", patience=2)
        self.refuse("AE has none", vae=pyrovae.mlp_ae((1, 4, 3)), objective="iwae")

    def test_items_beyond_the_means_range_are_pointed_out(self):
        vae = pair(likelihood=pyrovae.Normal(scale=1.0, link="sigmoid"))
        with pytest.warns(UserWarning, match="the likelihood's mean stays in"):
            quiet_fit(vae, SOME * 3, epochs=1)

    def test_what_is_no_pair(self):
        with pytest.raises(TypeError, match=r"pair must be a torch.nn.Module with model, guide.*got Linear"):
            pyrovae.fit(nn.Linear(2, 2), SOME)

    def test_nothing_to_train(self):
        self.refuse("has no parameter with requires_grad", vae=pair().requires_grad_(False))


def test_a_pair_of_the_users_own_trains_too():
    # only the Pair protocol is asked for: conjugate, so the posterior is known: N(n xbar / (n + 1), 1 / (n + 1))
    class Mean(nn.Module):
        event_shape, latent_dim, is_normalized = (1,), 1, True

        def __init__(self):
            super().__init__()
            self.loc, self.log_scale = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))

        def model(self, x=None, *, size=1):
            with pyro.plate("data", size if x is None else len(x)):
                z = pyro.sample("latent", pyro.distributions.Normal(torch.zeros(1), 1.0).to_event(1))
                return pyro.sample("obs", pyro.distributions.Normal(z, 1.0).to_event(1), obs=x)

        def guide(self, x=None, *, size=1):
            with pyro.plate("data", size if x is None else len(x)):
                return pyro.sample("latent", pyro.distributions.Normal(self.loc, self.log_scale.exp()).to_event(1))

    mine = Mean()
    x = torch.full((64, 1), 1.4)
    quiet_fit(mine, x, epochs=300, batch_size=64, learning_rate=0.02, schedule="cosine")
    assert float(mine.loc.detach()) == pytest.approx(0.7, abs=0.03)
    assert float(mine.log_scale.detach().exp()) == pytest.approx(math.sqrt(0.5), abs=0.03)
    assert Trace_ELBO().loss(mine.model, mine.guide, x) > 0


def test_a_pair_whose_log_densities_are_not_one_an_item_is_refused_at_the_first_step():
    class Loose(pyrovae.VAE):
        def guide(self, x=None, *, size=1):
            with pyro.plate("data", len(x)):
                q = self.posterior(x).base_dist  # to_event(1) dropped
                return pyro.sample("latent", pyro.distributions.Normal(q.loc, q.scale))

    vae = pair()  # 3 latent dimensions and 3 items: nothing but Pyro's own checks can tell them apart
    with pytest.raises(ValueError, match="latent"):
        quiet_fit(Loose(vae.prior, vae.likelihood, vae.posterior), SOME[:3], epochs=1)


def test_a_pair_whose_encode_means_something_else_keeps_its_history():
    class Odd(pyrovae.VAE):
        def encode(self, x):
            q = self.posterior(x)
            return q.mean, q.stddev

    vae = pair()
    history = quiet_fit(Odd(vae.prior, vae.likelihood, vae.posterior), epochs=1)
    assert history.config["active_units"] is None


def test_unlabelled_validation_items_as_a_split_gives_them():
    alone = quiet_fit(pair(), validation=SOME, epochs=1)
    split = quiet_fit(pair(), validation=(SOME, None), epochs=1)
    assert float(alone.epochs.validation_elbo[0]) == float(split.epochs.validation_elbo[0])


# which items --------------------------------------------------------------------------------------


def test_a_split_trains_as_its_items_do_and_nothing_flows_back_into_them():
    x, y = torch.randn(20, 4, generator=torch.Generator().manual_seed(0)), torch.arange(20)
    leaf, part = x.clone().requires_grad_(), pyrovae.data.Split(x, y)
    runs = []
    for given, held_out in ((x, x), (part, part), (leaf, leaf), ([*leaf], (leaf, y)), (part, pyrovae.data.Split(x))):
        torch.manual_seed(0)
        pair = pyrovae.linear_vae(4, 2)
        history = pyrovae.fit(pair, given, validation=held_out, epochs=2, batch_size=8, progress=False)
        runs.append((history.epochs.drop_vars("seconds"), [p.detach().clone() for p in pair.parameters()]))
    assert leaf.grad is None
    for history, weights in runs[1:]:
        assert history.equals(runs[0][0])
        assert all(map(torch.equal, weights, runs[0][1]))
    data = pyrovae.data.Dataset(part, part, (4,), "twenty")
    with pytest.raises(TypeError, match=r"x is a whole Dataset: give one part of it, x.train or x.test"):
        pyrovae.fit(pyrovae.linear_vae(4, 2), data, progress=False)


@pytest.mark.usefixtures("float32")
def test_a_mapped_array_is_looked_at_in_its_sources_own_digits():
    rng = np.random.default_rng(0)
    far = 4.5e6 + 0.1 * rng.normal(size=(5000, 2))  # over more batches than one
    narrow, options = pyrovae.linear_vae(2, 1), {"epochs": 1, "batch_size": 1000, "progress": False}
    with pytest.raises(ValueError, match=r"torch.float32 does not hold x"):
        pyrovae.fit(narrow, MappedArray(far), **options)
    with pytest.raises(ValueError, match="does not hold validation"):
        pyrovae.fit(narrow, MappedArray(far - 4.5e6), validation=MappedArray(far), **options)
    huge = np.where(np.arange(10_000).reshape(5000, 2) == 9999, 1e300, 0.0)
    with pytest.raises(ValueError, match=r"x holds values of up to 1e\+300"):
        pyrovae.fit(narrow, MappedArray(huge), **options)
    with pytest.raises(ValueError, match="outside the support"):
        pyrovae.fit(pyrovae.mlp_vae((2,)), MappedArray(np.array([[0.0, 1 + 1e-9]])), binarize=True, **options)
    # a batch of close items is no reason to refuse: the rule is of all of them
    for close in (
        np.sort(1000 + rng.normal(size=(5000, 2)), 0),
        1000.0 * (5 - np.arange(5000) // 1024)[:, None] + 1e-3 * rng.normal(size=(5000, 2)),  # a batch alone is refused
    ):
        pyrovae.fit(pyrovae.linear_vae(2, 1), MappedArray(close), **options)
    losses = []
    for items in (MappedArray(far), torch.from_numpy(far)):
        torch.manual_seed(0)
        wide = pyrovae.linear_vae(2, 1).double()
        with torch.no_grad():
            wide.likelihood.network.bias += 4.5e6
        losses.append(float(pyrovae.fit(wide, items, **options).epochs.loss[-1]))
    assert losses[0] == losses[1]


def test_integers_are_taken_as_they_are_by_a_normal_likelihood():
    x = np.random.default_rng(0).integers(0, 200, (30, 3))
    histories = []
    for given in (x, x.astype(np.uint16), x.astype(np.float32)):
        torch.manual_seed(0)
        pair = pyrovae.mlp_vae((3,), 1, hidden_dims=(4,), likelihood=pyrovae.Normal(link="identity"))
        histories.append(pyrovae.fit(pair, given, epochs=1, progress=False).epochs.drop_vars("seconds"))
    assert histories[0].equals(histories[1])
    assert histories[0].equals(histories[2])
    with pytest.raises(ValueError, match=r"looks like 0\.\.255 integers"):
        pyrovae.fit(pyrovae.mlp_vae((3,), 1), x, epochs=1, progress=False)


class Squashed(nn.Module):
    """A posterior without a mean in closed form: a normal variable through an affine map and a sigmoid."""

    def __init__(self, latent_dim=2):
        super().__init__()
        self.loc = nn.Linear(12, latent_dim)

    def forward(self, x):
        base = pyro.distributions.Normal(self.loc(x.flatten(1)), 0.5).to_event(1)
        return pyro.distributions.TransformedDistribution(base, [torch.distributions.SigmoidTransform()])


def without_a_mean():
    torch.manual_seed(0)
    return pyrovae.mlp_vae((1, 4, 3), posterior=Squashed(), hidden_dims=(4,), likelihood="normal")


def test_a_posterior_without_a_mean_keeps_its_history(tmp_path):
    vae = without_a_mean()
    with pytest.raises(NotImplementedError):
        vae.posterior(SOME).mean
    history = quiet_fit(vae, epochs=2, checkpoint=tmp_path / "run")
    assert len(history.epochs.epoch) == 2
    assert history.config["active_units"] == int((vae.encode(SOME).var(0) > 0.01).sum())
    resumed = quiet_fit(without_a_mean(), epochs=3, checkpoint=tmp_path / "run", resume=True)
    assert len(resumed.epochs.epoch) == 3
    # E[sigmoid(z)] by Gauss-Hermite: encode is the posterior's mean, the same each time, for any batch
    nodes, node_weights = np.polynomial.hermite_e.hermegauss(40)
    z = vae.posterior.loc(SOME.flatten(1)).detach().double()[..., None] + 0.5 * torch.from_numpy(nodes)
    expected = (z.sigmoid() * torch.from_numpy(node_weights / node_weights.sum())).sum(-1)
    assert (vae.encode(SOME) - expected).abs().max() < 2e-4
    one, among = vae.encode(SOME[3:4]), vae.encode(SOME)[3:4]
    # in float64 the product of a single row is summed in another order
    assert torch.equal(one, among) if one.dtype == torch.float32 else (one - among).abs().max() < 1e-15
    assert vae.impute(SOME[:2].where(SOME[:2] > 0.5, torch.nan), num_draws=2, num_steps=2).isfinite().all()


def test_what_fails_after_the_last_step_loses_nothing(caplog):
    class Broken(pyrovae.VAE):
        def encode(self, x):
            raise RuntimeError("no codes today")

    vae = pair()
    history = quiet_fit(Broken(vae.prior, vae.likelihood, vae.posterior), epochs=1)
    assert history.config["active_units"] is None
    assert "active_units is None: encode raised RuntimeError: no codes today" in caplog.text


def test_a_history_counts_in_words():
    rows = [{"loss": 3.0}, {"loss": 2.0}]
    for method, one, several in (
        ("svi", "1 epoch, ", "2 epochs, "),
        ("em", "1 iteration of EM, ", "2 iterations of EM, "),
    ):
        config = {"method": method, "weights_epoch": 0}
        assert str(pyrovae.History.from_rows(rows[:1], config)).startswith(one)
        assert str(pyrovae.History.from_rows(rows, config)).startswith(several)
    assert pyrovae.History.from_rows(rows, {"weights_epoch": 1})._summary_rows()["weights kept"]() == "of epoch 2"
