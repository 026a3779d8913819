"""Every likelihood with every posterior and every prior of the package: a step, a saved state, a loaded one."""

from __future__ import annotations

import math

import pyro
import pytest
import torch
from conftest import long_but, needs_compiler
from pyro.distributions.torch_distribution import TorchDistribution
from torch import nn
from torch.distributions import constraints

import pyrovae
import pyrovae.models.distributions
from pyrovae.models.registry import make, registered

WITH_COVARIATES = {"conditional"}  # which the builders refuse without covariates: it has tests of its own
OF_CODES = {"categorical", "columns", "ordinal"}  # whose encoder looks items up: pseudo-inputs would not be trained
COLUMNS = "columns=[['a', 'real'], ['b', 'count'], ['c', 'categorical', 3]]"
ARGUMENTS = {"columns": COLUMNS, "vamp": "num_components=3", "categorical": "num_classes=3", "ordinal": "num_classes=3"}


def names(kind):
    """The package's own parts of a kind; new ones join by themselves, and those that other tests register do not."""
    own = [name for name, part in registered(kind).items() if part.__module__.startswith("pyrovae.")]
    return [name for name in own if name not in WITH_COVARIATES]


def pair_of(*parts):
    torch.manual_seed(0)
    asked = [f"{part}({ARGUMENTS[part]})" if part in ARGUMENTS else part for part in parts]
    options = dict(zip(("likelihood", "posterior", "prior"), asked, strict=True))
    return pyrovae.mlp_vae((3,), 2, hidden_dims=(4,), **options)


@pytest.mark.slow
@pytest.mark.parametrize("likelihood", names("likelihood"))
def test_every_triple_takes_a_step_and_is_saved_and_loaded(likelihood, tmp_path):
    for posterior in names("posterior"):
        for prior in names("prior"):
            case = (likelihood, posterior, prior)
            if prior == "vamp" and likelihood in OF_CODES:
                with pytest.raises(ValueError, match=r"no gradient reaches them|its pseudo-inputs between the ends"):
                    pair_of(*case)
                continue
            pair = pair_of(*case)
            x = pair.sample(8, seed=0)
            before = {name: parameter.detach().clone() for name, parameter in pair.named_parameters()}
            svi = pyro.infer.SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 1e-2}), pyro.infer.Trace_ELBO())
            assert math.isfinite(svi.step(x)), case
            after = dict(pair.named_parameters())
            assert all(parameter.isfinite().all() for parameter in after.values()), case
            assert any(not torch.equal(after[name], value) for name, value in before.items()), case
            # the parts' own parameters are among those that a step trains
            if prior != "standard":
                assert any(not torch.equal(after[n], v) for n, v in before.items() if n.startswith("prior.")), case
            pyrovae.save(tmp_path / "state", pair)
            loaded = pyrovae.load(tmp_path / "state")
            z = torch.zeros(1, 2)
            assert torch.equal(loaded.prior().log_prob(z), pair.prior().log_prob(z)), case
            assert torch.equal(loaded.posterior(x).log_prob(z), pair.posterior(x).log_prob(z)), case
            assert torch.equal(loaded.likelihood(z).log_prob(x), pair.likelihood(z).log_prob(x)), case
            pyro.clear_param_store()


class Together(TorchDistribution):
    """A vector whose entries are independent, each of a distribution of its own."""

    arg_constraints = {}  # noqa: RUF012
    support = constraints.independent(constraints.real, 1)

    def __init__(self, entries):
        self.entries = entries
        super().__init__(entries[0].batch_shape[:-1], torch.Size([len(entries)]), validate_args=False)

    def log_prob(self, x):
        return sum(entry.log_prob(x[..., i : i + 1]).squeeze(-1) for i, entry in enumerate(self.entries))


class Beside(nn.Module):
    """A likelihood of which each entry is of another family, so that one compilation covers them all."""

    support = constraints.real

    def __init__(self, families):
        super().__init__()
        self.families = nn.ModuleList(make("likelihood", family) for family in families)
        for family in self.families:
            if hasattr(family, "bind"):
                family.bind((1,))
        self.event_shape = (len(families),)
        self.sizes = [getattr(family, "num_parameters", 1) for family in self.families]
        self.network = nn.Linear(2, sum(self.sizes))

    def forward(self, z):
        outputs = iter(self.network(z).split(1, -1))
        pairs = zip(self.families, self.sizes, strict=True)
        return Together([family(*(next(outputs) for _ in range(size))) for family, size in pairs])


# every posterior, prior and likelihood once; items are 1 to 3, which all of these take, or 0 and 1
COMPILED = {
    ("full", "mixture"): [
        "normal(per_entry=True)",
        "heteroscedastic_normal",
        "student_t",
        "laplace",
        "log_normal",
        "gamma(per_entry=True)",
    ],
    ("flow", "vamp(num_components=3)"): [
        "poisson",
        "negative_binomial(dispersion='item')",
        "zero_inflated_negative_binomial(dispersion='item')",
        "categorical(num_classes=5)",
        "ordinal(num_classes=5)",
        "discretized_logistic(levels=16)",
    ],
    ("diagonal", "flow"): ["bernoulli", "continuous_bernoulli", "zero_inflated_poisson", "normal"],
}


@pytest.mark.slow
@needs_compiler
@pytest.mark.filterwarnings("ignore::pyrovae.PosteriorCollapseWarning")
@pytest.mark.parametrize("parts", long_but(("full", "mixture"), of=COMPILED))
def test_each_posterior_and_prior_is_compiled(parts):
    families, (posterior, prior) = COMPILED[parts], parts
    low, high = (0, 2) if "bernoulli" in families else (1, 4)
    x = torch.randint(low, high, (40, len(families)), generator=torch.Generator().manual_seed(0)).float()
    losses = []
    for compiled in (True, False):
        torch.manual_seed(0)
        names = {"posterior": posterior, "prior": prior, "likelihood": "normal"}
        pair = pyrovae.mlp_vae((len(families),), 2, hidden_dims=(4,), **names)
        if "vamp" in prior:
            pair = pyrovae.VAE(pyrovae.VampPrior(2, num_components=3), Beside(families), pair.posterior)
        else:
            pair = pyrovae.VAE(pair.prior, Beside(families), pair.posterior)
        options = {"epochs": 2, "batch_size": 20, "learning_rate": 1e-2, "progress": False}
        losses.append(pyrovae.fit(pair, x, compile=compiled, **options).epochs["loss"].values)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_every_part_is_among_those_that_are_compiled():
    named = {kind: set() for kind in ("likelihood", "posterior", "prior")}
    for (posterior, prior), families in COMPILED.items():
        named["posterior"].add(posterior)
        named["prior"].add(prior.split("(")[0])
        named["likelihood"] |= {family.split("(")[0] for family in families}
    assert named["posterior"] >= set(names("posterior"))
    assert named["prior"] >= set(names("prior")) - {"standard"}
    assert named["likelihood"] >= set(names("likelihood")) - {"columns", "from_distribution"}  # tests of their own
