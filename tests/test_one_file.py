"""An addition is one file: each is defined in a temporary module, touches nothing else, and goes everywhere."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO

import pyrovae

STUDENT_T = """
import torch
from torch import nn
from torch.distributions import constraints
from pyro.distributions import StudentT
import pyrovae

@pyrovae.register("one_file_student_t", kind="likelihood")
class HeavyTails(nn.Module):
    '''Student's t with a location and a scale for each entry.'''

    support = constraints.real
    num_parameters = 2

    def __init__(self, df=4.0):
        super().__init__()
        self.df = df

    def forward(self, loc, raw_scale):
        return StudentT(self.df, loc, 0.1 + nn.functional.softplus(raw_scale))
"""

MIXTURE = """
import torch
from torch import nn
from pyro.distributions import Categorical, MixtureSameFamily, Normal
import pyrovae

@pyrovae.register("one_file_mixture", kind="prior")
class TwoModes(nn.Module):
    '''A mixture of normal distributions at +1 and -1 along every axis, with learned widths.'''

    def __init__(self, latent_dim, num_components=2):
        super().__init__()
        self.latent_dim = latent_dim
        self.logits = nn.Parameter(torch.zeros(num_components))
        centres = torch.linspace(-1.0, 1.0, num_components)
        self.loc = nn.Parameter(centres[:, None].expand(num_components, latent_dim).clone())
        self.log_scale = nn.Parameter(torch.full((num_components, latent_dim), -0.5))

    def forward(self):
        components = Normal(self.loc, self.log_scale.exp()).to_event(1)
        return MixtureSameFamily(Categorical(logits=self.logits), components)
"""

FLOW = """
import torch
from torch import nn
from pyro.distributions import Normal, TransformedDistribution
from pyro.distributions.transforms import AffineAutoregressive
from pyro.nn import AutoRegressiveNN
import pyrovae

@pyrovae.register("one_file_flow", kind="posterior")
class Bent(nn.Module):
    '''A normal distribution bent by an autoregressive flow: it has no mean in closed form.'''

    def __init__(self, network, features, latent_dim):
        super().__init__()
        self.network = network
        self.loc = nn.Linear(features, latent_dim)
        self.raw_scale = nn.Linear(features, latent_dim)
        self.flow = AffineAutoregressive(AutoRegressiveNN(latent_dim, [8], permutation=torch.arange(latent_dim)))

    def forward(self, x):
        features = self.network(x)
        scale = 0.05 + nn.functional.softplus(self.raw_scale(features))
        return TransformedDistribution(Normal(self.loc(features), scale).to_event(1), [self.flow])
"""

PARTS = {
    "likelihood": (STUDENT_T, "one_file_student_t"),
    "prior": (MIXTURE, "one_file_mixture"),
    "posterior": (FLOW, "one_file_flow"),
}
QUICK = {"progress": False, "device": "cpu"}


def module_of(source: str, folder: Path) -> Path:
    """A file of the user's own, which is run as a plugin is."""
    file = folder / "mine.py"
    file.write_text(textwrap.dedent(source))
    spec = importlib.util.spec_from_file_location("mine", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return file


def items(count=60):
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(count, 2, generator=generator)
    z = z * 0.4 + torch.where(z[:, :1] > 0, 1.0, -1.0)
    weight = torch.randn(2, 5, generator=generator)
    return z @ weight + 0.5 * torch.randn(count, 5, generator=generator)


def built(kind, name):
    torch.manual_seed(0)
    parts = {"likelihood": "normal", kind: name}
    return pyrovae.mlp_vae((5,), 2, hidden_dims=(8,), **parts)


@pytest.fixture(scope="module", params=PARTS)
def part(request, tmp_path_factory):
    """Kind and name of a part in a file of its own, and a pair that was fitted with it."""
    source, name = PARTS[request.param]
    file = module_of(source, tmp_path_factory.mktemp(request.param))
    pair = built(request.param, name)
    history = pyrovae.fit(pair, items(), epochs=40, batch_size=20, learning_rate=1e-2, compile=False, **QUICK)
    assert float(history.epochs.loss[-1]) < float(history.epochs.loss[0])
    return request.param, name, pair, file


class TestAPart:
    @pytest.mark.slow
    def test_the_bound_is_unbiased_against_quadrature(self, part):
        # E exp(IWAE - log p(x)) = 1: over 400 repeats, within 4 standard errors (false alarm 6e-5 an item, 4 items)
        pair, x = part[2], items()[:4]
        exact = pyrovae.quadrature(pair, x, tol=1e-5).pointwise["value"].values
        repeats = x.repeat(400, *[1] * (x.ndim - 1))  # whose noise is independent
        bounds = pyrovae.iwae(pair, repeats, num_particles=20).pointwise["value"].values.reshape(400, 4)
        ratios = np.exp(bounds - exact)
        z = (ratios.mean(0) - 1) / (ratios.std(0, ddof=1) / math.sqrt(len(ratios)))
        assert np.abs(z).max() < 4
        # negative control: log p(x) that is off by .2 nats is seen
        off = (ratios * math.exp(-0.2)).mean(0) - 1
        assert np.abs(off / (ratios.std(0, ddof=1) / math.sqrt(len(ratios)))).max() > 4

    @pytest.mark.slow
    def test_bounds_lie_on_their_sides(self, part):
        pair, x = part[2], items()[:6]
        exact = pyrovae.quadrature(pair, x)
        elbo = pyrovae.elbo(pair, x, num_particles=200)
        assert elbo.mean < exact.mean + 4 * elbo.se
        ais = pyrovae.ais(pair, x, num_chains=8, num_steps=60, progress=False)
        assert abs(ais.mean - exact.mean) < 5 * ais.se + 0.05
        lower, upper = pyrovae.bdmc(pair, 4, num_chains=4, num_steps=30, progress=False)
        assert lower.mean < upper.mean + 4 * math.hypot(lower.se, upper.se)

    def test_gaps_calibration_and_export(self, part):
        pair, x = part[2], items()[:6]
        gaps = pyrovae.gaps(pair, x, pyrovae.quadrature(pair, x), max_steps=30, num_evaluation=50, progress=False)
        assert math.isfinite(float(gaps.pointwise["approximation"].mean()))
        tests = pyrovae.calibrate(pair, num_simulations=60, num_draws=9).tests
        assert bool(np.isfinite(tests["p_value"].values).all())
        tree = pyrovae.to_arviz(pair, x[:3], num_draws=5)
        assert tree["posterior"]["latent"].shape[-2:] == (3, 2)
        assert pair.encode(x).shape == (6, 2)
        assert pair.reconstruct(x).shape == x.shape

    def test_it_is_saved_and_loaded_by_its_name_alone(self, part, tmp_path):
        pair, x = part[2], items()[:6]
        pyrovae.save(tmp_path / "state", pair)
        again = pyrovae.load(tmp_path / "state")
        assert type(again) is type(pair)
        a, b = pyrovae.iwae(pair, x, num_particles=10), pyrovae.iwae(again, x, num_particles=10)
        assert a.pointwise.equals(b.pointwise)
        assert a.pointwise.attrs["pair_sha256"] == b.pointwise.attrs["pair_sha256"]

    @pytest.mark.long
    def test_its_compiled_fit_is_the_eager_one(self, part):
        kind, name, _, _ = part
        losses = []
        for compiled in (False, True):
            pair = built(kind, name)
            history = pyrovae.fit(pair, items(), epochs=3, batch_size=20, compile=compiled, **QUICK)
            losses.append(history.epochs.loss.values)
        assert losses[1] == pytest.approx(losses[0], rel=1e-5)

    @pytest.mark.slow
    def test_the_code_space_of_images(self, part):
        kind, name, _, _ = part
        digits = pyrovae.data.load("digits")
        train, test = (pyrovae.data.Split(one.x[:300], one.y[:300]) for one in (digits.train, digits.test))
        torch.manual_seed(0)
        pair = pyrovae.mlp_vae((1, 8, 8), hidden_dims=(32,), **{"likelihood": "normal", kind: name})
        pyrovae.fit(pair, train.x, epochs=5, compile=False, **QUICK)
        judge = pyrovae.Judge.fit(train.x, [str(label) for label in train.y.tolist()], hidden_dims=(16,), max_iter=30)
        space = pyrovae.code_space(pair, train, test, judge, num_codes=300, num_pairs=20)
        # the rate is that of the pair's own prior, by another way: the ELBO's own term over many draws
        elbo = pyrovae.elbo(pair, test.x, num_particles=400)
        error = math.hypot(float(space.get("rate_monte_carlo_se", 0.0)), float(elbo.pointwise["rate_se"].mean()))
        assert float(space["rate"]) == pytest.approx(float(elbo.pointwise["rate"].mean()), abs=5 * error)

    @pytest.mark.slow
    def test_the_command_line_takes_it_from_the_file(self, part, tmp_path):
        kind, name, _, file = part
        np.save(tmp_path / "x.npy", items().numpy())
        words = ["fit", str(tmp_path / "x.npy"), "--out", str(tmp_path / "run"), "--plugin", str(file)]
        words += [f"--{kind}", name, "--epochs", "2", "--hidden-dims", "8", "--compile", "no"]
        words += [] if kind == "likelihood" else ["--likelihood", "normal"]
        run = subprocess.run(
            [sys.executable, "-m", "pyrovae", *words], capture_output=True, text=True, env=dict(os.environ), check=False
        )
        assert run.returncode == 0, run.stderr
        manifest = json.loads((tmp_path / "run" / "model" / "manifest.json").read_text())
        assert name in json.dumps(manifest["recipe"])
        assert math.isfinite(pyrovae.iwae(pyrovae.load(tmp_path / "run"), items()[:4], num_particles=5).mean)


OPTIMISER = """
import torch
from pyrovae.compile.optimizers import Rule, register_rule

class SignSGD(torch.optim.Optimizer):
    '''p <- p - lr sign(gradient).'''

    def __init__(self, params, lr=1e-2):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.sub_(group["lr"] * p.grad.sign())

class SignRule(Rule):
    optimizer_class = SignSGD
    options = frozenset()
    state = ()

    def scalars(self, group, rate, count):
        return [rate * torch.ones_like(count)]

    def update(self, p, g, state, scalars, group):
        return p - scalars[0] * g.sign(), {}

    def stored_step(self, step):
        return None

register_rule(SignRule())
"""


@pytest.mark.slow
def test_an_optimiser_of_the_compiled_step(tmp_path, monkeypatch):
    from pyrovae.compile import optimizers

    monkeypatch.setattr(optimizers, "_RULES", dict(optimizers._RULES))  # what is registered here stays here
    module_of(OPTIMISER, tmp_path)
    weights = []
    for compiled in (False, True):
        torch.manual_seed(0)
        pair = pyrovae.linear_vae(5, 2)
        start = [p.detach().clone() for p in pair.parameters()]
        options = {"epochs": 1, "batch_size": 20, "learning_rate": 2**-6, "optimizer": "signsgd"}
        pyrovae.fit(pair, items(), compile=compiled, **options, **QUICK)
        weights.append([p.detach().clone() for p in pair.parameters()])
    for eager, graph, first in zip(*weights, start, strict=True):
        assert torch.equal(eager, graph)
        # three steps of 2^-6 each, up or down: an odd number of them
        moved = (eager - first) * 2**6
        assert bool(((moved.round().abs() == 1) | (moved.round().abs() == 3)).all())


METHOD = """
from dataclasses import dataclass
import torch
import pyrovae
from pyrovae.methods import Method

@dataclass(frozen=True)
class Shrink(Method):
    '''Every parameter times a factor.'''

    name = "one_file_shrink"
    factor: float = 0.5

    def run(self, task):
        with torch.no_grad():
            for p in task.pair.parameters():
                p.mul_(self.factor)
        return pyrovae.History.from_rows([{"loss": 0.0}], {"method": self.name})
"""


def test_a_method_of_fit(tmp_path):
    module_of(METHOD, tmp_path)
    pair = pyrovae.linear_vae(5, 2)
    before = [p.clone() for p in pair.parameters()]
    namespace: dict = {}
    exec(compile(METHOD, "mine", "exec"), namespace)  # the user's own file
    pyrovae.fit(pair, items(), method=namespace["Shrink"](), factor=0.25)
    assert all(torch.equal(p, 0.25 * old) for p, old in zip(pair.parameters(), before, strict=True))
    with pytest.raises(TypeError, match=r"no method has an option 'facto'.*did you mean 'factor'"):
        pyrovae.fit(pair, items(), method=namespace["Shrink"](), facto=0.25)


ESTIMATOR = """
import torch
from pyrovae.evaluation import Session

def upper_bound(pair, x, *, num_particles=1000, seed=0):
    '''(1/2) log E_q w^2 >= log p(x), w = p(x, z) / q(z | x) (Dieng et al. 2017, eq. 3 with n = 2).'''
    session = Session("upper_bound", pair)

    def reduce(table):
        doubled = 2 * table.log_weight
        mean = doubled.logsumexp(0) - torch.log(torch.tensor(float(len(doubled))))
        spread = (doubled - mean).exp().std(0) / len(doubled) ** 0.5
        return {"value": mean / 2, "se": spread / 2}

    columns = session.from_particles(session.items(x), reduce, num_particles=num_particles, seed=seed)
    return session.estimate(columns, bound="upper")
"""


def test_an_estimator():
    namespace: dict = {}
    exec(compile(ESTIMATOR, "mine", "exec"), namespace)
    torch.manual_seed(0)
    pair = pyrovae.linear_vae(5, 2)
    pyrovae.fit(pair, items(), epochs=200, learning_rate=1e-2, compile=False, **QUICK)
    x = items()[:8]
    estimate = namespace["upper_bound"](pair, x, num_particles=4000)
    exact = pyrovae.exact(pair, x)
    gap = estimate - exact
    assert estimate.bound == "upper"
    assert gap.kind == "gap upper_bound - exact"
    assert gap.mean > -4 * gap.se
    assert pyrovae.elbo(pair, x).mean < exact.mean < estimate.mean + 4 * estimate.se


def test_pyros_svi_takes_the_parts_too(tmp_path):
    module_of(MIXTURE, tmp_path)
    pair = built("prior", "one_file_mixture")
    svi = pyro.infer.SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    pyro.clear_param_store()
    losses = [svi.step(items()) for _ in range(60)]
    assert losses[-1] < losses[0]


BUILDER = """
import pyrovae

@pyrovae.register("one_file_builder", kind="builder")
def small_vae(features: int, width: int = 4, *, latent_dim: int = 2, shallow: bool = False, label: str = "none"):
    '''A VAE of one hidden layer.'''
    widths = (width,) if shallow else (width, width)
    return pyrovae.mlp_vae((features,), latent_dim, hidden_dims=widths, likelihood="normal")
"""


def test_a_builder_and_its_own_arguments_are_on_the_command_line(tmp_path, monkeypatch, capsys):
    from pyrovae.cli import main

    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "mine.py").write_text(BUILDER)
    np.save(tmp_path / "x.npy", items().numpy())
    plugin = ["--plugin", str(tmp_path / "mine.py")]
    assert main(["fit", *plugin, "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "one_file_builder" in text and "--width N" in text and "--shallow" in text and "--label NAME" in text
    words = ["fit", str(tmp_path / "x.npy"), *plugin, "--epochs", "1", "--out", str(tmp_path / "run")]
    assert main([*words, "--width", "7", "--latent-dim", "3", "--shallow"]) == 0  # the one model with these options
    assert "model one_file_builder: the first model that takes --width" in capsys.readouterr().err
    pair = pyrovae.load(tmp_path / "run")
    assert pair.recipe == {
        "builder": "one_file_builder",
        "features": 5,
        "width": 7,
        "latent_dim": 3,
        "shallow": True,
        "label": "none",
    }
    assert main(["fit", str(tmp_path / "x.npy"), "--width", "7", "--out", str(tmp_path / "no")]) == 2  # the control
    assert "No such option" in capsys.readouterr().err


def test_a_method_and_an_optimiser_are_on_the_command_line(tmp_path, monkeypatch, capsys):
    from pyrovae.cli import main
    from pyrovae.compile import optimizers
    from pyrovae.inference import method

    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(optimizers, "_RULES", dict(optimizers._RULES))  # what is registered here stays here
    monkeypatch.setattr(method, "_TABLE", dict(method._TABLE))
    (tmp_path / "sign.py").write_text(OPTIMISER)
    (tmp_path / "shrink.py").write_text(
        METHOD + "\nimport pyrovae.methods as methods\nmethods.register_methods(pyrovae.VAE, methods.SVI(), Shrink())\n"
    )
    np.save(tmp_path / "x.npy", items().numpy())
    line = ["fit", str(tmp_path / "x.npy"), "--network", "linear", "--seed", "3"]
    plugins = ["--plugin", str(tmp_path / "sign.py"), "--plugin", str(tmp_path / "shrink.py")]
    out = ["--out", str(tmp_path / "sign")]
    assert main([*line, *plugins, "--optimizer", "signsgd", "--learning-rate", "0.01", "--epochs", "1", *out]) == 0
    out = ["--out", str(tmp_path / "shrink")]
    assert main([*line, *plugins, "--method", "one_file_shrink", "--factor", "0.25", *out]) == 0
    torch.manual_seed(3)
    start = pyrovae.linear_vae(5, 2)
    shrunk = pyrovae.load(tmp_path / "shrink")
    assert all(torch.equal(p, 0.25 * old) for p, old in zip(shrunk.parameters(), start.parameters(), strict=True))
    assert main([*line, "--method", "one_file_shrink", "--out", str(tmp_path / "no")]) == 2  # the control
    assert "--method must be one of closed_form" in capsys.readouterr().err
