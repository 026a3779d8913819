"""Half the labels: the loss against Pyro's own, log p(x, y) against quadrature, and what unlabelled items buy."""

import math
from functools import partial

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from scipy.integrate import quad
from torch import nn

import pyrovae
from pyrovae import SemiSupervisedVAE, fit
from pyrovae.inference.semi_supervised import terms_of, unlabeled_bound
from pyrovae.methods import SemiSupervisedSVI, methods_of

PRIOR = [0.5, 0.2, 0.3]


def small(latent_dim=3, seed=0, **options):
    """A pair in float64 whose weights are spread enough that classes and codes matter."""
    torch.manual_seed(seed)
    pair = SemiSupervisedVAE((5,), 3, latent_dim, hidden_dims=(7,), class_prior=PRIOR, **options).double()
    with torch.no_grad():
        for parameter in pair.parameters():
            parameter.mul_(2.0)
        pair.log_class_prior.copy_(torch.tensor(PRIOR, dtype=torch.float64).log())  # not what float32 made of it
    return pair


def binary(n, seed=1, features=5):
    generator = torch.Generator().manual_seed(seed)
    return torch.bernoulli(torch.full((n, features), 0.5, dtype=torch.float64), generator=generator)


def of_pyro(pair, more, seed=2):
    """U(x) summed over items, by Pyro's own enumeration."""
    torch.manual_seed(seed)
    return TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(pair.model, pair.guide, more)


def of_ours(pair, more, seed=2):
    torch.manual_seed(seed)
    return unlabeled_bound(pair, more, quiet=False)


# the loss -------------------------------------------------------------------------------------------


def test_the_loss_is_that_of_pyros_enumeration():
    pair, x, more, y = small(), binary(4), binary(6, seed=3), torch.tensor([0, 2, 1, 1])
    torch.manual_seed(2)
    labeled = Trace_ELBO().loss(pair.model, pair.guide, x, y)
    torch.manual_seed(2)
    terms = terms_of(pair, x, y, more, quiet=False)
    assert math.isclose(terms.labeled.sum().item(), labeled, rel_tol=1e-10)
    assert math.isclose(of_ours(pair, more).sum().item(), of_pyro(pair, more).item(), rel_tol=1e-10)


def test_its_gradient_is_that_of_pyros_enumeration():
    pair, more = small(), binary(6)
    parameters = list(pair.parameters())
    ours = torch.autograd.grad(of_ours(pair, more).sum(), parameters)
    for one, other in zip(ours, torch.autograd.grad(of_pyro(pair, more), parameters), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_an_enumeration_without_the_prior_is_seen():
    pair, more = small(), binary(6)
    left_out = pair.label_logits(more).softmax(-1) @ pair.log_class_prior
    right, wrong = of_ours(pair, more).sum().item(), (of_ours(pair, more) + left_out).sum().item()
    wanted = of_pyro(pair, more).item()
    assert math.isclose(right, wanted, rel_tol=1e-10)
    assert not math.isclose(wrong, wanted, rel_tol=0.01)


def test_terms_of_less_noise_have_the_same_means():
    """Means of 4,000 draws of each, within 4.5 of their standard errors (a false alarm in 10,000 runs, of 6 + 6)."""
    pair, more = small(), binary(6)
    y = torch.tensor([0, 2, 1, 1, 0, 2])
    torch.manual_seed(0)
    sums = {}
    with torch.no_grad():
        for quiet in (True, False):
            # 4,000 copies of the items are as many draws
            terms = terms_of(pair, more.repeat(4000, 1), y.repeat(4000), more.repeat(4000, 1), quiet=quiet)
            tables = torch.stack([terms.labeled.unflatten(0, (4000, 6)), terms.unlabeled.unflatten(0, (4000, 6))])
            sums[quiet] = tables.mean(1), tables.var(1) / 4000
    error = (sums[True][1] + sums[False][1]).sqrt()
    assert ((sums[True][0] - sums[False][0]).abs() < 4.5 * error).all()
    assert (sums[True][1][0] < sums[False][1][0]).all()  # of U(x) only the differences of classes are less noisy


def test_the_loss_weighs_its_terms_as_in_equation_9():
    pair, x, more, y = small(), binary(4), binary(12, seed=3), torch.tensor([0, 2, 1, 1])
    terms = terms_of(pair, x, y, more)
    log_proba = pair.label_logits(x).log_softmax(-1)
    of_paper = terms.labeled.sum() + terms.unlabeled.sum() - 0.1 * 16 * log_proba.gather(1, y[:, None]).mean()
    torch.testing.assert_close(terms.loss(4 / 16, 0.1), of_paper / 16)


# log p(x, y) ----------------------------------------------------------------------------------------


def by_scipy(pair, x):
    """log p(x, y) of one item, (C,): scipy's quadrature of a decoder that is written out anew."""
    first, last = (layer for layer in pair.likelihood.network.layers if isinstance(layer, nn.Linear))
    w, b, v, c = (t.detach().numpy() for t in (first.weight, first.bias, last.weight, last.bias))
    values = []
    for number, prior in enumerate(PRIOR):

        def integrand(z, number=number):
            hidden = np.logaddexp(0, w @ np.r_[z, np.eye(3)[number]] + b)
            logits = v @ hidden + c
            return np.exp(x.numpy() @ logits - np.logaddexp(0, logits).sum() - z**2 / 2) / np.sqrt(2 * np.pi)

        total = quad(integrand, -12, 12, epsabs=0, epsrel=1e-12, limit=500)[0]
        values.append(math.log(prior) + math.log(total))
    return torch.tensor(values, dtype=torch.float64)


@pytest.fixture(scope="module")
def integrated():
    """A pair with a code of one dimension, five items, and log p(x, y) of these by quadrature with its error."""
    pair, x = small(latent_dim=1), binary(5)
    return pair, x, *pair.log_joint(x, evidence=partial(pyrovae.quadrature, tol=1e-10), return_error=True)


def test_log_joint_is_scipys_quadrature(integrated):
    pair, x, value, error = integrated
    wanted = torch.stack([by_scipy(pair, item) for item in x[:3]])
    assert ((value[:3] - wanted).abs() < 1e-8).all()
    assert (error <= 1e-10).all()


def test_log_prob_sums_the_label_out(monkeypatch):
    pair, value, error = small(latent_dim=1), torch.tensor([[-3.0, -4.0, -5.0]]), torch.tensor([[0.3, 0.2, 0.1]])
    monkeypatch.setattr(
        pair, "log_joint", lambda x, return_error, evidence=None: (value, error) if return_error else value
    )
    found, its_error = pair.log_prob(binary(1), return_error=True)
    p = value.exp()
    torch.testing.assert_close(found, p.sum(-1).log())
    torch.testing.assert_close(its_error, (p * error).square().sum(-1).sqrt() / p.sum(-1))
    torch.testing.assert_close(pair.log_prob(binary(1), return_error=False), found)
    of_grids = pair.log_prob(binary(1), return_error=True, evidence=pyrovae.quadrature)[1]
    torch.testing.assert_close(of_grids, (p * error).sum(-1) / p.sum(-1))  # which are no noise


def test_probabilities_of_all_items_and_labels_sum_to_one():
    pair = small(latent_dim=1)
    every = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 5)
    assert math.isclose(float(pair.log_joint(every, evidence=pyrovae.quadrature).exp().sum()), 1.0, abs_tol=1e-8)


def test_quadrature_sees_a_mode_of_the_prior_that_is_far_from_the_guide():
    """A prior with modes at -20 and 20 and a guide at -20, against a sum over 20,001 codes from -25 to 25."""
    torch.manual_seed(0)
    prior = pyrovae.MixturePrior(1, num_components=2)
    with torch.no_grad():
        prior.loc.copy_(torch.tensor([[-20.0], [20.0]]))
        prior.raw_log_scale.fill_(math.log(0.1))
    pair, x = SemiSupervisedVAE((5,), 2, 1, hidden_dims=(7,), prior=prior).double(), binary(2)
    with torch.no_grad():
        pair.posterior.law.loc.bias.fill_(-20.0)
        z = torch.linspace(-25, 25, 20_001, dtype=torch.float64)
        table = torch.stack(
            [pair.log_ratio(item[None], z[:, None, None, None].expand(-1, 2, 1, 1), None) for item in x]
        )
        table = table[..., 0].transpose(1, 2) + math.log(z[1] - z[0])  # (2 items, 2 classes, codes)
    found = pair.log_joint(x, evidence=pyrovae.quadrature)
    assert ((found - table.logsumexp(-1)).abs() < 1e-8).all()
    assert ((found - table[..., z < 0].logsumexp(-1)).abs() > 0.3).any()  # the guide's side alone


@pytest.mark.slow
def test_importance_weights_agree_with_quadrature_within_their_errors():
    """Two dimensions, 15 values: beyond 5 errors by chance in fewer than 1 of 10,000 runs."""
    pair, x = small(latent_dim=2), binary(5)
    value, error = pair.log_joint(x, num_particles=4000, return_error=True)
    exact = pair.log_joint(x, evidence=partial(pyrovae.quadrature, tol=1e-4))
    assert ((value - exact).abs() < 5 * error).all()
    assert (error < 0.4).all()
    without_prior = value - torch.tensor(PRIOR, dtype=torch.float64).log()
    assert not ((without_prior - exact).abs() < 5 * error).all(0).any()  # a missing log p(y) would be seen


def test_one_draw_has_no_error():
    value, error = small().log_joint(binary(2), num_particles=1, return_error=True)
    assert value.isfinite().all()
    assert error.isnan().all()


def test_an_estimator_says_where_it_cannot():
    with pytest.raises(ValueError, match="2 dimensions"):
        small().log_joint(binary(2), evidence=pyrovae.quadrature)
    with pytest.raises(TypeError, match="evidence must be an estimator"):
        small().log_joint(binary(2), evidence="quadrature")


def test_the_models_p_of_y_is_not_that_of_the_guide(integrated):
    pair, x, value, _ = integrated
    of_guide = pair.predict_log_proba(x).exp()
    assert torch.allclose(of_guide.sum(-1), torch.ones(5, dtype=torch.float64))
    assert (value.softmax(-1) - of_guide).abs().max().item() > 0.1


# the estimators of log p(x) -------------------------------------------------------------------------


def test_iwae_sums_the_label_out(integrated):
    """Within 5 errors and 0.002 nats of log p(x); a label drawn from q(y | x) would leave 0.05 nats of 300 draws."""
    pair, x, value, _ = integrated
    estimate = pyrovae.iwae(pair, x, num_particles=300)
    exact = value.logsumexp(-1).numpy()
    assert (np.abs(estimate.pointwise["value"].values - exact) < 5 * estimate.pointwise["se"].values + 0.002).all()
    assert (estimate.bound, estimate.pointwise.attrs["members"]) == ("lower", 3)
    assert "pareto_k" not in estimate.pointwise


@pytest.mark.slow
def test_quadrature_sums_the_label_out(integrated):
    pair, x, value, _ = integrated
    found = pyrovae.quadrature(pair, x, tol=1e-8)
    assert (np.abs(found.pointwise["value"].values - value.logsumexp(-1).numpy()) < 1e-8).all()
    with pytest.raises(ValueError, match="exact is for linear-Gaussian pairs"):
        pyrovae.exact(pair, x)
    with pytest.raises(ValueError, match="covariates came, and this SemiSupervisedVAE takes none"):
        pyrovae.quadrature(pair, x, covariates=torch.zeros(5, 2))


def test_the_elbo_is_that_of_the_guide_with_its_labels_summed_out():
    """-U(x) by NumPy and Gauss-Hermite nodes, within 5 errors; so are the label's part of the rate, and the whole."""
    pair, x = small(latent_dim=1), binary(4)
    estimate = pyrovae.elbo(pair, x, num_particles=500)
    wanted = np.array([-by_hand(pair, item[None], item[None], [0])[1] for item in x])
    columns = {name: estimate.pointwise[name].values for name in estimate.pointwise}
    assert (np.abs(columns["value"] - wanted) < 5 * columns["se"]).all()
    assert (columns["se"] < 0.1).all()
    assert np.allclose(columns["value"], -columns["rate"] - columns["distortion"])
    log_q = pair.predict_log_proba(x).detach().numpy()
    divergence = (np.exp(log_q) * (log_q - np.log(PRIOR))).sum(1)
    assert (divergence > 6 * columns["se"]).any()  # a rate of the code alone would be seen


def test_a_class_is_a_vae_of_the_same_parameters():
    """p(x | y, z), p(z) and q(z | x, y) of one label, of a likelihood with learned scales of its own."""
    family = pyrovae.Normal(per_entry=True)
    pair = SemiSupervisedVAE((5,), 3, 2, hidden_dims=(7,), likelihood=family, classes=["a", "b", "c"])
    with torch.no_grad():
        pair.likelihood.family.log_scale.add_(torch.arange(5.0))
    vae, z, x = pair.of_class("b"), torch.randn(4, 2), torch.randn(4, 5)
    indicators = torch.tensor([0.0, 1.0, 0.0]).expand(4, 3)
    assert {id(p) for p in vae.parameters()} == {id(p) for p in pair.parameters()} - {
        id(p) for p in pair.classifier.parameters()
    }
    torch.testing.assert_close(vae.likelihood(z).log_prob(x), pair.given(indicators, z).log_prob(x))
    torch.testing.assert_close(vae.encode(x), pair.encode(x, ["b"] * 4))
    torch.testing.assert_close(vae.reconstruct(x), pair.reconstruct(x, ["b"] * 4))
    assert not torch.allclose(vae.encode(x), pair.encode(x, ["c"] * 4))
    with pytest.raises(ValueError, match="no class here: 'd'"):
        pair.of_class("d")


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("gaps", lambda pair, x: pyrovae.gaps(pair, x, None, progress=False)),
        ("calibrate", lambda pair, x: pyrovae.calibrate(pair)),
        ("bdmc", lambda pair, x: pyrovae.bdmc(pair, 3)),
        ("to_arviz", pyrovae.to_arviz),
        ("code_space", lambda pair, x: pyrovae.code_space(pair, pyrovae.data.Split(x), pyrovae.data.Split(x))),
        ("export_program", lambda pair, x: pyrovae.export_program(pair, "encode")),
        ("decode", lambda pair, x: pyrovae.decoded(pair, torch.zeros(2, 3))),
        ("predictive_checks", lambda pair, x: pyrovae.predictive_checks(pair, x, kind="posterior")),
    ],
)
def test_what_is_for_a_code_alone_names_the_vae_of_a_class(name, call):
    message = rf"{name} is for a pair with a code alone, and a SemiSupervisedVAE .*, as pair.of_class\('a'\)"
    with pytest.raises(ValueError, match=message):
        call(small(classes=["a", "b", "c"]), binary(3))


class Discrete(nn.Module):
    latent_dim = 2

    def forward(self):
        return pyro.distributions.Categorical(torch.ones(2, 2)).to_event(1).expand((3,))


@pytest.mark.parametrize(
    ("prior", "error", "message"),
    [
        ("vamp", ValueError, "prior 'vamp' is made of the posterior"),
        (lambda: pyrovae.VampPrior(2), ValueError, "prior 'vamp' is made of the posterior"),
        ("conditional", ValueError, "prior 'conditional' is one given covariates"),
        (lambda: pyrovae.ConditionalNormal(2, covariate_dim=3), ValueError, "is one given covariates"),
        (lambda: pyrovae.StandardNormal(3), ValueError, "prior must be of codes of 2 dimensions, .* is of 3"),
        (lambda: pyrovae.MixturePrior(1), ValueError, "prior must be of codes of 2 dimensions, .* is of 1"),
        (lambda: nn.Linear(2, 2), TypeError, "prior must have latent_dim"),
        (Discrete, ValueError, r"prior\(\) must give a distribution over a code, event shape \(2,\)"),
    ],
)
def test_a_prior_that_does_not_fit_is_refused_as_the_pair_is_made(prior, error, message):
    with pytest.raises(error, match=message):
        SemiSupervisedVAE((5,), 3, 2, hidden_dims=(7,), prior=prior if isinstance(prior, str) else prior())


def test_samples_of_a_label_have_its_mean():
    """Means of 20,000 draws against those of 100,000 codes, within 5 standard errors, and not of another label."""
    pair = small()
    z = torch.randn(100_000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    means = [pair.given(torch.eye(3, dtype=z.dtype)[c].expand(len(z), 3), z).mean.mean(0) for c in range(3)]
    drawn = pair.sample(1, 20_000, seed=0).mean(0)
    error = (means[1] * (1 - means[1]) * (1 / 20_000 + 1 / 100_000)).sqrt()
    assert ((drawn - means[1]).abs() < 5 * error).all()
    assert not ((drawn - means[2]).abs() < 5 * error).all()


# fit ------------------------------------------------------------------------------------------------


def test_a_fit_takes_names_and_is_repeatable():
    x, more = binary(6).float(), binary(40, seed=5).float()
    y, fitted = ["c", "a", "b", "a", "b", "c"], []
    for _ in range(2):
        torch.manual_seed(0)
        pair = SemiSupervisedVAE((5,), 3, 2, hidden_dims=(8,))
        before = torch.get_rng_state()
        history = fit(pair, x, y, unlabeled=more, validation=(x, y), epochs=2, batch_size=15, progress=False)
        assert torch.equal(before, torch.get_rng_state())
        fitted.append(torch.cat([p.detach().flatten() for p in pair.parameters()]))
    assert torch.equal(*fitted)
    assert pair.classes_.tolist() == ["a", "b", "c"]
    assert set(pair.predict(x)) <= {"a", "b", "c"}
    assert history.config["unlabeled_items"] == 40
    for name in ("loss", "labeled_loss", "unlabeled_loss", "cross_entropy", "validation_log_loss"):
        assert history.epochs[name].sizes == {"epoch": 2}
    assert list(methods_of(pair)) == ["semi_supervised_svi"]


def test_labels_alone_are_enough():
    pair, x = SemiSupervisedVAE((5,), 3, 2, hidden_dims=(8,)), binary(6).float()
    history = fit(pair, x, [0, 1, 2, 0, 1, 2], epochs=30, learning_rate=0.02, progress=False)
    assert "unlabeled_loss" not in history.epochs
    assert float(history.epochs.cross_entropy[-1]) < float(history.epochs.cross_entropy[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"y": None}, "learns from labels"),
        ({"y": [0, 0, 1, 1]}, "y has 2 classes .* and this SemiSupervisedVAE is for 3"),
        ({"y": [0, 1, 2]}, "y must have a label for each item of x"),
        ({"unlabeled": binary(4, features=4)}, "unlabeled must have shape"),
        ({"unlabeled": binary(4) + 0.5}, "unlabeled"),
        ({"unlabeled": binary(4) * torch.nan}, "unlabeled"),
        ({"validation": binary(4)}, "validation"),
        ({"alpha": -1.0}, "alpha"),
        ({"num_restarts": 3}, "num_restarts is an argument of EM"),
    ],
)
def test_what_does_not_fit_is_named_before_anything_changes(arguments, message):
    pair, x = small(), binary(4)
    before = [p.detach().clone() for p in pair.parameters()]
    given = {"y": [0, 1, 2, 2], **arguments}
    with pytest.raises((ValueError, TypeError), match=message):
        fit(pair, x, given.pop("y"), progress=False, **given)
    assert all(torch.equal(p, q) for p, q in zip(pair.parameters(), before, strict=True))


def test_a_class_without_a_labelled_item_and_a_strange_label_are_named():
    pair = SemiSupervisedVAE((5,), 3, 2, hidden_dims=(8,), classes=["a", "b", "c"])
    with pytest.raises(ValueError, match="class 'c' has no labelled item"):
        fit(pair, binary(4).float(), ["a", "b", "a", "b"], progress=False)
    with pytest.raises(ValueError, match="labels that are no class here: 'd'"):
        fit(pair, binary(4).float(), ["a", "b", "c", "d"], progress=False)
    with pytest.raises(ValueError, match="labels that are no class here: 'd'"):
        pair.sample("d", 2)
    with pytest.raises(ValueError, match="unlabeled items are for a GenerativeClassifier or a SemiSupervisedVAE"):
        fit(pyrovae.mlp_vae((5,)), binary(4).float(), unlabeled=binary(4))


@pytest.mark.parametrize("prior", [[0.5, 0.5], [0.5, 0.5, 0.5], [1.0, 0.0, 0.0], {0: 0.5, 1: 0.5, 7: 0.0}])
def test_a_class_prior_that_is_none_is_refused(prior):
    with pytest.raises(ValueError, match="class_prior must"):
        SemiSupervisedVAE((5,), 3, 2, hidden_dims=(8,), class_prior=prior)


def test_saved_and_loaded_it_is_the_same(tmp_path):
    pair, x = SemiSupervisedVAE((5,), 3, 2, hidden_dims=(8, 6), class_prior=PRIOR), binary(6).float()
    fit(pair, x, list("abcabc"), unlabeled=x, epochs=1, progress=False)
    pyrovae.save(tmp_path / "pair", pair)
    again = pyrovae.load(tmp_path / "pair")
    assert again.classes_.tolist() == ["a", "b", "c"]
    assert torch.equal(again.predict_log_proba(x), pair.predict_log_proba(x))
    assert torch.equal(again.log_joint(x, num_particles=5), pair.log_joint(x, num_particles=5))


def test_pyros_own_svi_trains_it():
    pair, x = small(), binary(20)
    pyro.clear_param_store()
    svi = pyro.infer.SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.02}), TraceEnum_ELBO(max_plate_nesting=1))
    losses = [svi.step(x) for _ in range(30)]
    pyro.clear_param_store()
    assert np.mean(losses[-10:]) < np.mean(losses[:10])


def test_options_are_a_frozen_dataclass():
    assert SemiSupervisedSVI(epochs=3).epochs == 3
    with pytest.raises(ValueError, match="schedule"):
        SemiSupervisedSVI(schedule="linear")


# the objective of a fit -----------------------------------------------------------------------------


def by_hand(pair, x, more, y):
    """L(x, y), U(x) and -log q(y | x) of a pair with 1-D codes, from its weights by NumPy and Gauss-Hermite nodes."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)

    def network(module):
        return [
            (one.weight.detach().numpy(), one.bias.detach().numpy())
            for one in module.modules()
            if isinstance(one, nn.Linear) and one.bias is not None
        ]

    (w, b), (v, c) = network(pair.likelihood.network)
    (wq, bq), (vq, cq) = network(pair.classifier)
    posterior = pair.posterior
    (wz, bz), (vl, cl), (vs, cs) = network(posterior)
    of_label = posterior.of_label.weight.detach().numpy()

    def bound(item, number):
        hidden = np.logaddexp(0, wz @ item + bz + of_label[:, number])
        loc, scale = (vl @ hidden + cl)[0], np.exp(10 * np.tanh((vs @ hidden + cs)[0] / 10))
        value = -math.log(PRIOR[number]) + (loc**2 + scale**2 - 1) / 2 - math.log(scale)
        for node, weight in zip(nodes, weights / weights.sum(), strict=True):
            logits = v @ np.logaddexp(0, w @ np.r_[loc + scale * node, np.eye(3)[number]] + b) + c
            value -= weight * (item @ logits - np.logaddexp(0, logits).sum())
        return value

    def log_q(item):
        logits = vq @ np.logaddexp(0, wq @ item + bq) + cq
        return logits - np.logaddexp.reduce(logits)

    labeled = [bound(item, number) for item, number in zip(x.numpy(), y, strict=True)]
    unlabeled = [sum(np.exp(q) * (bound(i, k) + q) for k, q in enumerate(log_q(i))) for i in more.numpy()]
    return sum(labeled), sum(unlabeled), [-log_q(item)[number] for item, number in zip(x.numpy(), y, strict=True)]


def test_the_loss_of_a_fit_is_equation_9_summed_by_hand():
    """J + alpha N mean(-log q(y | x)) over N items, alpha as in the paper: within 0.08 nats, 5 errors of draws.

    In the authors' own words for it, each of the N_l labelled items weighs its cross-entropy by alpha N / N_l.
    """
    pair, x, more, y, alpha = small(latent_dim=1), binary(4), binary(6, seed=3), [0, 2, 1, 1], 0.7
    labeled, unlabeled, cross_entropy = by_hand(pair, x, more, y)
    count = len(x) + len(more)
    wanted = (labeled + unlabeled + alpha * count / len(x) * sum(cross_entropy)) / count

    copies, epochs = 100, 4  # of every item, which changes no mean
    labels = y * copies
    how = {"learning_rate": 1e-30, "batch_size": 300, "labeled_batch_size": 400, "alpha": alpha, "progress": False}
    history = fit(pair, x.repeat(copies, 1), labels, unlabeled=more.repeat(copies, 1), epochs=epochs, **how)
    means = history.epochs["loss"].values
    error = means.std(ddof=1) / math.sqrt(epochs)
    assert abs(means.mean() - wanted) < 0.08
    assert error < 0.016
    assert math.isclose(float(history.epochs["cross_entropy"][0]), np.mean(cross_entropy), rel_tol=1e-9)
    as_a_sum = (labeled + unlabeled + alpha * sum(cross_entropy)) / count  # alpha with the sum over labelled items
    assert abs(means.mean() - as_a_sum) > 0.2
