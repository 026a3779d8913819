"""Parts that do not fit each other are named as the pair is built, and nothing else of the caller's changes."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.distributions import constraints

import pyrovae
from pyrovae.models.distributions import DiagonalNormal, Likelihood, LinearNormal, Normal, PointMass, StandardNormal
from pyrovae.models.networks import MLP


class Made(nn.Module):
    """A part that gives what a function makes of what it is given."""

    def __init__(self, make, **attributes):
        super().__init__()
        self.make = make
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, *given):
        return self.make(*given)


def likelihood(codes=2, features=5):
    return Likelihood(nn.Linear(codes, features), Normal(scale=1.0), (5,))


def prior(p, latent_dim=2):
    return Made(lambda: p, latent_dim=latent_dim)


CASES = {
    "a plain network as posterior": (
        StandardNormal(2),
        likelihood(),
        nn.Linear(5, 2),
        TypeError,
        r"posterior\(x\).*Tensor",
    ),
    "a posterior of another size": (
        StandardNormal(2),
        likelihood(),
        LinearNormal(5, 3),
        ValueError,
        r"posterior\(x\).*\(2,\).*\(3,\)",
    ),
    "a posterior of other items": (
        StandardNormal(2),
        likelihood(),
        LinearNormal(4, 2),
        ValueError,
        r"posterior\(x\).*\(2, 5\)",
    ),
    "a prior of another size": (
        StandardNormal(3),
        likelihood(),
        LinearNormal(5, 2),
        ValueError,
        r"likelihood\(z\).*\(2, 3\)",
    ),
    "a likelihood of other codes": (
        StandardNormal(2),
        likelihood(4),
        LinearNormal(5, 2),
        ValueError,
        r"likelihood\(z\).*\(2, 2\)",
    ),
    "a network of other items": (
        StandardNormal(2),
        likelihood(2, 6),
        LinearNormal(5, 2),
        ValueError,
        r"likelihood\(z\).*\(2, 6\)",
    ),
    "a plain decoder": (
        StandardNormal(2),
        Made(nn.Linear(2, 5), event_shape=(5,)),
        LinearNormal(5, 2),
        TypeError,
        r"likelihood\(z\).*Tensor",
    ),
    "a decoder without a shape": (
        StandardNormal(2),
        nn.Linear(2, 5),
        LinearNormal(5, 2),
        TypeError,
        "event_shape.*Linear",
    ),
    "a prior not to_event": (
        prior(dist.Normal(torch.zeros(2), 1.0)),
        likelihood(),
        LinearNormal(5, 2),
        ValueError,
        r"prior\(\).*to_event",
    ),
    "a prior with a batch": (
        prior(dist.Normal(torch.zeros(1, 2), 1.0).to_event(1)),
        likelihood(),
        LinearNormal(5, 2),
        ValueError,
        r"prior\(\).*batch shape \(1,\)",
    ),
    "a prior of no distribution": (
        prior(torch.zeros(2)),
        likelihood(),
        LinearNormal(5, 2),
        TypeError,
        r"prior\(\).*Tensor",
    ),
    "a prior without a size": (Made(lambda: None), likelihood(), LinearNormal(5, 2), TypeError, "latent_dim"),
    "a function": (StandardNormal(2), likelihood(), lambda x: x, TypeError, "posterior must be a torch.nn.Module"),
    "a posterior not to_event": (
        StandardNormal(2),
        likelihood(),
        Made(lambda x: dist.Normal(x[:, :2], 1.0)),
        ValueError,
        r"posterior\(x\).*to_event",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_part_that_does_not_fit_is_named(case):
    *parts, kind, words = CASES[case]
    with pytest.raises(kind, match=words):
        pyrovae.VAE(*parts)


def test_an_autoencoders_encoder_is_named():
    with pytest.raises(TypeError, match=r"encoder.*Linear"):
        pyrovae.AE(likelihood(), nn.Linear(5, 2))
    with pytest.raises(ValueError, match=r"likelihood\(z\).*\(2, 3\)"):
        pyrovae.AE(likelihood(), PointMass(nn.Identity(), 5, 3))
    pyrovae.AE(likelihood(), PointMass(nn.Identity(), 5, 2))


def test_a_look_changes_nothing():
    # batch normalisation, dropout and a buffer that counts; modes as they were
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    trunk.register_buffer("calls", torch.zeros(()))

    trained = []

    def counted(module, *_):
        module.calls.add_(1)
        trained.append(module.training)

    trunk.register_forward_hook(counted)
    trunk[2].eval()
    posterior, decoder = DiagonalNormal(trunk, 4, 2), likelihood()
    before = {k: v.clone() for k, v in posterior.state_dict().items()}
    modes = [m.training for m in posterior.modules()]
    random = torch.get_rng_state()
    pyrovae.VAE(StandardNormal(2), decoder, posterior)
    assert torch.equal(torch.get_rng_state(), random)
    assert [m.training for m in posterior.modules()] == modes
    assert trained == [False]
    assert all(torch.equal(v, before[k]) for k, v in posterior.state_dict().items())


def test_what_zeros_cannot_tell_is_let_be():
    # lazy layers keep their size open; a part whose zeros have no Cholesky factor; one distribution for all items
    lazy = nn.Sequential(nn.LazyLinear(4), nn.Tanh())
    vae = pyrovae.VAE(StandardNormal(2), likelihood(), DiagonalNormal(lazy, 4, 2))
    assert isinstance(lazy[0].weight, nn.UninitializedParameter)
    assert vae.encode(torch.zeros(3, 5)).shape == (3, 2)
    full = Made(lambda x: dist.MultivariateNormal(x[:, :2], torch.linalg.cholesky(x[:, :2, None] * x[:, None, :2])))
    pyrovae.VAE(StandardNormal(2), likelihood(), full)
    pyrovae.VAE(StandardNormal(2), likelihood(), Made(lambda x: dist.Normal(torch.zeros(2), 1.0).to_event(1)))


def test_a_subclass_may_call_its_parts_in_its_own_way():
    class Conditional(pyrovae.VAE):
        def guide(self, x=None, *, size=1):
            return self.posterior(x, x)

    two = Made(lambda x, y: dist.Normal(x[:, :2] + y[:, :2], 1.0).to_event(1))
    Conditional(StandardNormal(2), likelihood(), two)
    with pytest.raises(ValueError, match=r"posterior\(x\)"):
        pyrovae.VAE(StandardNormal(2), likelihood(), two)


def test_builders_take_given_parts():
    with pytest.raises(TypeError, match=r"posterior\(x\).*Tensor"):
        pyrovae.mlp_vae((5,), posterior=MLP((5,), (2,)))
    with pytest.raises(ValueError, match=r"likelihood\(z\).*\(2, 3\)"):
        pyrovae.mlp_vae((5,), 2, prior=StandardNormal(3))


def test_a_part_that_zeros_are_no_item_of_is_tried_at_ones():
    def counted(network):
        def make(x):
            if bool((x.sum(-1) == 0).any()):
                raise ValueError("an item without a count")
            return network(x)

        return make

    pyrovae.VAE(StandardNormal(2), likelihood(), Made(counted(LinearNormal(5, 2))))
    with pytest.raises(ValueError, match=r"posterior\(x\).*\(2,\).*\(3,\)"):
        pyrovae.VAE(StandardNormal(2), likelihood(), Made(counted(LinearNormal(5, 3))))


class Counts(nn.Module):
    """A Poisson likelihood that states a support."""

    def __init__(self, support):
        super().__init__()
        self.support = support

    def forward(self, log_rate):
        return dist.Poisson(log_rate.exp())


def test_a_support_with_values_that_have_no_density_is_refused():
    def pair(support):
        decoder = Likelihood(nn.Linear(2, 5), Counts(support), (5,))
        return pyrovae.VAE(StandardNormal(2), decoder, LinearNormal(5, 2))

    with pytest.raises(ValueError, match=r"Counts states the support Real\(\), .*no density at -1.5"):
        pair(constraints.real)
    with pytest.raises(ValueError, match=r"no density at 0.25: its own is IntegerGreaterThan"):
        pair(constraints.nonnegative)
    pair(constraints.nonnegative_integer)
    pair(constraints.boolean)  # narrower is the author's to choose
    counts = torch.tensor([[0.0, 1.0, 2.5, 3.0, 4.0]])
    words = (
        r"support of the Counts likelihood, IntegerGreaterThan\(lower_bound=0\), in 1 of 5 values, the first x\[0, 2\]"
    )
    with pytest.raises(ValueError, match=words + " = 2.5"):
        pyrovae.iwae(pair(constraints.nonnegative_integer), counts)


class OfEntries(nn.Module):
    """A Poisson whose `support` and count of parameters are as a test says."""

    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, log_rate):
        return self.make(log_rate.exp())


class Poisson(OfEntries):
    support = constraints.nonnegative_integer


class Dependent(OfEntries):
    support = constraints.dependent


class BorrowedProperty(OfEntries):
    support = dist.Uniform.support


class OfWholeItems(OfEntries):
    support = constraints.independent(constraints.nonnegative_integer, 1)


class InWords(OfEntries):
    support = "counts"


class OwnProperty(OfEntries):
    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self):
        return constraints.nonnegative_integer


class Inflated(nn.Module):
    """A zero-inflated Poisson whose author forgot num_parameters = 2."""

    support = constraints.nonnegative_integer

    def forward(self, log_rate, gate_logits):
        return dist.ZeroInflatedPoisson(log_rate.exp(), gate_logits=gate_logits)


@pytest.mark.parametrize(
    ("family", "words"),
    [
        (Dependent(dist.Poisson), "support of Dependent is one that depends on parameters .*state the constraint of"),
        (BorrowedProperty(dist.Poisson), "support of BorrowedProperty is one that depends on parameters"),
        (OfWholeItems(dist.Poisson), "support of OfWholeItems is that of whole items"),
        (InWords(dist.Poisson), "support of InWords must be a constraint, got 'counts'"),
        (
            Poisson(lambda rate: dist.Poisson(rate).to_event(1)),
            r"batch shape \(2, 3\), and gives batch shape \(2,\) and event shape \(3,\): leave .to_event out",
        ),
        (Inflated(), r"its forward takes \(log_rate, gate_logits\): set num_parameters = 2 in Inflated"),
    ],
)
def test_a_family_that_does_not_fit_is_told_what_to_change(family, words):
    with pytest.raises((ValueError, TypeError), match=words):
        pyrovae.mlp_vae((3,), hidden_dims=(4,), likelihood=family)


def test_a_support_that_is_a_property_of_ones_own_is_taken():
    pair = pyrovae.mlp_vae((3,), hidden_dims=(4,), likelihood=OwnProperty(dist.Poisson))
    assert pair.likelihood.support is constraints.nonnegative_integer


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (nn.Linear(2, 6), r"got \(2, 6\); set num_parameters = 2 in Poisson if .*nn.Unflatten\(-1, \(2, 3\)\)"),
        (
            nn.Sequential(nn.Linear(2, 6), nn.Unflatten(1, (2, 3))),
            r"got \(2, 2, 3\); set num_parameters = 2 in Poisson if an entry has 2 parameters$",
        ),
        (nn.Linear(2, 4), r"got \(2, 4\)$"),
    ],
)
def test_a_network_for_several_parameters_is_told_what_to_state(network, words):
    with pytest.raises(ValueError, match=words):
        pyrovae.VAE(StandardNormal(2), Likelihood(network, Poisson(dist.Poisson), (3,)), LinearNormal(3, 2))


@pytest.mark.parametrize("likelihood", ["bernoulli", "continuous_bernoulli"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_counts_are_called_counts(likelihood, dtype):
    counts = torch.tensor([[0, 1, 7], [3, 0, 2]], dtype=dtype)
    with pytest.raises(
        ValueError, match=r"\(min 0, max 7\) and is made of whole numbers. Grey values are to be scaled"
    ):
        pyrovae.iwae(pyrovae.mlp_vae((3,), hidden_dims=(4,), likelihood=likelihood), counts)
    with pytest.raises(ValueError, match=r"\(min 0, max 2\); scale x to \[0, 1\]"):
        pyrovae.iwae(pyrovae.mlp_vae((3,), hidden_dims=(4,), likelihood=likelihood), torch.tensor([[0.0, 0.5, 2.0]]))


class TestTorchsOwnWords:
    """Layers of another size than they are given: torch names two matrices, and here the part and both sizes."""

    def test_an_encoder_of_other_features(self):
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(6, 8))
        with pytest.raises(ValueError, match=r"a linear layer that takes 16 inputs is given 8$"):
            pyrovae.VAE(StandardNormal(2), Likelihood(nn.Linear(2, 6), Normal(), (6,)), DiagonalNormal(encoder, 16, 2))

    def test_a_decoder_for_other_codes(self):
        with pytest.raises(ValueError, match=r"a linear layer that takes 3 inputs is given 2$"):
            pyrovae.VAE(StandardNormal(2), Likelihood(nn.Linear(3, 6), Normal(), (6,)), LinearNormal(6, 2))

    def test_a_decoder_in_one_row_is_told_the_shape_that_fits(self):
        def composed(*more):
            return pyrovae.VAE(
                StandardNormal(2),
                Likelihood(nn.Sequential(nn.Linear(2, 12), *more), pyrovae.ContinuousBernoulli(), (1, 3, 4)),
                DiagonalNormal(nn.Flatten(), 12, 2),
            )

        with pytest.raises(ValueError, match=r"let the network end with nn.Unflatten\(-1, \(1, 3, 4\)\)$"):
            composed()
        assert composed(nn.Unflatten(-1, (1, 3, 4))).sample(2).shape == (2, 1, 3, 4)


def test_a_sketch_on_the_meta_device_calls_no_part_of_the_packages_own(monkeypatch):
    """A call there brings in torch's compiler, for which each load of a saved pair then waits."""
    called = []
    whole = pyrovae.models.networks.MLP.forward
    monkeypatch.setattr(pyrovae.models.networks.MLP, "forward", lambda *given: called.append(1) or whole(*given))
    columns = [pyrovae.Column("a", "real"), pyrovae.Column("b", "categorical", 3)]
    with torch.device("meta"):
        pyrovae.mlp_vae((3,))
        pyrovae.table_vae(columns)
    assert not called
    pyrovae.table_vae(columns)
    assert called  # the control: otherwise the parts are tried
