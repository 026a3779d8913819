"""What several tests share: oracles, and the real data where it lies."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyro
import pytest
import torch
from torch import Tensor

import pyrovae
from pyrovae import argument_checks

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"
collect_ignore = ["fuzz", "random_signals.py"]  # scripts, one of which needs atheris
needs_compiler = pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Docstring examples see only what they import themselves, as when one is pasted; what is long is slow too."""
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.slow)
        if isinstance(item, pytest.DoctestItem) and item.dtest is not None:
            item.dtest.globs = {"__name__": "__main__"}


def long_but(*at_once: object, of: Iterable[object]) -> list[object]:
    """All values for a test to be run with, marked long but for those that CI runs too."""
    return [value if value in at_once else pytest.param(value, marks=pytest.mark.long) for value in of]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--float64",
        action="store_true",
        help="make float64 torch's default dtype, as a user may: whatever the package makes must state its dtype",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--float64"):
        torch.set_default_dtype(torch.float64)
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as in a job in a shell's background
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def ctrl_c_is_heard() -> Iterator[None]:
    """Python's own handler of SIGINT, here and in what is started: a job in a shell's background ignores the signal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def mnist_root() -> Path:
    """The folder of the real MNIST, in torchvision's layout."""
    if not (SHARED_DATA / "MNIST" / "raw" / "train-images-idx3-ubyte").is_file():
        pytest.skip(f"the real MNIST is not in {SHARED_DATA.name}/ beside the repository")
    return SHARED_DATA


@pytest.fixture(autouse=True)
def _as_in_a_new_process():
    """Pyro's store and the flags of its checks and of torch's, which `torch.compile` turns off, are global."""
    before = argument_checks.flags()
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()
    argument_checks.set_flags(before)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """`dtype` as torch's default."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@pytest.fixture
def float32():
    """float32 as the default dtype also under `--float64`.

    For tests of what float32 holds and where it overflows, and for figures of initial weights that were drawn in it.
    """
    with default_dtype(torch.float32):
        yield


@pytest.fixture
def interpreted(monkeypatch):
    """The captured graph itself, as Python runs it."""
    monkeypatch.setattr("pyrovae.compile.function.compile_graph", lambda graph, inputs, keep_noise=False: graph)


@pytest.fixture
def short_pilot(monkeypatch):
    """Chains of annealing that are tuned in a few transitions, where a test is not about how far they come."""
    monkeypatch.setattr("pyrovae.evaluation.annealing.PILOT", 4)
    monkeypatch.setattr("pyrovae.evaluation.annealing.SETTLING", 2)


@pytest.fixture
def without_compiler(tmp_path) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """Runs code in a process that finds no compiler and no graph that was compiled before."""
    environment = {
        "CXX": str(tmp_path / "nowhere"),
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"),
        "PATH": str(tmp_path),
        "HOME": str(tmp_path),
    }

    def run(code: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300)

    return run


def linear_parts(pair) -> tuple[Tensor, Tensor, Tensor]:
    """W, mu and s^2 of a linear pair, float64."""
    network = pair.likelihood.network
    return (
        network.weight.detach().double(),
        network.bias.detach().double(),
        pair.likelihood.family.scale.detach().double() ** 2,
    )


def linear_log_prob(pair, x: Tensor) -> Tensor:
    """log N(x; mu, W W' + s^2 I), by torch's dense multivariate normal: the second implementation."""
    weight, mean, variance = linear_parts(pair)
    covariance = weight @ weight.T + variance * torch.eye(len(mean), dtype=torch.float64)
    return torch.distributions.MultivariateNormal(mean, covariance).log_prob(x.double())


def linear_posterior(pair, x: Tensor) -> torch.distributions.MultivariateNormal:
    """The exact p(z | x) = N(M^-1 W'(x - mu), s^2 M^-1), M = W'W + s^2 I."""
    weight, mean, variance = linear_parts(pair)
    m = weight.T @ weight + variance * torch.eye(weight.shape[1], dtype=torch.float64)
    loc = torch.linalg.solve(m, weight.T @ (x.double() - mean).T).T
    return torch.distributions.MultivariateNormal(loc, variance * torch.linalg.inv(m))


def with_exact_posterior(pair) -> None:
    """Give a linear pair with orthogonal columns in W its exact, diagonal posterior."""
    weight, mean, variance = linear_parts(pair)
    m = torch.diag(weight.T @ weight) + variance
    q = pair.posterior
    with torch.no_grad():
        q.loc.weight.copy_(weight.T / m[:, None])
        q.loc.bias.copy_(-(weight.T @ mean) / m)
        log_scale = 0.5 * torch.log(variance / m)
        q.raw_log_scale.copy_(10 * torch.atanh(log_scale / 10))


@pytest.fixture
def exact_linear_pair():
    """A float64 linear VAE of 6 features and 3 codes whose guide is the exact posterior."""
    torch.manual_seed(3)
    with default_dtype(torch.float32):  # the same pair under any default: more digits would be other random numbers
        pair = pyrovae.linear_vae(6, 3, likelihood=pyrovae.Normal(scale=0.7)).double()
    with torch.no_grad():
        columns = torch.linalg.qr(torch.randn(6, 3, dtype=torch.float64)).Q
        pair.likelihood.network.weight.copy_(columns * torch.tensor([2.0, 1.0, 0.5]))
    with_exact_posterior(pair)
    return pair


class Killed(BaseException):
    """The process has ended: from here on nothing of it changes a file."""


CALLS = [  # that change what lies on the disk
    (os, "fsync"),
    (os, "replace"),
    (os, "rename"),
    (os, "unlink"),
    (os, "rmdir"),
    (os, "mkdir"),
    (shutil, "rmtree"),
]


@pytest.fixture
def killed_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], object]], list[str]]:
    """Run a body whose n-th call that changes the disk, and all after it, do not happen; how many there were."""

    def run(n, body):
        made = []
        with monkeypatch.context() as patched:
            for home, name in CALLS:
                real = getattr(home, name)

                def call(*args, real=real, name=name, **named):
                    if len(made) >= n:
                        made.append(None)
                        raise Killed
                    made.append(name)
                    return real(*args, **named)

                patched.setattr(home, name, call)
            with contextlib.suppress(Killed):
                body()
        return made

    return run
