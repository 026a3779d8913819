"""Free bits: the loss against its formula, its two limits against other fits, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import needs_compiler
from pyro.infer import Trace_ELBO
from torch import Tensor, nn

import pyrovae
from pyrovae.inference.free_bits import floored_loss, per_dimension

OF = {"epochs": 2, "batch_size": 16, "learning_rate": 0.01, "progress": False}


class FullNormal(nn.Module):
    """q(z | x) with one covariance, whose dimensions depend on each other."""

    def __init__(self, features: int, latent_dim: int) -> None:
        super().__init__()
        self.loc = nn.Linear(features, latent_dim)
        self.register_buffer("factor", torch.eye(latent_dim) + 0.3 * torch.ones(latent_dim, latent_dim).tril(-1))

    def forward(self, x: Tensor) -> Any:
        return torch.distributions.MultivariateNormal(self.loc(x), scale_tril=self.factor)


def made(posterior: nn.Module | None = None) -> pyrovae.VAE:
    torch.manual_seed(0)
    if posterior is None:
        return pyrovae.linear_vae(4, 3).double()
    likelihood = pyrovae.Likelihood(nn.Linear(3, 4), pyrovae.Normal(), (4,))
    return pyrovae.VAE(pyrovae.StandardNormal(3), likelihood, posterior).double()


def items(n: int = 40) -> Tensor:
    return torch.randn(n, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def weights(pair: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in pair.parameters()])


@pytest.mark.parametrize("num_particles", [1, 3])
@pytest.mark.parametrize("beta", [None, 0.25])
def test_the_loss_is_its_formula(num_particles: int, beta: float | None) -> None:
    vae, x = made(), items(20)
    elbo = Trace_ELBO(num_particles=num_particles, vectorize_particles=num_particles > 1, max_plate_nesting=1)
    torch.manual_seed(1)
    loss, of = floored_loss(elbo, vae.model, vae.guide, x, floor=0.3, beta=beta)
    torch.manual_seed(1)
    q = vae.posterior(x)
    z = q.rsample((num_particles,))
    prior = torch.distributions.Normal(torch.zeros(3, dtype=torch.float64), 1.0)
    kl = (q.base_dist.log_prob(z) - prior.log_prob(z)).mean((0, 1))
    assert 0 < int((kl > 0.3).sum()) < 3, "a dimension above the floor, and one under it"
    expected = (1 if beta is None else beta) * kl.clamp(min=0.3).sum() - vae.likelihood(z).log_prob(x).mean()
    assert of == "dimension"
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)


def test_dimensions_that_depend_on_each_other_have_one_floor() -> None:
    x, pair = items(20), made(FullNormal(4, 3))
    torch.manual_seed(1)
    loss, of = floored_loss(Trace_ELBO(), pair.model, pair.guide, x, floor=100.0, beta=None)
    torch.manual_seed(1)
    z = pair.posterior(x).rsample()
    assert of == "code"
    torch.testing.assert_close(loss, 300.0 - pair.likelihood(z).log_prob(x).mean())
    total, of = per_dimension(pair.posterior(x), pair.prior(), z)
    assert total.shape == (20, 1) and of == "code"


def test_a_floor_above_all_is_a_fit_without_the_kl_term() -> None:
    floored, without = made(), made()
    one = pyrovae.fit(floored, items(), validation=items(10), free_bits=1e6, **OF)
    other = pyrovae.fit(without, items(), validation=items(10), beta=0.0, **OF)
    torch.testing.assert_close(weights(floored), weights(without), rtol=1e-8, atol=1e-10)
    # the validation ELBO is the true one, with the whole KL term and without the floor
    difference = one.epochs["validation_elbo"] - other.epochs["validation_elbo"]
    assert float(abs(difference).max()) < 1e-6
    assert float(one.epochs["loss"].min()) > 2.9e6 > 100 > float(other.epochs["loss"].max())
    assert one.config["free_bits_of"] == "dimension" and one.config["free_bits"] == 1e6
    assert "free_bits_of" not in other.config


def test_a_floor_under_all_changes_nothing() -> None:
    torch.manual_seed(0)
    floored, plain = made(), made()
    for pair in (floored, plain):
        with torch.no_grad():
            pair.posterior.raw_log_scale.fill_(-2.0)  # each dimension is over a nat from the prior
    pyrovae.fit(floored, items(), free_bits=1e-3, **OF)
    pyrovae.fit(plain, items(), **OF)
    torch.testing.assert_close(weights(floored), weights(plain), rtol=1e-8, atol=1e-10)


@pytest.mark.long
@needs_compiler
def test_compiled_steps_are_the_eager_ones() -> None:
    eager, compiled = (made().float() for _ in range(2))
    x = items().float()
    pyrovae.fit(eager, x, free_bits=0.45, warmup=2, compile=False, **OF)
    history = pyrovae.fit(compiled, x, free_bits=0.45, warmup=2, compile=True, **OF)
    assert history.config["compiled"] and history.config["free_bits_of"] == "dimension"
    torch.testing.assert_close(weights(compiled), weights(eager), rtol=1e-4, atol=1e-5)


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="free_bits must be"):
        pyrovae.methods.SVI(free_bits=-1.0)
    with pytest.raises(ValueError, match="objective='iwae' has no KL term to put a floor under"):
        pyrovae.methods.SVI(free_bits=0.1, objective="iwae")
    with pytest.raises(ValueError, match="no code with a density"):
        pyrovae.fit(pyrovae.mlp_ae((4,)), torch.rand(8, 4), free_bits=0.5, **OF)
    with pytest.raises(ValueError, match="free_bits"):
        pyrovae.fit(pyrovae.GaussianMixture((4,), 2), items(), free_bits=0.5, method="svi", **OF)
    classifier = pyrovae.DiscriminativeClassifier((4,), 2)
    with pytest.raises(ValueError, match="free_bits"):
        pyrovae.fit(classifier, items().float(), [0, 1] * 20, free_bits=0.5, **OF)


def test_the_warning_of_a_collapse_says_what_helps() -> None:
    torch.manual_seed(0)
    vae = pyrovae.linear_vae(4, 3)
    with pytest.warns(pyrovae.PosteriorCollapseWarning, match=r"warmup=1 or free_bits=0\.1"):
        pyrovae.fit(vae, torch.zeros(20, 4), epochs=2, progress=False)
