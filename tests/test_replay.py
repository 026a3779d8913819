"""A CUDA graph's recording and its guards, on a device that is played: a recorder of operations stands for CUDA's.

It runs nothing of what it records, refuses what waits for a value, and repeats the rest on the same memory, numbers of
the host as they were. What only a real device shows is in the tests at the end, which need one.
"""

from __future__ import annotations

import contextlib
import copy
import logging

import pyro
import pyro.distributions as dist
import pytest
import torch
from test_steps import CASES, SOME, labels, pair, quiet_fit, weights
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves

import pyrovae
from pyrovae.compile import replay
from pyrovae.inference import items

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class Recorder(TorchDispatchMode):
    """A CUDA graph that is played: operations with the tensors they had."""

    def __init__(self):
        super().__init__()
        self.calls, self.forgets = [], None

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if torch.Tag.data_dependent_output in func.tags:
            raise RuntimeError("operation not permitted when stream is capturing")
        kwargs = kwargs or {}
        if func is self.forgets:
            return args[0]
        given = {id(t): t.clone() for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        out = func(*args, **kwargs)
        self.calls.append((func, args, kwargs, out))
        for t in tree_leaves((args, kwargs)):  # nothing happens before a replay
            if isinstance(t, torch.Tensor) and func._schema.is_mutable and 0 not in t.stride():
                t.copy_(given[id(t)])
        return out

    def replay(self):
        for func, args, kwargs, out in self.calls:
            found = func(*args, **kwargs)
            is_view = any(one.alias_info is not None for one in func._schema.returns)
            if not is_view:
                for mine, new in zip(tree_flatten(out)[0], tree_flatten(found)[0], strict=True):
                    if isinstance(mine, torch.Tensor):
                        mine.copy_(new)


class Played:
    """As much of torch.cuda as a recording takes, on the host."""

    def __init__(self):
        self.recordings, self.forgets, self.streams_set = [], None, []

    def CUDAGraph(self):  # noqa: N802
        self.recordings.append(Recorder())
        self.recordings[-1].forgets = self.forgets
        return self.recordings[-1]

    def graph(self, recorder, pool, stream, capture_error_mode):
        return recorder

    def graph_pool_handle(self):
        return None

    def Stream(self, device=None):  # noqa: N802
        return self

    def wait_stream(self, other):
        pass

    def current_stream(self, device=None):
        return self

    def set_stream(self, stream):
        self.streams_set.append(stream)

    def stream(self, _):
        return contextlib.nullcontext()

    def device(self, _):
        return contextlib.nullcontext()


@pytest.fixture
def played(monkeypatch, interpreted):
    cuda = Played()
    monkeypatch.setattr(replay, "cuda", cuda)
    monkeypatch.setattr(replay, "replays", lambda device: True)
    return cuda


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_replayed_fit_is_the_captured_one(case, played, monkeypatch):
    make, args, options = CASES[case]
    one = make()
    two = copy.deepcopy(one)
    replayed = quiet_fit(one, SOME, *args, compile=True, **options)
    assert replayed.config["cuda_graphs"] == 2 == len(played.recordings)  # whole batches and an epoch's last
    monkeypatch.setattr(replay, "replays", lambda device: False)
    captured = quiet_fit(two, SOME, *args, compile=True, **options)
    assert captured.config["cuda_graphs"] == 0
    assert replayed.epochs.loss.values.tolist() == captured.epochs.loss.values.tolist()
    assert torch.equal(weights(one), weights(two))


def test_running_statistics_are_followed(played, monkeypatch):
    one = pair()
    layers = one.posterior.network.layers
    one.posterior.network.layers = nn.Sequential(*layers, nn.BatchNorm1d(8))
    two = copy.deepcopy(one)
    assert quiet_fit(one, compile=True).config["cuda_graphs"] == 2
    monkeypatch.setattr(replay, "replays", lambda device: False)
    quiet_fit(two, compile=True)
    assert all(torch.equal(a, b) for a, b in zip(one.buffers(), two.buffers(), strict=True))


def test_a_recording_that_misses_the_update_is_not_used(played, monkeypatch, caplog):
    one, two = pair(), pair()
    played.forgets = torch.ops.aten.copy_.default
    with caplog.at_level(logging.WARNING, "pyrovae"):
        history = quiet_fit(one, compile=True)
    assert history.config["cuda_graphs"] == 0
    assert caplog.messages[0].startswith("runs without a CUDA graph (RuntimeError: a replay ")
    monkeypatch.setattr(replay, "replays", lambda device: False)
    quiet_fit(two, compile=True)
    assert torch.equal(weights(one), weights(two))


def test_what_waits_for_a_value_runs_as_it_did(played, caplog):
    total = torch.zeros(3)

    def waiting(x):
        total.add_(x)
        return x.sum() * float(total[0])

    generator = torch.get_rng_state()
    assert replay.replayed(waiting, [torch.ones(3)], [total]) is None
    assert "not permitted when stream is capturing" in caplog.text
    assert torch.equal(total, torch.zeros(3)) and torch.equal(torch.get_rng_state(), generator)


@pytest.mark.parametrize("error", [RuntimeError("not permitted here"), KeyboardInterrupt("by the user")], ids=repr)
def test_a_recording_that_breaks_off_is_of_its_own_error_and_leaves_stream_and_pool(played, monkeypatch, caplog, error):
    @contextlib.contextmanager
    def breaking_off(*_, **__):
        try:
            yield
        except BaseException:
            raise RuntimeError("a previous error during capture") from None

    left, calls = [], []
    monkeypatch.setattr(played, "graph", breaking_off)
    monkeypatch.setattr(replay, "_leave", lambda pool, device: left.append(pool))

    def function(x):
        calls.append(x)
        if len(calls) > replay.WARM_UP + replay.COMPARED:
            raise error
        return x.sum()

    if isinstance(error, KeyboardInterrupt):
        with pytest.raises(KeyboardInterrupt, match="by the user"):
            replay.replayed(function, [torch.ones(3)], [torch.zeros(3)], pool="its pool")
    else:
        assert replay.replayed(function, [torch.ones(3)], [torch.zeros(3)], pool="its pool") is None
        assert "RuntimeError: not permitted here" in caplog.text and "previous" not in caplog.text
    assert left == ["its pool"] and played.streams_set


def test_svi_is_replayed_without_arguments_too(played, monkeypatch):
    counts = torch.tensor([3.0, 5.0, 4.0, 6.0])

    def model():
        rate = pyro.sample("rate", dist.LogNormal(torch.zeros(()), torch.ones(())))
        pyro.sample("x", dist.Poisson(rate.expand(4)).to_event(1), obs=counts)

    found = []
    for plays in (True, False):
        monkeypatch.setattr(replay, "replays", lambda device, plays=plays: plays)
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        guide = pyro.infer.autoguide.AutoNormal(model)
        svi = pyrovae.CompiledSVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), pyro.infer.Trace_ELBO())
        found.append([svi.step() for _ in range(5)])
        assert svi._step.replays == plays
    assert found[0] == found[1]


class TestAFunction:
    def test_it_reads_its_inputs_and_draws_anew(self, played):
        total = torch.zeros(3)

        def drawing(x):
            total.add_(x)
            return (x * torch.randn(3)).sum()

        torch.manual_seed(0)
        found = replay.replayed(drawing, [torch.ones(3)], [total])
        assert torch.equal(total, torch.zeros(3))
        again = [found(k * torch.ones(3)) for k in (1, 2)]
        assert total.tolist() == [3, 3, 3]
        torch.manual_seed(0)
        assert again == [drawing(k * torch.ones(3)) for k in (1, 2)]

    def test_strides_are_kept(self, played):
        x, total = torch.arange(6.0).view(2, 3).t(), torch.zeros(())
        found = replay.replayed(lambda x: total.add_(1) * x.reshape(-1)[1], [x], [total])
        assert found._inputs[0].stride() == x.stride() and float(found(x)) == 3

    def test_a_number_of_the_host_is_held(self, played):
        held, total = torch.ones(2, device="meta"), torch.zeros(())
        found = replay.replayed(lambda x: total.add_(x).clone(), [torch.ones(())], [total], [held, total])
        assert found.holds()
        held.add_(1)
        assert not found.holds()

    def test_what_lies_elsewhere_and_is_written_is_refused(self, played, caplog):
        held, total = torch.ones(2, device="meta"), torch.zeros(())

        def function(x):
            held.add_(1)
            return x.sum()

        assert replay.replayed(function, [torch.ones(3)], [total], [held]) is None
        assert "writes to a tensor that lies on the host" in caplog.text

    def test_an_update_that_the_result_does_not_show_is_compared(self, played, caplog):
        total = torch.zeros(3)
        played.forgets = torch.ops.aten.add_.Tensor

        def function(x):
            total.add_(x)
            return x.sum()

        assert replay.replayed(function, [torch.ones(3)], [total]) is None
        assert "moves a tensor otherwise" in caplog.text and total.tolist() == [0, 0, 0]

    @pytest.mark.parametrize("bad", ["argument", "nan", "inf"])
    def test_what_no_replay_can_stand_for_is_refused(self, played, caplog, bad):
        def function(x):
            if bad == "argument":
                x.clamp_(min=2.0)
            return x.sum() * (1 if bad == "argument" else float(bad))

        x = torch.ones(3)
        assert replay.replayed(function, [x], [torch.zeros(())]) is None
        assert ("writes to an argument" if bad == "argument" else f"a call gives {bad}, by which") in caplog.text
        assert x.tolist() == [1, 1, 1]

    def test_an_argument_elsewhere_is_refused(self, played, caplog):
        assert replay.replayed(lambda x: x.sum(), [torch.ones(1, device="meta")], [torch.zeros(())]) is None
        assert "an argument is not on cpu" in caplog.text

    def test_nothing_is_recorded_on_the_host(self):
        assert replay.replayed(lambda x: x.sum(), [torch.ones(1)], [torch.zeros(())]) is None


def test_items_move_where_there_is_room(monkeypatch):
    elsewhere = torch.device("meta")
    found = []
    for room in (0, 4 * SOME.nbytes, 4 * (SOME.nbytes + labels().nbytes)):
        monkeypatch.setattr(items, "_room", lambda device, room=room: room)
        source = items.Items(pair(), SOME, "x", binarize=False)
        source.y = labels()
        source.move(elsewhere)
        found.append((source.x.device == elsewhere, source.y.device == elsewhere))
    assert found == [(False, False), (False, False), (True, True)]


@needs_cuda
def test_on_a_device_a_failed_recording_leaves_the_generator():
    total = torch.zeros((), device="cuda")
    waiting = lambda x: total.add_(1) * float((x * torch.randn(3, device="cuda")).sum())  # noqa: E731
    ones, stream = torch.ones(3, device="cuda"), torch.cuda.current_stream()
    torch.cuda.manual_seed(5)
    expected = torch.randn(3, device="cuda")
    torch.cuda.manual_seed(5)
    assert replay.replayed(waiting, [ones], [total]) is None
    assert torch.cuda.current_stream() == stream and float(total) == 0
    assert torch.equal(torch.randn(3, device="cuda"), expected)  # the generator is where it was, and draws
    drawing = lambda x: total.add_(1) * (x * torch.randn(3, device="cuda")).sum()  # noqa: E731
    assert replay.replayed(drawing, [ones], [total]) is not None


@needs_cuda
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_on_a_device_the_replayed_fit_is_the_eager_one(precision):
    one, two = pair(), pair()
    replayed = quiet_fit(one, compile=True, device="cuda", precision=precision)
    eager = quiet_fit(two, compile=False, device="cuda", precision=precision)
    assert replayed.config["cuda_graphs"] == 2
    assert replayed.epochs.loss.values == pytest.approx(eager.epochs.loss.values, rel=1e-3)


@needs_cuda
def test_on_a_device_svi_is_replayed():
    vae = pair().cuda()
    before = weights(vae)
    svi = pyrovae.CompiledSVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), pyro.infer.Trace_ELBO())
    losses = [svi.step(SOME.cuda()) for _ in range(20)]
    assert svi._step.replays == 1 and losses[-1] < losses[0]
    assert not torch.equal(weights(vae), before)


@needs_cuda
@pytest.mark.parametrize("compile", [False, True])
def test_on_a_device_parameters_that_share_memory_are_trained_as_on_the_host(compile):
    """An autoencoder, which draws nothing: losses on the host and on the device are the same but for rounding."""
    found = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        ae = pyrovae.mlp_ae((1, 4, 3), hidden_dims=(8,)).double().to(device)
        first = next(layer for layer in ae.likelihood.network.modules() if isinstance(layer, nn.Linear))
        first.tied = nn.Parameter(first.bias.data[2:5])
        first.register_forward_hook(lambda module, args, out: out * module.tied.sum())
        compiled = compile and device == "cuda"
        history = quiet_fit(ae, SOME.double(), epochs=10, compile=compiled, device=device)
        assert history.config["compiled"] is compiled
        assert torch.equal(first.tied, first.bias[2:5])
        found.append((history.epochs.loss.values, weights(ae).cpu()))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-9)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=0, atol=1e-8)
