"""Compiled graphs: the same numbers as without, and without a compiler the same fit."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import warnings

import pytest
import torch
from conftest import long_but, needs_compiler
from torch._inductor import cpu_vec_isa

import pyrovae
from pyrovae.argument_checks import argument_checks
from pyrovae.compile import startup
from pyrovae.compile.function import CompiledFunction, with_gradient
from pyrovae.compile.graph import capture
from pyrovae.inference import bayesian
from pyrovae.models.components import COVARIANCES


def mixture(covariance: str, components: int = 2) -> tuple[pyrovae.BayesianGaussianMixture, torch.Tensor]:
    torch.manual_seed(0)
    x = torch.randn(40, 2).double() + 3 * (torch.arange(40) % 2)[:, None]
    return pyrovae.BayesianGaussianMixture((2,), components, covariance=covariance).double(), x


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("covariance", long_but("full", of=COVARIANCES))
def test_a_compiled_potential_and_its_gradient_are_the_eager_ones(covariance):
    pair, x = mixture(covariance)
    points = pair.unconstrained(bayesian.start(pair, x, 0))
    centre = torch.cat([z.flatten() for z in points.values()])
    with argument_checks(False):
        potential = pair.potential(x)

        def energy(flat):
            return potential(bayesian._parts(flat, points))

        function, compiled = with_gradient(energy, centre)
        assert compiled
        for _ in range(3):
            z = (centre + 0.3 * torch.randn_like(centre)).requires_grad_()
            here, there = (f(z) for f in (function, energy))
            assert here.item() == pytest.approx(there.item(), rel=1e-12)
            ours, theirs = (torch.autograd.grad(2 * value, z)[0] for value in (here, there))
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
        with pytest.raises(RuntimeError, match="no second derivative"):  # and no gradient of zeros
            torch.autograd.functional.hessian(function, centre)


@needs_compiler
@pytest.mark.slow
def test_compiled_chains_start_as_eager_ones_and_say_what_they_are(monkeypatch):
    found = {}
    for least in (0, 10**9):
        monkeypatch.setattr(bayesian, "COMPILED_FROM", least)
        pair, x = mixture("diagonal")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # so few draws need not have mixed
            history = pyrovae.fit(pair, x, method="nuts", num_chains=1, num_draws=8, num_warmup=4, progress=False)
        assert history.config["compiled"] == (least == 0)
        found[least] = pair.draws()
    for name, value in found[0].items():  # rounding grows along a trajectory
        torch.testing.assert_close(value, found[10**9][name], rtol=1e-5, atol=1e-5)


@needs_compiler
def test_a_graph_follows_what_it_reaches_and_says_nothing(capfd):
    scale = torch.tensor(2.0)
    function, compiled = with_gradient(lambda z: (scale * z).square().sum(), torch.ones(3))
    assert compiled and float(function(torch.ones(3))) == 12.0
    scale.fill_(3.0)  # a tensor is an input, where it lies
    assert float(function(torch.ones(3))) == 27.0
    assert capfd.readouterr() == ("", "")


def test_what_depends_on_a_value_runs_eagerly(caplog):
    function, compiled = with_gradient(lambda z: z.sum() if z.sum() > 0 else -z.sum(), torch.ones(3))
    assert not compiled and "runs without a compiled graph" in caplog.text
    assert float(function(-torch.ones(3))) == 3.0


@needs_compiler
@pytest.mark.slow
def test_a_graph_is_compiled_in_one_file_and_a_second_process_takes_it_from_the_cache(tmp_path):
    code = """
    import sys, torch
    from torch._dynamo.utils import counters
    from pyrovae.compile.function import CompiledFunction
    from pyrovae.compile.graph import capture
    factor = float(sys.argv[1])
    def function(a, b):
        c = (a @ b).tanh() @ b  # products, between which there are several kernels
        a.copy_(a + factor * c)
        return [c.exp().sum() + torch.linalg.cholesky(b @ b.T + torch.eye(5)).sum()]
    torch.manual_seed(0)
    a, b = torch.randn(5, 5), torch.randn(5, 5)
    compiled = CompiledFunction(capture(function, [a.clone(), b]), [a, b])
    (total,) = compiled(a, b)
    print(a.sum().item().hex(), total.item().hex(), counters["aot_autograd"]["autograd_cache_hit"])
    try:
        compiled(a, b.fill_(torch.nan))
    except torch.linalg.LinAlgError:
        print("checked")
    """
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}

    def run(factor):
        command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code), factor]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300)
        return done.stdout.split()

    first = run("0.5")
    (file,) = tmp_path.rglob("*.main.cpp")
    assert file.read_text().count("PyMODINIT_FUNC PyInit_kernel_") > 1
    again, other = run("0.5"), run("0.25")  # the control: a graph of another constant is another graph
    assert first[2] == "0" and again[2] == "1" and other[2] == "0"
    assert again[:2] == first[:2] and other[1] == first[1] and other[0] != first[0]
    assert first[3] == again[3] == "checked"  # of a factorisation, in the graph from the cache too


@needs_compiler
def test_kernels_that_cannot_be_put_together_are_compiled_one_by_one(monkeypatch):
    monkeypatch.setattr("pyrovae.compile.one_file._source", lambda kernels: "no C++")
    x, y = torch.randn(4, 4), torch.randn(4, 4)
    compiled = CompiledFunction(capture(lambda a, b: [(a @ b).cos() + 1.75], [x, y]), [x, y])
    torch.testing.assert_close(compiled(x, y)[0], (x @ y).cos() + 1.75)


@pytest.mark.long
def test_without_a_compiler_a_fit_runs_eagerly_and_says_so_once(without_compiler):
    code = """
    import logging, torch, pyrovae
    from pyrovae.inference import bayesian
    logging.basicConfig(level=logging.WARNING, format="%(name)s %(message)s")
    bayesian.COMPILED_FROM = 0
    pair = pyrovae.BayesianGaussianMixture((1,), 2, covariance="spherical").double()
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    x = torch.linspace(-2, 2, 20)[:, None].double()
    history = pyrovae.fit(pair, x, method="nuts", num_chains=2, num_draws=4, num_warmup=4, progress=False)
    print(history.config["compiled"], bool((before == torch.random.get_rng_state()).all()))
    """
    done = without_compiler(code)
    assert done.stdout.split()[:2] == ["False", "True"]
    assert done.stderr.count("runs without a compiled graph") == 1


def test_a_tensor_that_is_two_inputs_is_refused():
    # the graph would add x to itself for ever
    x = torch.ones(3, dtype=torch.float32)
    with pytest.raises(ValueError, match="a tensor is two inputs at once"):
        capture(lambda a, b: [a + b], [x, x])
    compiled = CompiledFunction(capture(lambda a, b: [a + b], [x, x.clone()]), [x, x.clone()], compile=False)
    assert compiled(x, 2 * x)[0].tolist() == [3, 3, 3]
    assert compiled.fits(x, x) and not compiled.fits(x, torch.ones(6)[::2]) and not compiled.fits(x, x.double())


@needs_compiler
def test_inputs_that_share_memory_are_read_in_the_order_of_the_function():
    """By a compiler that takes each input for memory of its own: parts, and a third, held tensor over both."""

    def make():
        torch.manual_seed(0)
        whole = torch.randn(4, 6)
        return whole[:3], whole.t()[1:4], whole[:, ::2], torch.randn(2)

    def run(compile):
        a, b, held, other = make()

        def function(a, b, other):
            first = held.sum() + (a * a).sum()
            a.copy_(a * 0.5 + other.sum())
            second = (held * 2).sum()  # as the write to `a` left it
            b.copy_(b + second)
            return [first, second + held.sum()]

        kept = a._base.clone()
        graph = capture(function, [a, b, other])
        a._base.copy_(kept)
        compiled = CompiledFunction(graph, [a, b, other], compile=compile, lasting=2)
        return [torch.stack(compiled(a, b, other)) for _ in range(2)], a._base.clone()

    a, b, held, other = make()
    expected = []
    for _ in range(2):
        first = held.sum() + (a * a).sum()
        a.copy_(a * 0.5 + other.sum())
        second = (held * 2).sum()
        b.copy_(b + second)
        expected.append(torch.stack([first, second + held.sum()]))
    for compile in (False, True):
        found, whole = run(compile)
        torch.testing.assert_close(torch.stack(found), torch.stack(expected), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(whole, a._base, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not torch.cpu._is_avx2_supported(), reason="its instructions are not tried out anyway")
def test_vector_instructions_are_not_tried_out_for_a_graph_and_are_afterwards(monkeypatch):
    tried = []
    monkeypatch.setattr(cpu_vec_isa.VecISA, "check_build", lambda self, code: tried.append(code) or False)
    tries = cpu_vec_isa.VecISA.check_build
    with torch._inductor.config.patch(startup.QUICK), startup._instructions_as_the_processor_says():
        assert cpu_vec_isa.pick_vec_isa()
    assert not tried and cpu_vec_isa.VecISA.check_build is tries
    try:
        assert not cpu_vec_isa.pick_vec_isa() and tried  # the control: as inductor does it by itself
    finally:
        startup._forget_instructions(cpu_vec_isa)
