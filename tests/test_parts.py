"""Parts that a user defines in one file: by name through builders, fits, estimators and saved states."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import users_parts  # a likelihood of two parameters per entry, a prior, and a posterior without a mean
from conftest import long_but, needs_compiler
from scipy import stats
from torch import nn
from torch.distributions import constraints

import pyrovae
from pyrovae.inference.checkpoint import MANIFEST, CheckpointError
from pyrovae.inference.checkpoint.manifest import manifest_digest

PARTS = {
    "likelihood": {"likelihood": "users_student_t"},
    "prior": {"likelihood": "normal", "prior": "users_mixture"},
    "posterior": {"likelihood": "normal", "posterior": "users_flow"},
}
ALL = {"likelihood": "users_student_t", "prior": "users_mixture", "posterior": "users_flow"}
SMALL = {"hidden_dims": (8,)}


def items(n=300):
    generator = torch.Generator().manual_seed(0)
    codes, loadings = torch.randn(n, 2, generator=generator), torch.randn(2, 5, generator=generator)
    return codes @ loadings + 0.3 * torch.randn(n, 5, generator=generator)


@pytest.fixture(scope="module")
def fitted():
    """A pair with each of the parts, fitted for a moment."""
    pairs = {}
    for name, parts in PARTS.items():
        torch.manual_seed(0)
        pairs[name] = pyrovae.mlp_vae((5,), 2, **SMALL, **parts)
        pyrovae.fit(pairs[name], items(), epochs=20, learning_rate=1e-2, batch_size=50, compile=False, progress=False)
    return pairs


# a decoder of several parameters per entry ---------------------------------------------------------------


def parameters_of(pair, z):
    """What the decoder's network gives for codes, taken apart by hand: (N, 2, *event) to two of (N, *event)."""
    given = pair.likelihood.network(z)
    assert given.shape == (len(z), 2, *pair.event_shape)
    return given[:, 0], given[:, 1]


BUILDERS = {
    "mlp_vae": lambda **o: pyrovae.mlp_vae((2, 3), 2, **SMALL, **o),
    "conv_vae": lambda **o: pyrovae.conv_vae((3, 5, 4), 2, channels=(4,), strides=(2,), **o),
    "linear_vae": lambda **o: pyrovae.linear_vae(7, 2, **o),
    "mlp_ae": lambda **o: pyrovae.mlp_ae((2, 3), 2, **SMALL, **o),
    "conv_ae": lambda **o: pyrovae.conv_ae((3, 5, 4), 2, channels=(4,), strides=(2,), **o),
}


@pytest.mark.parametrize("builder", BUILDERS)
def test_a_decoder_has_an_output_for_each_parameter_of_an_entry(builder):
    torch.manual_seed(0)
    pair = BUILDERS[builder](likelihood="users_student_t")
    z, x = torch.randn(4, 2), torch.randn(4, *pair.event_shape)
    loc, raw = parameters_of(pair, z)
    scale = nn.functional.softplus(raw) + 1e-3
    expected = stats.t(5.0, loc.detach().numpy(), scale.detach().numpy()).logpdf(x.numpy()).reshape(4, -1).sum(1)
    assert torch.allclose(pair.likelihood(z).log_prob(x).detach(), torch.as_tensor(expected, dtype=torch.float32))
    swapped = stats.t(5.0, raw.detach().numpy(), (nn.functional.softplus(loc) + 1e-3).detach().numpy()).logpdf(x)
    assert not torch.allclose(torch.as_tensor(swapped).flatten(1).sum(1), torch.as_tensor(expected))  # control
    several = torch.randn(3, 4, 2)  # codes of several leading dimensions
    assert torch.allclose(pair.decode(several)[1], pair.decode(several[1]), atol=1e-6)
    assert pair.decode(several).shape == (3, 4, *pair.event_shape)
    assert pair.decode(several[0, 0]).shape == pair.event_shape


@pytest.mark.parametrize("builder", BUILDERS)
def test_one_parameter_an_entry_changes_no_initial_weight(builder):
    torch.manual_seed(0)
    pair = BUILDERS[builder](likelihood="normal")
    torch.manual_seed(0)
    other = BUILDERS[builder](likelihood=pyrovae.Normal())
    assert pair.likelihood.network(torch.zeros(3, 2)).shape == (3, *pair.event_shape)
    first = {name: t for name, t in pair.state_dict().items() if "family" not in name}
    assert all(torch.equal(t, other.state_dict()[name]) for name, t in first.items())


class Tuple(nn.Module):
    """A network by hand: a location of each entry, and scales that all codes share."""

    def __init__(self, count=2):
        super().__init__()
        self.loc, self.raw_scale, self.count = nn.Linear(2, 6), nn.Parameter(torch.zeros(6)), count

    def forward(self, z):
        return (self.loc(z), self.raw_scale, self.raw_scale)[: self.count]


class Table(nn.Module):
    """A network by hand that gives (N, count, 6)."""

    def __init__(self, count=2):
        super().__init__()
        self.linear, self.count = nn.Linear(2, 6 * count), count

    def forward(self, z):
        return self.linear(z).reshape(-1, self.count, 6)


def test_a_network_by_hand_gives_a_tuple_or_an_axis():
    torch.manual_seed(0)
    z = torch.randn(3, 2, 2)
    p = pyrovae.Likelihood(Tuple(), users_parts.StudentT(), (6,))(z)
    assert p.batch_shape == (3, 2) and p.base_dist.loc.shape == (3, 2, 6)
    network = Table()
    p = pyrovae.Likelihood(network, users_parts.StudentT(), (6,))(z)
    assert torch.equal(p.base_dist.loc, network(z.reshape(6, 2))[:, 0].reshape(3, 2, 6))


@pytest.mark.parametrize(
    ("network", "got"),
    [
        (Tuple(1), "1 of them"),
        (Tuple(3), "3 of them"),
        (Table(1), r"shape \(2, 1, 6\)"),
        (Table(3), r"shape \(2, 3, 6\)"),
        (nn.Linear(2, 6), r"shape \(2, 6\)"),
    ],
)
def test_another_number_of_parameters_is_told(network, got):
    likelihood = pyrovae.Likelihood(network, users_parts.StudentT(), (6,))
    words = (
        rf"StudentT has 2 parameters per entry: .* must give shape \(2, 2, 6\), or a tuple of 2 tensors, .* got {got}"
    )
    with pytest.raises(ValueError, match=words):
        likelihood(torch.zeros(2, 2))
    with pytest.raises(ValueError, match=rf"likelihood\(z\) must give a distribution .*{words}"):
        pyrovae.VAE(pyrovae.StandardNormal(2), likelihood, pyrovae.LinearNormal(6, 2))


class Exponential(nn.Module):
    """A density of two parameters per entry that is proportional to exp(x l) times a term of x alone."""

    support, base_measure, num_parameters = constraints.real, "density", 2

    def forward(self, loc, more):
        return torch.distributions.Normal(loc + more, 1.0)

    def natural_parameter(self, p):
        return p.loc

    def log_base(self, p, x):
        return -0.5 * x.square()


@pytest.mark.parametrize("family", [users_parts.StudentT(), Exponential()], ids=lambda f: type(f).__name__)
def test_the_table_of_codes_and_items_is_that_of_each_alone(family):
    torch.manual_seed(0)
    likelihood = pyrovae.Likelihood(Table(), family, (6,)).double()
    z, x = torch.randn(4, 2, dtype=torch.float64), torch.randn(3, 6, dtype=torch.float64)
    table = likelihood.log_prob_table(z, x)
    assert table.shape == (4, 3)
    for m, code in enumerate(z):
        for n, item in enumerate(x):
            assert torch.allclose(table[m, n], likelihood(code[None]).log_prob(item), rtol=1e-12)


# everything else follows --------------------------------------------------------------------------------


@pytest.mark.parametrize("part", PARTS)
def test_importance_weighting_agrees_with_quadrature(fitted, part):
    x = items()[:20]
    truth = pyrovae.quadrature(fitted[part], x).pointwise["value"].values
    estimate = pyrovae.iwae(fitted[part], x, num_particles=2000, seed=1)
    # exp(IWAE - quadrature) has mean 1: 4 standard errors, three parts, false alarm 2e-4
    ratio = torch.from_numpy(estimate.pointwise["value"].values - truth).exp()
    error = float(torch.from_numpy(estimate.pointwise["se"].values).square().sum().sqrt()) / len(ratio)
    assert abs(float(ratio.mean()) - 1) < 4 * error
    assert abs(float(ratio.mean()) * 1.1 - 1) > 4 * error  # control: a tenth off would be seen
    bound = pyrovae.elbo(fitted[part], x, num_particles=200, seed=2)
    assert bound.mean < truth.mean() + 4 * bound.se


def test_a_posterior_without_a_mean_is_encoded_by_fixed_draws(fitted):
    vae, x = fitted["posterior"], items()[:5]
    with pytest.raises(NotImplementedError):
        vae.posterior(x).mean
    assert torch.equal(vae.encode(x), vae.encode(x))
    draws = vae.posterior(x).sample((20_000,))
    error = draws.std(0) / 20_000**0.5 + draws.std(0) / 512**0.5
    assert ((vae.encode(x) - draws.mean(0)).abs() < 5 * error).all()
    assert vae.reconstruct(x).shape == x.shape


def test_a_priors_own_parameters_are_trained(fitted):
    assert fitted["prior"].prior.logits.abs().max() > 0.01


@pytest.mark.parametrize("part", [*PARTS, "all"])
def test_a_state_comes_back_without_code_at_hand(fitted, part, tmp_path):
    pair = pyrovae.mlp_vae((5,), 2, **SMALL, **ALL) if part == "all" else fitted[part]
    folder = pyrovae.save(tmp_path / "state", pair)
    again = pyrovae.load(folder)
    assert type(again) is pyrovae.VAE and str(again) == str(pair)
    assert all(torch.equal(t, again.state_dict()[name]) for name, t in pair.state_dict().items())
    x = items()[:3]
    first, second = (pyrovae.elbo(one, x, seed=3) for one in (pair, again))
    assert first.pointwise.equals(second.pointwise) and (first - second).mean == 0
    assert again.recipe == pair.recipe == copy.deepcopy(pair).recipe


def test_a_module_of_a_users_part_keeps_its_arguments_in_the_state(tmp_path):
    parts = {"likelihood": users_parts.StudentT(df=3), "prior": users_parts.Mixture(2, 4, radius=2.0)}
    vae = pyrovae.mlp_vae((5,), 2, **SMALL, **parts)
    again = pyrovae.load(pyrovae.save(tmp_path / "state", vae))
    assert (again.likelihood.family.df, again.prior.loc.shape) == (3, (4, 2))
    assert torch.equal(again.prior.loc, vae.prior.loc)


LOADS = """
import sys
import pyrovae
try:
    pyrovae.load(sys.argv[1])
except pyrovae.CheckpointError as error:
    print(error)
sys.path.insert(0, sys.argv[2])
import users_parts
print(pyrovae.load(sys.argv[1]).recipe["likelihood"])
"""


@pytest.mark.slow
def test_another_process_must_import_the_parts_and_is_told_so(fitted, tmp_path):
    folder = pyrovae.save(tmp_path / "state", fitted["likelihood"])

    command = [sys.executable, "-W", "ignore", "-c", LOADS, str(folder), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    error, name = done.stdout.splitlines()
    assert "unknown likelihood 'users_student_t'; known: bernoulli, " in error and ", normal, " in error
    assert error.endswith("must be registered first: import the module that does so")
    assert name == "users_student_t"


def test_a_state_that_no_look_without_memory_can_be_had_of_is_built_within_bounds(tmp_path):
    with torch.device("meta"), pytest.raises((RuntimeError, NotImplementedError, ValueError)):
        pyrovae.mlp_vae((5,), 2, **SMALL, **ALL)  # Pyro's coupling asks for a value as it is made
    folder = pyrovae.save(tmp_path / "state", pyrovae.mlp_vae((5,), 2, **SMALL, **ALL))
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["recipe"]["hidden_dims"] = [20_000, 20_000]
    (folder / MANIFEST).write_text(json.dumps({**manifest, "sha256": manifest_digest(manifest)}, indent=1))
    with pytest.raises(
        CheckpointError, match=r"does not build: it takes more than .* \(20000, 20000\) alone takes 1.6 GB"
    ):
        pyrovae.load(folder)


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("part", long_but("likelihood", of=PARTS))
def test_a_compiled_fit_is_the_eager_one(part):
    options = {"epochs": 3, "learning_rate": 1e-2, "batch_size": 50, "progress": False}
    losses = []
    for compiled in (True, False):
        torch.manual_seed(0)
        pair = pyrovae.mlp_vae((5,), 2, **SMALL, **PARTS[part])
        losses.append(pyrovae.fit(pair, items(), compile=compiled, **options).epochs["loss"].values)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_what_else_evaluates_a_pair(fitted, part):
    pair, x = fitted[part], items()[:6]
    truth = pyrovae.quadrature(pair, x)
    quick = {"num_steps": 200, "progress": False, "seed": 0}
    ais = pyrovae.ais(pair, x, **quick)
    assert abs((ais - truth).mean) < 4 * ais.se
    lower, upper = pyrovae.bdmc(pair, 20, **quick)
    assert (upper - lower).mean > -4 * (upper - lower).se_items
    assert pyrovae.calibrate(pair, num_simulations=50).pointwise.sizes["simulation"] == 50
    tree = pyrovae.to_arviz(pair, x, num_draws=5)
    assert tree["posterior"]["latent"].shape == (1, 5, 6, 2)
    x = x.clone()
    x[:, 1] = torch.nan
    draws = pair.impute(x, num_draws=3)
    assert draws.shape == (3, 6, 5) and torch.equal(draws[0][:, 0], x[:, 0]) and draws.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("part", ["prior", "posterior"])
def test_a_code_space_is_measured(part):
    digits = pyrovae.data.load("digits")
    judge = pyrovae.Judge.fit(digits.train.x, digits.train.y, max_iter=2)
    parts = {**PARTS[part], "likelihood": "continuous_bernoulli"}
    pair = pyrovae.mlp_vae((1, 8, 8), 2, hidden_dims=(16,), **parts)
    pyrovae.fit(pair, digits.train.x, epochs=2, compile=False, progress=False)
    measured = pyrovae.code_space(pair, digits.train, digits.test, judge, num_codes=50, num_pairs=5)
    assert measured["knn_accuracy"].isnull().sum() == 0
