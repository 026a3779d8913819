"""How long do the first steps of CompiledSVI take, with nothing cached and in a second process, and a step after that?

    python analysis/compiled_svi.py                          # four models, two processes each: about two minutes
    python analysis/compiled_svi.py --models bnn --rounds 3

Each model is stepped in two processes that share a cache of inductor's, empty at the start ("cold", "warm"), and a
folder for temporary files. Printed are the seconds of the first step, those of processor time in this process and in
the compilers that it starts, which a busy machine does not stretch as much, the seconds of a first step with another
batch size where the model takes batches, the compilations so far, and the medians of 200 steps, Pyro's beside.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import pyro
import pyro.contrib.gp as gp
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoDiagonalNormal, AutoNormal
from pyro.nn import PyroModule, PyroSample
from torch import Tensor, nn

import pyrovae

STEPS = 200
Problem = tuple[Any, Any, Callable[[int], tuple[Any, ...]], int]  # model, guide, arguments of a batch, largest batch


def hierarchical() -> Problem:
    """A regression with an intercept for each of 20 groups."""
    x, group = torch.randn(400, 3), torch.randint(20, (400,))
    y = x.sum(1) + torch.randn(20)[group] + torch.randn(400)

    def model(x: Tensor, group: Tensor, y: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        tau = pyro.sample("tau", dist.HalfCauchy(1.0))
        with pyro.plate("groups", 20):
            intercept = pyro.sample("intercept", dist.Normal(mu, tau))
        slope = pyro.sample("slope", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        scale = pyro.sample("scale", dist.HalfNormal(1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(intercept[group] + x @ slope, scale), obs=y)

    return model, AutoNormal(model), lambda n: (x[:n], group[:n], y[:n]), 400


def subsampled() -> Problem:
    """A regression whose plate draws 100 of 1000 rows in each step."""
    x = torch.randn(1000, 5)
    y = x.sum(1) + torch.randn(1000)

    def model(x: Tensor, y: Tensor) -> None:
        slope = pyro.sample("slope", dist.Normal(torch.zeros(5), 1.0).to_event(1))
        scale = pyro.sample("scale", dist.HalfNormal(1.0))
        with pyro.plate("data", len(x), subsample_size=100) as rows:
            pyro.sample("y", dist.Normal(x[rows] @ slope, scale), obs=y[rows])

    return model, AutoNormal(model), lambda n: (x[:n], y[:n]), 1000


def sparse_gp() -> Problem:
    """Pyro's variational sparse Gaussian process with 20 inducing points, which holds its 200 rows itself."""
    x = torch.linspace(-3, 3, 200)
    y = torch.sin(x) + 0.1 * torch.randn(200)
    kernel, points = gp.kernels.RBF(input_dim=1), torch.linspace(-3, 3, 20)
    process = gp.models.VariationalSparseGP(x, y, kernel, points, likelihood=gp.likelihoods.Gaussian(), whiten=True)
    return process.model, process.guide, lambda n: (), 0


class Network(PyroModule):
    """A network of 16 hidden units whose weights have priors."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.out = PyroModule[nn.Linear](1, 16), PyroModule[nn.Linear](16, 1)
        for layer in (self.hidden, self.out):
            for name, p in list(layer.named_parameters()):
                prior = dist.Normal(0.0, 1.0).expand(p.shape).to_event(p.ndim)
                setattr(layer, name, PyroSample(prior))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        mean = self.out(torch.tanh(self.hidden(x))).squeeze(-1)
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            seen: Tensor = pyro.sample("y", dist.Normal(mean, scale), obs=y)
        return seen


def bnn() -> Problem:
    """A Bayesian neural network of one hidden layer."""
    x = torch.linspace(-1, 1, 200)[:, None]
    y = torch.sin(3 * x[:, 0]) + 0.1 * torch.randn(200)
    model = Network()
    return model, AutoDiagonalNormal(model), lambda n: (x[:n], y[:n]), 200


MODELS: dict[str, Callable[[], Problem]] = {made.__name__: made for made in (hierarchical, subsampled, sparse_gp, bnn)}


def seconds() -> tuple[float, float]:
    """Of processor time, of this process and of those that it has started and that have ended."""
    ours, theirs = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return ours.ru_utime + ours.ru_stime, theirs.ru_utime + theirs.ru_stime


def milliseconds(step: Callable[[], Any]) -> float:
    """The median time of a step."""
    times = []
    for _ in range(STEPS):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def child(name: str, label: str) -> None:
    """Step one model in this process, and print a row."""
    torch.manual_seed(0)
    model, guide, batch, most = MODELS[name]()
    svi = pyrovae.CompiledSVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
    before, start = seconds(), time.perf_counter()
    svi.step(*batch(most))
    first, after = time.perf_counter() - start, seconds()
    other = "      "
    if most:
        start = time.perf_counter()
        svi.step(*batch(most - 50))
        other = f"{time.perf_counter() - start:6.2f}"
    ours = milliseconds(lambda: svi.step(*batch(most)))
    pyro.clear_param_store()
    model, guide, batch, most = MODELS[name]()
    eager = SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), loss=Trace_ELBO())
    theirs = milliseconds(lambda: eager.step(*batch(most)))
    own, started = (b - a for a, b in zip(before, after, strict=True))
    row = f"{name:13} {label:5} {first:7.2f} {own:6.2f} + {started:5.2f} {other} {svi.compiles:9}"
    print(f"{row} {ours:8.3f} {theirs:8.3f}", flush=True)


def main() -> None:
    """Run each model in processes of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--child", nargs=2, metavar=("MODEL", "LABEL"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(*args.child)
        return
    print("model         cache   first    ours + theirs  other  compiles  ms/step   Pyro's")
    for name in args.models * args.rounds:
        with tempfile.TemporaryDirectory() as folder:
            environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": folder, "TMPDIR": folder}
            for label in ("cold", "warm"):
                command = [sys.executable, "-W", "ignore", __file__, "--child", name, label]
                subprocess.run(command, env=environment, check=True)


if __name__ == "__main__":
    main()
