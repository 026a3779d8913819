"""VAEs of tables: each kind of column against scipy, log p by numerical integration, units, missing entries, states."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from conftest import needs_compiler
from scipy import special, stats

import pyrovae
from pyrovae import Column, ColumnFamily, Gamma, table_vae
from pyrovae.models.parts.standardizer import Standardizer
from pyrovae.models.parts.table_input import TableInput

COLUMNS = (  # those of a kind do not lie together
    Column("height", "real"),
    Column("visits", "count"),
    Column("smoker", "binary", ("no", "yes")),
    Column("income", "positive"),
    Column("weight", "real"),
    Column("species", "categorical", ("a", "b", "c")),
    Column("stage", "ordinal", ("low", "middle", "high", "top")),
    Column("children", "count"),
)
OTHERS = {"height": "student_t(df=3.0)", "income": "gamma", "visits": "poisson", "children": "zero_inflated_poisson"}
KINDS = {
    "real": [Column(name, "real") for name in "abc"],
    "positive": [Column(name, "positive") for name in "abc"],
    "count": [Column(name, "count") for name in "abc"],
    "binary": [Column(name, "binary") for name in "abcdef"],
    "categorical": [Column(name, "categorical", 3 + (name == "b")) for name in "abc"],
    "ordinal": [Column(name, "ordinal", 3 + (name == "b")) for name in "abc"],
}
QUIET = {"epochs": 2, "batch_size": 32, "progress": False}


def pair_of(columns=COLUMNS, *, seed=0, measured=True, stretch=3.0, **options):
    """A pair in float64 whose decoder is far from constant, at locations and scales of its own."""
    torch.manual_seed(seed)
    vae = table_vae(columns, 1, hidden_dims=(8,), **options).double()
    with torch.no_grad():
        for name, parameter in vae.named_parameters():
            if "log_scale" in name or "log_size" in name or "raw_steps" in name:
                parameter.add_(0.5 * torch.randn_like(parameter))
        for layer in vae.likelihood.network.modules():
            if isinstance(layer, torch.nn.Linear):
                layer.weight.mul_(stretch)
        if measured:
            for each in standardizers(vae):
                each.loc.copy_(torch.linspace(0.5, 1.5, len(each.loc)))
                each.scale.copy_(torch.linspace(0.5, 2.0, len(each.loc)))
                each.measured.fill_(1)
    return vae


def standardizers(vae):
    return {id(m): m for m in vae.likelihood.modules() if isinstance(m, Standardizer)}.values()


def with_missing(x, share=0.3, *, seed=0):
    drawn = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed))
    return torch.where(drawn < share, math.nan, x)


def by_scipy(family, raw, x):
    """log p of each entry by scipy, from the network's outputs: raw (..., outputs) and x, broadcast, (..., D)."""
    values, start = np.zeros((*np.broadcast_shapes(raw.shape[:-1], x.shape[:-1]), x.shape[-1])), 0
    for part, each in zip(family.parts, family.groups, strict=True):
        which = list(part.columns)
        count, t = getattr(each, "num_parameters", 1), x[..., which]
        size = count * len(which)
        own = raw[..., start : start + size].reshape(*raw.shape[:-1], count, len(which))
        start += size
        first, kind = own[..., 0, :], type(each).__name__
        measured = next((s for s in family.standardizers if s.columns == part.columns), None)
        loc, scale = (0.0, 1.0) if measured is None else (measured.loc.numpy(), measured.scale.numpy())
        free = each.log_scale.detach().exp().numpy() if hasattr(each, "log_scale") else 0.0
        if kind == "Normal":
            p = stats.norm(loc + scale * first, scale * (1e-3 + free)).logpdf(t)
        elif kind == "StudentT":
            p = stats.t(3.0, loc + scale * first, scale * (1e-3 + free)).logpdf(t)
        elif kind == "LogNormal":
            p = stats.lognorm(scale * (1e-3 + free), scale=np.exp(loc + scale * first)).logpdf(t)
        elif kind == "Gamma":
            shape = (1e-3 + each.log_spread.detach().exp().numpy()) ** -2
            p = stats.gamma(shape, scale=np.exp(loc + scale * first) / shape).logpdf(t)
        elif kind == "NegativeBinomial":
            r, mean = each.log_size_change.detach().exp().numpy(), np.exp(loc + first)
            p = stats.nbinom(r, r / (r + mean)).logpmf(t)
        elif kind == "Poisson":
            p = stats.poisson(np.exp(loc + first)).logpmf(t)
        elif kind == "ZeroInflatedPoisson":
            gate = special.expit(own[..., 1, :])
            counted = np.log(1 - gate) + stats.poisson(np.exp(loc + first)).logpmf(t)
            p = np.where(t == 0, np.logaddexp(np.log(gate), counted), counted)
        elif kind == "Bernoulli":
            p = stats.bernoulli(special.expit(first)).logpmf(t)
        elif kind == "Categorical":
            table = special.log_softmax(own, -2)
            p = sum(np.where(t == k, table[..., k, :], 0.0) for k in range(count))
        else:
            cuts = np.cumsum(np.logaddexp(0, each.raw_steps.detach().numpy()) + 1e-4, -1)
            p = ordinal(first, np.concatenate([np.zeros_like(cuts[..., :1]), cuts], -1), t)
        values[..., which] = p
    assert start == raw.shape[-1]
    return values


def ordinal(loc, cuts, codes):
    """log p of codes by P(x <= k) = s(c_k - l)."""
    below = special.expit(cuts - loc[..., None])
    edges = np.concatenate([np.zeros_like(below[..., :1]), below, np.ones_like(below[..., :1])], -1)
    mass = np.diff(edges, axis=-1)
    return np.log(sum(np.where(codes == k, mass[..., k], 0.0) for k in range(mass.shape[-1])))


def integrated(vae, x):
    """log p of what is seen of each row, on a fine grid of codes, by scipy's families."""
    z = torch.linspace(-9, 9, 1801, dtype=torch.float64)[:, None]
    raw = vae.likelihood.network(z).detach().numpy()
    x = x.numpy()
    fills = np.where(np.isnan(x), 1.0, x)
    log_p = np.where(np.isnan(x), 0.0, by_scipy(vae.likelihood.family, raw[:, None], fills)).sum(-1)
    return special.logsumexp(log_p + stats.norm.logpdf(z.numpy()), axis=0) + math.log(0.01)


@pytest.mark.parametrize("families", [None, OTHERS], ids=["defaults", "others"])
def test_every_kind_of_column_is_scored_as_by_scipy(families):
    vae = pair_of(families=families)
    x, raw = vae.sample(40, seed=1), torch.randn(40, vae.likelihood.family.outputs, dtype=torch.float64)
    p = vae.likelihood.family(raw)
    assert p.batch_shape == (40, 8) and p.event_shape == ()
    np.testing.assert_allclose(p.log_prob(x).detach(), by_scipy(vae.likelihood.family, raw.numpy(), x.numpy()), 1e-10)
    # any leading shape, as of several draws for each item
    table = vae.likelihood.family(raw[:3, None]).log_prob(x)
    assert table.shape == (3, 40, 8)
    torch.testing.assert_close(table[2, 2], p.log_prob(x)[2])


@pytest.mark.parametrize("missing", [pytest.param(False, marks=pytest.mark.slow), True])
def test_log_p_is_that_of_a_fine_grid(missing):
    vae = pair_of(families={"real": "normal(per_entry=True)"})
    x = vae.sample(30, seed=2)
    x = with_missing(x) if missing else x
    value = pyrovae.quadrature(vae, x, tol=1e-8, missing=missing).pointwise["value"].values
    np.testing.assert_allclose(value, integrated(vae, x), atol=1e-6)
    if missing:  # control: a missing entry counted as a value
        taken = integrated(vae, x.nan_to_num(1.0))
        assert (np.abs(value - taken)[x.isnan().any(1)] > 0.1).mean() > 0.9


def agrees(vae, x, scored):
    """Whether exp(iwae(x) - log p(scored)) has mean 1 over items: by chance beyond 4 errors once in 16,000 times."""
    with torch.no_grad():  # a guide wider than the posterior, so that no weight is large
        for head in (vae.posterior.loc, vae.posterior.raw_log_scale):
            head.weight.mul_(0.2)
            head.bias.zero_()
        vae.posterior.raw_log_scale.bias.fill_(math.log(1.5))
    log_p = pyrovae.quadrature(vae, scored, missing=True).pointwise["value"].values
    bound = pyrovae.iwae(vae, x, num_particles=200, seed=3, missing=True).pointwise["value"].values
    ratio = np.exp(bound - log_p)
    return abs(ratio.mean() - 1) < 4 * ratio.std() / math.sqrt(len(ratio))


@pytest.mark.slow
def test_importance_weights_have_the_mean_of_quadrature():
    vae = pair_of(stretch=1.5)
    x = with_missing(vae.sample(100, seed=4))
    assert agrees(vae, x, x)
    assert not agrees(vae, torch.where(x.isnan(), 1.0, x), x)  # control: a missing entry counted as a value


@pytest.mark.parametrize("missing", [pytest.param(False, marks=pytest.mark.long), True])
@pytest.mark.parametrize("kind", [pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS])
@pytest.mark.filterwarnings("ignore:.*have no entry that was seen")
def test_importance_weights_have_the_mean_of_quadrature_for_each_kind(kind, missing):
    vae = pair_of(KINDS[kind], stretch=1.5)
    x = vae.sample(300, seed=4)
    x = with_missing(x) if missing else x
    assert agrees(vae, x, x)


@pytest.mark.parametrize("name", ["height", "income"])
def test_a_column_times_1000_lowers_log_p_by_log_1000_where_it_is_seen(name):
    j = [column.name for column in COLUMNS].index(name)
    vae, other = pair_of(), pair_of()
    x = with_missing(vae.sample(30, seed=5))
    times = x.clone()
    times[:, j] *= 1000
    each = next(s for s in standardizers(other) if j in s.columns)
    at = each.columns.index(j)
    if name == "income":
        each.loc[at] += math.log(1000)
    else:
        each.loc[at] *= 1000
        each.scale[at] *= 1000
    before, after = (
        pyrovae.quadrature(pair, rows, missing=True).pointwise["value"].values
        for pair, rows in ((vae, x), (other, times))
    )
    seen = (~x[:, j].isnan()).double().numpy()
    np.testing.assert_allclose(before - after, math.log(1000) * seen, rtol=0, atol=1e-9)
    assert not np.allclose(before - after, math.log(1000), atol=1e-9)  # control: counted where it is missing too


@pytest.mark.slow
def test_a_refit_in_other_units_and_a_shift():
    x = with_missing(pair_of().sample(64, seed=6), 0.2)
    times, shifted = x.clone(), x.clone()
    times[:, [0, 3]] *= 1024
    shifted[:, 4] += 64
    means = []
    for rows in (x, times, shifted):
        vae = pair_of(measured=False, stretch=1.0)
        pyrovae.fit(vae, rows, missing=True, **QUIET)
        means.append(pyrovae.quadrature(vae, rows, missing=True).mean)
    lower = math.log(1024) * float((~x[:, [0, 3]].isnan()).double().sum()) / len(x)
    assert means[0] - means[1] == pytest.approx(lower, abs=1e-6)
    assert means[0] == pytest.approx(means[2], abs=1e-6)


@pytest.mark.slow
def test_location_and_scale_are_those_of_what_is_seen_of_the_training_part():
    x = with_missing(pair_of().sample(64, seed=6), 0.2)
    vae = pair_of(measured=False, stretch=1.0)
    held_out = x.clone()
    held_out[:, [0, 1, 3, 4, 7]] *= 1000  # which nothing of the pair may depend on
    pyrovae.fit(vae, x, missing=True, validation=pyrovae.data.Split(held_out, missing=True), **QUIET)
    for each in standardizers(vae):
        t = {"identity": np.asarray, "log": np.log, "log1p": np.log1p}[each.sees](x[:, list(each.columns)].numpy())
        np.testing.assert_allclose(each.loc, np.nanmean(t, 0), rtol=1e-12)
        np.testing.assert_allclose(each.scale, np.nanstd(t, 0), rtol=1e-12)


def test_the_encoder_sees_standardised_numbers_categories_one_hot_and_the_mask():
    vae = pair_of(COLUMNS[:6])
    seen = next(m for m in vae.posterior.modules() if isinstance(m, TableInput))
    assert vae.takes_missing
    (real, count, positive) = standardizers(vae)
    for each in (real, count, positive):
        each.loc.fill_(1.0)
        each.scale.fill_(2.0)
    whole = torch.tensor([[5.0, 3.0, 1.0, math.exp(3.0), -1.0, 1.0]], dtype=torch.float64)
    expected = {0: [2.0], 4: [-1.0], 1: [(math.log(4.0) - 1) / 2], 3: [1.0], 2: [1.0], 5: [0.0, 1.0, 0.0]}
    flat = [value for values in expected.values() for value in values]
    torch.testing.assert_close(seen(whole), torch.tensor([[*flat, *[1.0] * 6]], dtype=torch.float64))
    for j in range(6):
        rows = whole.clone()
        rows[0, j] = math.nan
        features = [0.0 if k == j else value for k, values in expected.items() for value in values]
        mask = [float(k != j) for k in range(6)]
        torch.testing.assert_close(seen(rows), torch.tensor([[*features, *mask]], dtype=torch.float64))
    middle = torch.tensor([[1.0, 2.0, 1.0, math.exp(1.0), 1.0, 1.0]], dtype=torch.float64)
    missing = torch.tensor([[math.nan, 2.0, 1.0, math.nan, math.nan, 1.0]], dtype=torch.float64)
    assert not torch.allclose(vae.encode(middle), vae.encode(missing, missing=True))  # the mask tells them apart


def test_decoded_rows_and_probabilities():
    vae = pair_of()
    z = torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None]
    p = vae.likelihood(z).base_dist
    row, tables = vae.decode(z), vae.probabilities(z)
    assert list(tables) == ["smoker", "species", "stage"]
    assert [table.shape for table in tables.values()] == [(5, 2), (5, 3), (5, 4)]
    for name, table in tables.items():
        j = [column.name for column in COLUMNS].index(name)
        torch.testing.assert_close(table.sum(-1), torch.ones(5).double())
        codes = torch.zeros(table.shape[-1], 5, 8, dtype=torch.float64) + 1.0
        codes[..., j] = torch.arange(table.shape[-1], dtype=torch.float64)[:, None]
        torch.testing.assert_close(p.log_prob(codes)[..., j].T.exp(), table)
        shown = table[:, 1] if name == "smoker" else table.argmax(-1).double()
        torch.testing.assert_close(row[:, j], shown)
    one = vae.probabilities(z[0])
    torch.testing.assert_close(one["stage"], tables["stage"][0])
    draws = vae.likelihood(z[:1].expand(20_000, 1)).sample()
    for j in (0, 1, 4, 7):  # 4 columns, 5 standard errors: by chance once in 400,000 times
        error = draws[:, j].std() / math.sqrt(len(draws))
        assert abs(draws[:, j].mean() - row[0, j]) < 5 * error
    for name in ("species", "stage"):
        j = [column.name for column in COLUMNS].index(name)
        counts = torch.bincount(draws[:, j].long(), minlength=len(tables[name][0]))
        assert stats.chisquare(counts, 20_000 * tables[name][0].detach().numpy()).pvalue > 1e-6


@pytest.mark.slow
def test_draws_of_what_is_missing_lie_in_each_columns_values():
    vae = pair_of(stretch=1.0)
    x = with_missing(vae.sample(6, seed=7), 0.5)
    draws = vae.impute(x, num_draws=3, num_steps=5)
    assert vae.likelihood.support.check(draws).all()
    assert torch.equal(draws[0][~x.isnan()], x[~x.isnan()])


@pytest.mark.slow
def test_a_pair_is_saved_with_its_columns_and_their_order(tmp_path):
    vae = pair_of(families={"income": Gamma(initial_shape=2.0, per_entry=True), "count": "poisson"})
    again = pyrovae.load(pyrovae.save(tmp_path / "state", vae))
    assert again.columns == COLUMNS == vae.columns
    assert again.columns[6].categories == ("low", "middle", "high", "top")
    x = with_missing(vae.sample(5, seed=8))
    assert torch.equal(again.encode(x, missing=True), vae.encode(x, missing=True))
    z = torch.zeros(1, 1, dtype=torch.float64)
    row = vae.sample(1, seed=9)
    assert torch.equal(again.likelihood(z).log_prob(row), vae.likelihood(z).log_prob(row))
    other = (*COLUMNS[:6], Column("stage", "ordinal", ("top", "high", "middle", "low")), COLUMNS[7])
    families = {"income": Gamma(initial_shape=2.0, per_entry=True), "count": "poisson"}
    with pytest.raises(pyrovae.CheckpointError, match=r"recipe\.columns"):
        pyrovae.load(tmp_path / "state", like=table_vae(other, 1, hidden_dims=(8,), families=families))


def test_order_counts_for_ordinal_columns_and_not_for_categorical_ones():
    """Of ordinal codes the next one is the likelier the nearer; a decoder that is linear cannot peak in two places."""
    family = ColumnFamily([Column("stage", "ordinal", 4), Column("species", "categorical", 4)])
    raw = torch.zeros(41, 5)
    raw[:, 0] = torch.linspace(-10, 10, 41)
    tables = family.by_column(family(raw))
    expected = (tables["stage"] * torch.arange(4.0)).sum(-1)
    assert (expected.diff() > 0).all() and expected[0] < 0.01 and expected[-1] > 2.99
    assert (tables["species"] == 0.25).all()


def test_families_are_those_of_kinds_and_columns():
    family = ColumnFamily(COLUMNS, {"real": "laplace", "weight": "heteroscedastic_normal"})
    kinds = {tuple(COLUMNS[j].name for j in part.columns): type(each).__name__ for part, each in family._pairs()}
    assert kinds[("height",)] == "Laplace" and kinds[("weight",)] == "HeteroscedasticNormal"
    assert kinds[("visits", "children")] == "NegativeBinomial"
    assert [ColumnFamily(KINDS[kind]).base_measure for kind in ("real", "positive", "count", "ordinal")] == [
        "density",
        "density",
        "mass",
        "mass",
    ]


WRONG = [
    (
        {"income": "normal"},
        ValueError,
        "column 'income' is positive, and normal.* its support is Real.*'log_normal' or",
    ),
    ({"visits": "normal"}, ValueError, "column 'visits' is count"),
    ({"species": "ordinal"}, ValueError, "column 'species' is categorical, with 3 categories, and ordinal"),
    ({"species": "categorical(num_classes=2)"}, ValueError, "with 3 categories, and categorical"),
    ({"wage": "gamma"}, ValueError, r"families\['wage'\]: it is no kind \(real, .* and no column \(height, "),
    ({"real": 3}, TypeError, r"families\['real'\] must be a registered name or a module"),
    ("gamma", TypeError, "families must be a dictionary"),
]


@pytest.mark.parametrize(("families", "error", "message"), WRONG, ids=[str(each[0]) for each in WRONG])
def test_families_that_do_not_fit_are_refused(families, error, message):
    with pytest.raises(error, match=message):
        table_vae(COLUMNS, families=families)


def test_what_is_no_table_is_refused():
    with pytest.raises(ValueError, match="no column is of that kind; the columns are a \\(real\\)"):
        table_vae(KINDS["real"], families={"count": "poisson"})
    with pytest.raises(ValueError, match="may be the column of that name or all columns of that kind"):
        table_vae([Column("count", "count")], families={"count": "poisson"})
    with pytest.raises(ValueError, match="columns of a table's likelihood must be given"):
        pyrovae.mlp_vae((3,), likelihood="columns")
    with pytest.raises(ValueError, match=r"a row of these columns has shape \(3,\)"):
        pyrovae.mlp_vae((4,), likelihood=ColumnFamily(KINDS["real"]))
    with pytest.raises(ValueError, match="must give one row of 10 outputs"):
        pyrovae.Likelihood(torch.nn.Linear(1, 8), ColumnFamily(COLUMNS), (8,))(torch.zeros(2, 1))
    with pytest.raises(TypeError, match=r"columns must be pyrovae\.Column"):
        table_vae(["age"])
    vae = pair_of()
    rows = vae.sample(3, seed=9)
    rows[1, 5] = 3
    for call in (vae.encode, lambda x: pyrovae.iwae(vae, x), lambda x: pyrovae.fit(vae, x, **QUIET), vae.impute):
        with pytest.raises(ValueError, match=r"column 'species' of x is categorical .* x\[1, 5\] = 3"):
            call(rows)
    with pytest.raises(ValueError, match="NaN"):
        pyrovae.iwae(vae, with_missing(vae.sample(3, seed=9)))
    assert not hasattr(pyrovae.mlp_vae((3,)), "columns")


def test_a_likelihood_without_a_family_has_no_columns():
    plain = pyrovae.mlp_vae((3,), hidden_dims=(2,))

    class Own(torch.nn.Module):
        event_shape, support = (3,), torch.distributions.constraints.boolean

        def forward(self, z):
            return plain.likelihood(z)

    vae = pyrovae.VAE(plain.prior, Own(), plain.posterior)
    assert vae.encode(torch.zeros(2, 3)).shape == (2, 2) and not hasattr(vae, "columns")
    assert pyrovae.elbo(pyrovae.Ensemble([plain, plain]), torch.zeros(2, 3)).pointwise.sizes["item"] == 2


@pytest.mark.slow
def test_tables_of_other_kinds_are_not_compared():
    counts = (Column("a", "real"), Column("b", "count"), Column("c", "binary"))
    other = (Column("a", "real"), Column("b", "count"), Column("c", "real"))
    x = torch.tensor([[0.5, 2.0, 1.0], [1.5, 0.0, 0.0]], dtype=torch.float64)
    first, again, second = (
        pyrovae.elbo(pair_of(columns, seed=seed), x) for columns, seed in ((counts, 0), (counts, 1), (other, 0))
    )
    assert first.pointwise.attrs["base_measure"] == second.pointwise.attrs["base_measure"] == "mixed"
    assert np.isfinite((first - again).mean)
    with pytest.raises(ValueError, match=r"discrete are \(b, c\) in one and \(b\) in the other"):
        first - second
    with pytest.raises(ValueError, match="bits per dimension"):
        _ = first.bits_per_dimension


@pytest.mark.slow
def test_constant_columns_are_named():
    x = pair_of().sample(40, seed=1)
    x[:, 0] = 5.0
    with pytest.warns(UserWarning, match=r"column 'height' \(all 5\)"):
        pyrovae.fit(pair_of(measured=False), x, **QUIET)


@pytest.mark.long
@needs_compiler
def test_a_compiled_step_is_the_eager_one():
    x = with_missing(pair_of().sample(64, seed=6), 0.2)
    weights = []
    for compiled in (False, True):
        vae = pair_of(measured=False, stretch=1.0)
        history = pyrovae.fit(vae, x, missing=True, compile=compiled, **QUIET)
        assert history.config["compiled"] is compiled
        weights.append(torch.nn.utils.parameters_to_vector(vae.parameters()))
    torch.testing.assert_close(*weights, rtol=1e-8, atol=1e-10)


@pytest.mark.long
def test_a_fitted_table_recovers_what_columns_tell_of_each_other():
    """One code behind all columns: imputing by the others beats the column's own mean, for each kind."""
    torch.manual_seed(0)
    z = torch.randn(600)
    x = torch.stack(
        [
            170 + 10 * (z + 0.3 * torch.randn(600)),
            torch.poisson(torch.exp(1 + z)),
            (z + 0.3 * torch.randn(600) > 0).float(),
            torch.exp(10 + z + 0.3 * torch.randn(600)),
            1e-3 * (z + 0.3 * torch.randn(600)),
            (z + 0.3 * torch.randn(600) > 0.5).float() + (z > -0.5),
            ((z + 0.3 * torch.randn(600))[:, None] > torch.tensor([-1.0, 0.0, 1.0])).sum(-1).float(),
            torch.poisson(torch.exp(6 + 0.5 * z)),
        ],
        -1,
    )
    torch.manual_seed(0)
    vae = table_vae(COLUMNS, 1, hidden_dims=(16,))
    pyrovae.fit(vae, x[:500], epochs=100, batch_size=100, learning_rate=1e-2, progress=False)
    test = x[500:]

    def log_p(*arguments, **options):
        return pyrovae.quadrature(*arguments, **options).pointwise["value"]

    for j, column in enumerate(COLUMNS):
        hidden = test.clone()
        hidden[:, j] = math.nan
        joint = (
            pyrovae.quadrature(vae, test).pointwise["value"]
            - pyrovae.quadrature(vae, hidden, missing=True).pointwise["value"]
        )
        alone = table_vae([column], 1, hidden_dims=(4,))
        pyrovae.fit(alone, x[:500, j : j + 1], epochs=100, batch_size=100, learning_rate=1e-2, progress=False)
        difference = joint - log_p(alone, test[:, j : j + 1])
        assert float(difference.mean()) > 2 * float(difference.std()) / 10, column


@pytest.mark.slow
def test_a_table_whose_codes_stand_for_other_categories_is_refused():
    frame = {"height": [1.5, 1.7, None, 1.6], "size": ["S", "M", "M", "L"], "visits": [0, 3, 1, 7]}
    table = pyrovae.data.table(frame, kinds={"size": ("ordinal", ("S", "M", "L"))})
    torch.manual_seed(0)
    vae = table_vae(table, 1, hidden_dims=(4,))
    assert vae.columns == table.columns
    pyrovae.fit(vae, table, **QUIET)
    assert vae.encode(table).shape == (4, 1)
    assert table.frame(vae.impute(table, num_draws=2, num_steps=3))[0]["size"] == frame["size"]
    reversed_order = pyrovae.data.table(frame, kinds={"size": ("ordinal", ("L", "M", "S"))})
    other_kind = pyrovae.data.table(frame, kinds={"size": ("ordinal", ("S", "M", "L")), "visits": "real"})
    for wrong, message in (
        (reversed_order, "column 1 of x is 'size', ordinal, its codes"),
        (other_kind, "'visits', real"),
    ):
        for call in (vae.encode, vae.impute, lambda x: pyrovae.iwae(vae, x), lambda x: pyrovae.fit(vae, x, **QUIET)):
            with pytest.raises(ValueError, match=message):
                call(wrong)
    with pytest.raises(ValueError, match="x is a table of 2 columns, and this VAE is one of 3"):
        vae.encode(pyrovae.data.table({name: frame[name] for name in ("height", "visits")}))
