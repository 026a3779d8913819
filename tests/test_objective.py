"""The gradient of the importance-weighted bound: whatever draws the guide has, that of the bound's expectation."""

from __future__ import annotations

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions.testing.fakes import NonreparameterizedNormal
from pyro.distributions.testing.rejection_gamma import ShapeAugmentedGamma
from torch import nn

import pyrovae
from pyrovae.inference.objective import _baseline
from pyrovae.methods import SVI

N = 4000
X = torch.full((N, 1), 0.7, dtype=torch.float64)
ENUMERATED = {"enumerate": "parallel"}


class OneItem(nn.Module):
    """The same item N times, each with a guide parameter of its own: N draws of one gradient in a single step."""

    event_shape, latent_dim, is_normalized = (1,), 1, True

    def __init__(self, prior, law, start, infer=None):
        super().__init__()
        self.phi = nn.Parameter(torch.full((N,), start, dtype=torch.float64))
        self.prior, self.law, self.infer = prior, law, infer

    def model(self, x=None, *, size=1):
        with pyro.plate("data", size if x is None else len(x)):
            z = pyro.sample("latent", self.prior, infer=self.infer)
            return pyro.sample("obs", dist.Normal(2 * z[..., None], 1.0).to_event(1), obs=x)

    def guide(self, x=None, *, size=1):
        with pyro.plate("data", size if x is None else len(x)):
            return pyro.sample("latent", self.law(self.phi[: size if x is None else len(x)]), infer=self.infer)


class Turned(OneItem):
    """A Normal draw without its path: a point whose density, and whose score function, a factor has."""

    def guide(self, x=None, *, size=1):
        size = size if x is None else len(x)
        with pyro.plate("data", size):
            drawn = pyro.sample("draw", self.law(self.phi[:size]).mask(False), infer={"is_auxiliary": True})
            z = drawn.detach()
            pyro.factor("density", self.law(self.phi[:size]).log_prob(z), has_rsample=False)
            return pyro.sample("latent", dist.Delta(z))


def gradients(pair, count, objective="iwae", **options):
    """Of each item's loss by its own parameter, from one step of gradient descent."""
    before = pair.phi.detach().clone()
    options = {"epochs": 1, "batch_size": "all", "optimizer": "sgd", "learning_rate": float(N), **options}
    method = SVI(objective=objective, num_particles=count, **options)
    pyrovae.fit(pair, X, method=method, progress=False, device="cpu")
    return before - pair.phi.detach()


def require_mean(values, expected, expected_se=0.0):
    se = math.hypot(float(values.std()) / math.sqrt(len(values)), expected_se)
    assert abs(float(values.mean()) - expected) < 4 * se
    return se


def normal(z):
    return -0.5 * (0.7 - 2 * z) ** 2 - 0.5 * math.log(2 * math.pi)


@pytest.mark.parametrize("infer", [None, ENUMERATED])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_of_bits_it_is_that_of_the_sum_over_all_draws(count, infer):
    phi = torch.tensor(-0.4, dtype=torch.float64, requires_grad=True)
    log_joint = torch.tensor([normal(0.0) + math.log(0.7), normal(1.0) + math.log(0.3)], dtype=torch.float64)
    loss = torch.zeros((), dtype=torch.float64)
    for bits in itertools.product((0, 1), repeat=count):
        log_q = torch.stack([nn.functional.logsigmoid(phi if bit else -phi) for bit in bits])
        log_weight = log_joint[list(bits)] - log_q
        loss = loss - log_q.sum().exp() * (log_weight.logsumexp(0) - math.log(count))
    (expected,) = torch.autograd.grad(loss, phi)
    pair = OneItem(dist.Bernoulli(0.3), lambda phi: dist.Bernoulli(logits=phi), -0.4, infer)
    found = gradients(pair, count)
    se = require_mean(found, float(expected))
    assert count == 1 or abs(float(expected)) > 10 * se  # so that the other sign is seen


CONTINUOUS = {
    "no path": (
        OneItem,
        dist.Normal(0.0, 1.0),
        lambda m: dist.Normal(m, 0.5),
        lambda m: NonreparameterizedNormal(m, 0.5),
    ),
    "a factor": (Turned, dist.Normal(0.0, 1.0), lambda m: dist.Normal(m, 0.5), lambda m: dist.Normal(m, 0.5)),
    "a path in part": (
        OneItem,
        dist.Gamma(2.0, 3.0),
        lambda m: dist.Gamma(m.exp(), 3.0),
        lambda m: ShapeAugmentedGamma(m.exp(), torch.full_like(m, 3.0)),
    ),
}


@pytest.mark.parametrize("case", CONTINUOUS)
@pytest.mark.parametrize("objective", ["iwae", "elbo"])
def test_it_is_that_of_reparameterised_draws(case, objective):
    kind, prior, law, other = CONTINUOUS[case]
    by_path = gradients(OneItem(prior, law, 1.0), 5, objective)
    by_score = gradients(kind(prior, other, 1.0), 5, objective)
    se = float(by_path.std()) / math.sqrt(N)
    assert abs(float(by_path.mean())) > 20 * se
    require_mean(by_score, float(by_path.mean()), se)


def test_the_value_is_the_bound():
    law = {"path": lambda m: dist.Normal(m, 0.5), "no path": lambda m: NonreparameterizedNormal(m, 0.5)}
    method = SVI(epochs=1, objective="iwae", num_particles=5, compile=False)
    losses = []
    for draws in law.values():
        pair = OneItem(dist.Normal(0.0, 1.0), draws, 1.0)
        losses.append(float(pyrovae.fit(pair, X[:64], method=method, progress=False, device="cpu").epochs.loss[0]))
    assert losses[0] == losses[1]


def test_the_baseline_is_the_bound_with_the_geometric_mean_of_the_others():
    log_weight = 30 * torch.randn(6, 50, generator=torch.Generator().manual_seed(0)).double()
    for k in range(6):
        replaced = log_weight.clone()
        replaced[k] = torch.cat([log_weight[:k], log_weight[k + 1 :]]).mean(0)
        expected = replaced.logsumexp(0) - math.log(6)
        torch.testing.assert_close(_baseline(log_weight)[k], expected)
        changed = log_weight.clone()
        changed[k] = -math.inf  # a draw outside of the support
        assert torch.equal(_baseline(changed)[k], _baseline(log_weight)[k])
    assert _baseline(torch.full((3, 2), -math.inf)).tolist() == [[0.0] * 2] * 3


@pytest.mark.parametrize("case", ["no path", "a factor", "a path in part"])
@pytest.mark.parametrize("objective", ["iwae", "elbo"])
def test_a_compiled_step_names_the_site(case, objective):
    kind, prior, _, other = CONTINUOUS[case]
    pair = kind(prior, other, 1.0)
    before = pair.phi.detach().clone()
    with pytest.raises(pyrovae.CaptureError, match=r"site '(latent|density)' .*reparameterised"):
        gradients(pair, 3, objective, compile=True)
    assert torch.equal(pair.phi.detach(), before)


@pytest.mark.parametrize("infer", [None, ENUMERATED])
def test_a_site_that_the_guide_has_not_is_refused(infer):
    """Its draws would come from the prior and be weighed by it once more."""

    class Shifted(OneItem):
        def model(self, x=None, *, size=1):
            with pyro.plate("data", size if x is None else len(x)):
                z = pyro.sample("latent", self.prior)
                k = pyro.sample("shift", dist.Bernoulli(0.3), infer=infer)
                return pyro.sample("obs", dist.Normal((z + k)[..., None], 1.0).to_event(1), obs=x)

    pair = Shifted(dist.Normal(0.0, 1.0), lambda m: dist.Normal(m, 0.5), 1.0)
    before = pair.phi.detach().clone()
    with pytest.raises(ValueError, match="site 'shift' of the model is not in the guide of Shifted: draw it there too"):
        gradients(pair, 3)
    assert torch.equal(pair.phi.detach(), before)
