"""`to_arviz`: its groups, on either version of ArviZ, and a chain from fit to a file read back."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
import xarray as xr

import pyrovae

az = pytest.importorskip("arviz")


PARTS = ("elbo", "rate", "distortion")
IN_NATS = ("log_evidence", "se", *PARTS, *(f"{name}_se" for name in PARTS))


@pytest.fixture(scope="module")
def fitted():
    digits = pyrovae.data.load("digits")
    torch.manual_seed(0)
    vae = pyrovae.mlp_vae((1, 8, 8), 2, hidden_dims=(32,))
    pyrovae.fit(vae, digits.train.x, binarize=True, epochs=30, learning_rate=5e-3, progress=False)
    x = pyrovae.data.binarize(digits.test.x[:12])
    return vae, x, digits.test.y[:12]


@pytest.fixture(scope="module")
def bound(fitted):
    """An evidence that costs little, for what does not look at it."""
    return pyrovae.elbo(*fitted[:2], num_particles=2)


def exported(fitted, **options):
    vae, x, y = fitted
    return pyrovae.to_arviz(vae, x, **{"y": y, "num_draws": 50, **options})


def by_item(tree):
    """The group `log_evidence`, whose values are the same at each draw."""
    rows = tree["log_evidence"]
    rows = rows.to_dataset() if isinstance(rows, xr.DataTree) else rows
    one = rows.isel(chain=0, draw=0)
    xr.testing.assert_equal(rows, one.drop_vars(["chain", "draw"]).broadcast_like(rows))
    return one


def test_the_groups_and_their_labelled_dimensions(fitted):
    tree = exported(fitted)
    expected = {
        "posterior": {"latent": ("chain", "draw", "item", "latent_dim")},
        "posterior_predictive": {"obs": ("chain", "draw", "item", "event_0", "event_1", "event_2")},
        "prior": {"latent": ("chain", "draw", "item", "latent_dim")},
        "prior_predictive": {"obs": ("chain", "draw", "item", "event_0", "event_1", "event_2")},
        "observed_data": {"obs": ("item", "event_0", "event_1", "event_2")},
        "constant_data": {"label": ("item",)},
        "sample_stats": {"log_weight": ("chain", "draw", "item")},
        "log_evidence": {name: ("chain", "draw", "item") for name in (*IN_NATS, "pareto_k", "unreliable")},
    }
    assert set(_groups(tree)) == set(expected)
    for group, variables in expected.items():
        found = tree[group]
        assert {name: found[name].dims for name in found.data_vars} == variables
        for variable in (*found.data_vars.values(), *found.coords.values()):
            assert variable.attrs["long_name"]
            assert variable.attrs["units"] == ("nats" if variable.name in (*IN_NATS, "log_weight") else "1")
        assert found.attrs["inference"] == "draws of q(z|x), not MCMC"
    assert "log_likelihood" not in _groups(tree)


def test_items_with_gradients_are_exported_as_they_are_without(fitted):
    vae, x, y = fitted
    with_gradients = pyrovae.to_arviz(vae, x.clone().requires_grad_(), y=y, num_draws=3)
    without = pyrovae.to_arviz(vae, x, y=y, num_draws=3)
    for group in _groups(without):
        xr.testing.assert_identical(*(_values(tree, group) for tree in (with_gradients, without)))
    assert vae.encode(x).requires_grad and vae.reconstruct(x).requires_grad


def _values(tree, group):
    found = tree[group]
    dataset = found.to_dataset() if isinstance(found, xr.DataTree) else found
    return dataset.drop_attrs()


def test_the_numbers_are_the_pairs_own(fitted):
    vae, x, y = fitted
    tree = exported(fitted, num_draws=400)
    with torch.no_grad():
        z = torch.as_tensor(tree["posterior"]["latent"].values[0])
        items = x.to(z)  # a network takes no other dtype than its own
        q, p = vae.posterior(items), vae.prior()
        parts = {"rate": q.log_prob(z) - p.log_prob(z), "distortion": -vae.likelihood(z).log_prob(items)}
    parts["elbo"] = -(parts["rate"] + parts["distortion"])
    assert np.allclose(tree["sample_stats"]["log_weight"].values[0], parts["elbo"], atol=1e-3)
    rows = by_item(tree)
    for name, each in parts.items():
        assert np.allclose(rows[name].values, each.mean(0), atol=1e-3)
        assert np.allclose(rows[f"{name}_se"].values, each.std(0) / 20, atol=1e-3)
    # the draws follow their laws: means and variances of 9,600 standard normal scores, false alarm 3e-4 in all
    score = ((z - q.mean) / q.stddev).numpy()
    prior = tree["prior"]["latent"].values[0]
    for draws in (score, prior):
        assert abs(draws.mean()) < 4 / np.sqrt(draws.size)
        assert abs(draws.var() - 1) < 4 * np.sqrt(2 / draws.size)
    for group, codes in (("posterior", z), ("prior", torch.as_tensor(prior))):
        with torch.no_grad():
            mean = vae.decode(codes).numpy()
        obs = tree[f"{group}_predictive"]["obs"].values[0]
        assert set(np.unique(obs)) == {0.0, 1.0}
        # bits of these very codes: their sum, and their sum weighed by the log-odds, which other codes' bits miss
        for weight in (1.0, np.log(mean) - np.log1p(-mean)):
            spread = np.sqrt((mean * (1 - mean) * weight**2).sum())
            assert abs((weight * (obs - mean)).sum()) < 4 * spread
    assert np.array_equal(tree["constant_data"]["label"].values, y.numpy())
    assert np.array_equal(tree["observed_data"]["obs"].values, x.numpy())


def test_the_evidence_is_the_one_given_with_its_protocol(fitted):
    vae, x, _ = fitted
    truth = pyrovae.quadrature(vae, x).named(data="digits", binarization="sampled, seed 0")
    given = by_item(exported(fitted, evidence=truth))
    assert np.array_equal(given["log_evidence"].values, truth.pointwise.value.values)
    assert np.array_equal(given["se"].values, truth.pointwise.se.values)
    for name in ("data", "binarization", "base_measure", "base_measure_scale", "items_binary"):
        assert given.attrs[name] == truth.pointwise.attrs[name]
    assert given.attrs["evidence_tol"] == 1e-4
    taken = by_item(exported(fitted))
    assert exported(fitted, evidence=pyrovae.iwae(vae, x, seed=7))["log_evidence"].attrs["evidence_seed"] == "7"
    own = pyrovae.iwae(vae, x)
    for name in ("pareto_k", "se"):
        assert np.array_equal(taken[name].values, own.pointwise[name].values)
    assert taken.attrs["evidence_num_particles"] == 1000
    assert (abs(taken["log_evidence"] - given["log_evidence"]) < 5 * taken["se"] + 0.05).all()
    assert (taken["elbo"].values < given["log_evidence"].values + 4 * taken["elbo_se"].values).all()


@pytest.mark.parametrize("draws", [1, np.int64(3), 40])
def test_counts_chunks_and_large_seeds(fitted, monkeypatch, tmp_path, draws):
    from pyrovae import export

    whole = exported(fitted, num_draws=draws, seed=2**70)
    own = fitted[0].prior.loc.numpy().dtype  # float32, where that is torch's default
    assert whole["posterior"]["latent"].values.dtype == own
    monkeypatch.setattr(export, "MAX_BYTES", 7 * 64 * 6 * own.itemsize)  # seven rows
    parts = exported(fitted, num_draws=draws)
    for tree in (whole, parts):
        assert tree["posterior_predictive"]["obs"].shape == (1, int(draws), 12, 1, 8, 8)
        assert np.isfinite(tree["sample_stats"]["log_weight"].values).all()
        assert np.isnan(tree["log_evidence"]["elbo_se"].values).all() == (draws == 1)
        tree.to_netcdf(tmp_path / "file.nc")
    vae = pyrovae.mlp_vae((3,)).to(torch.bfloat16)
    assert pyrovae.to_arviz(vae, torch.eye(3), num_draws=2)["prior"]["latent"].values.dtype == np.float32


def test_fit_export_summary_predictive_plot_save_and_read(fitted, tmp_path):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    tree = exported(fitted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = az.summary(tree, var_names=["latent"], kind="stats")
        assert len(table) == 24
        mean = tree["posterior"]["latent"].mean(("chain", "draw")).values.flatten()
        assert np.allclose(table["mean"].astype(float), mean, atol=0.01)
        (az.plot_ppc if hasattr(az, "plot_ppc") else az.plot_ppc_dist)(tree)
        tree.to_netcdf(tmp_path / "own.nc")
    # as the other version writes: 1.x a DataTree at once, 0.x one group after the other
    groups = {name: tree[name].to_dataset() if isinstance(tree, xr.DataTree) else tree[name] for name in _groups(tree)}
    xr.DataTree.from_dict(groups).to_netcdf(tmp_path / "tree.nc", engine="h5netcdf")
    for i, (name, dataset) in enumerate(groups.items()):
        dataset.to_netcdf(tmp_path / "groups.nc", mode="a" if i else "w", group=name, engine="h5netcdf")
    for file in ("own.nc", "tree.nc", "groups.nc"):
        # and as either reads
        for read in (az.from_netcdf(tmp_path / file), xr.open_datatree(tmp_path / file, engine="h5netcdf")):
            assert set(_groups(read)) == set(groups)
            for group, dataset in groups.items():
                for name, variable in dataset.data_vars.items():
                    found = read[group][name]
                    assert found.dims == variable.dims
                    assert np.array_equal(found.values, variable.values)
                    assert found.attrs["units"] == variable.attrs["units"]
                assert read[group].attrs["pair_sha256"] == tree["posterior"].attrs["pair_sha256"]
            if hasattr(read, "close"):
                read.close()


def test_two_exports_are_concatenated_along_either_dimension(fitted, tmp_path):
    one, other = exported(fitted, num_draws=5), exported(fitted, num_draws=7, seed=1)
    for dim, given in (("chain", (one, exported(fitted, num_draws=5, seed=1))), ("draw", (one, other))):
        groups = [name for name in _groups(one) if not name.endswith("_data")]
        if hasattr(az, "concat"):
            both = az.concat(*given, dim=dim)
            both.to_netcdf(tmp_path / f"{dim}.nc")
        else:  # ArviZ 1.x leaves it to xarray
            both = {name: xr.concat([tree[name].to_dataset() for tree in given], dim) for name in groups}
        for name in groups:
            for variable in given[0][name].data_vars:
                parts = [tree[name][variable].values for tree in given]
                expected = np.concatenate(parts, axis=("chain", "draw").index(dim))
                assert np.array_equal(both[name][variable].values, expected, equal_nan=True)
                assert name == "log_evidence" or both[name]["label"].values.tolist() == fitted[2].tolist()
    # nothing of a group is lost where draws are chosen
    few = {name: one[name].sel(draw=slice(3, None)) for name in ("posterior", "log_evidence")}
    assert few["log_evidence"].sizes["draw"] == few["posterior"].sizes["draw"] == 2


def test_a_data_frame_has_every_group(fitted):
    tree = exported(fitted, num_draws=5)
    if hasattr(tree, "to_dataframe"):  # ArviZ 0.x
        frame = tree.to_dataframe()
        assert len(frame) == 5
        values = frame[("log_evidence", "se[3]", 3)].to_numpy()
        assert len(tree.to_dataframe(groups="log_evidence")) == 5
        codes = frame[("posterior", "latent[3,1]", 3, 1)].to_numpy()
    else:
        frame = tree["log_evidence"].to_dataset().to_dataframe()
        values = frame["se"].xs(3, level="item").to_numpy()
        codes = tree["posterior"].to_dataset().to_dataframe()["latent"].xs((3, 1), level=("item", "latent_dim"))
    assert np.array_equal(values, np.repeat(by_item(tree)["se"].values[3], 5))
    assert np.array_equal(codes, tree["posterior"]["latent"].values[0, :, 3, 1])


def test_labels_are_a_coordinate_of_the_items(fitted):
    tree, labels = exported(fitted), fitted[2].numpy()
    for name in ("posterior", "posterior_predictive", "prior", "prior_predictive", "observed_data", "sample_stats"):
        assert tree[name]["label"].dims == ("item",) and "label" in tree[name].coords
        assert np.array_equal(tree[name]["label"].values, labels)
    codes = tree["posterior"]["latent"]
    means = codes.groupby("label").mean(("chain", "draw", "item"))
    for label in np.unique(labels):
        own = codes.values[0][:, labels == label]
        assert np.allclose(means.sel(label=label).values, own.mean((0, 1)), atol=1e-5)
    assert "label" not in exported(fitted, y=None)["posterior"].coords


def test_a_bayesian_mixtures_draws_are_weighed_summarised_and_joined():
    x = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    trees = []
    for components in (1, 2):
        torch.manual_seed(0)
        mixture = pyrovae.BayesianGaussianMixture((2,), components)
        trees.append(pyrovae.to_arviz(mixture, x, y=["a", "b"] * 20, num_draws=60))
        assert trees[-1]["log_likelihood"]["label"].values.tolist() == ["a", "b"] * 20
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loo = az.loo(trees[0], pointwise=True)
        assert (loo.loo_i if hasattr(loo, "loo_i") else loo.elpd_i).shape == (40,)
        assert set(az.compare({"one": trees[0], "two": trees[1]}).index) == {"one", "two"}
        assert len(az.summary(trees[0], kind="stats")) == 1 + 2 + 2 + 4
    if hasattr(az, "concat"):
        assert az.concat(*trees[:1] * 2, dim="chain")["log_likelihood"]["obs"].shape == (2, 60, 40)
        assert len(trees[0].to_dataframe(groups=["posterior", "log_likelihood"])) == 60


def test_each_group_says_when_and_by_what_it_was_made(fitted, tmp_path):
    from datetime import UTC, datetime, timedelta

    before = datetime.now(UTC)
    tree = exported(fitted, num_draws=2)
    mixture = pyrovae.to_arviz(pyrovae.BayesianGaussianMixture((2,), 1), torch.zeros(3, 2), num_draws=2)
    for each in (tree, mixture):
        for where in (each, *(each[name] for name in _groups(each))):
            made = datetime.fromisoformat(where.attrs["created_at"])
            assert timedelta(0) <= made - before < timedelta(minutes=5)
            for what in ("creation_library", "inference_library"):
                assert where.attrs[what] == "pyrovae"
                assert where.attrs[f"{what}_version"] == pyrovae.__version__
    tree.to_netcdf(tmp_path / "file.nc")
    with xr.open_datatree(tmp_path / "file.nc", engine="h5netcdf") as read:
        assert read["log_evidence"].attrs["created_at"] == tree["posterior"].attrs["created_at"]


def test_there_is_nothing_for_loo_to_mislead_with(fitted):
    tree = exported(fitted)
    with pytest.raises((TypeError, ValueError, KeyError), match=r"log.likelihood"):
        az.loo(tree)  # PSIS-LOO on log p(x | z) would be the harmonic mean


def test_labels_of_every_kind_and_none(fitted, bound, tmp_path):
    assert "constant_data" not in _groups(exported(fitted, y=None, evidence=bound))
    words = [f"class {i}" for i in range(12)]
    kinds = (words, np.array(words), np.array(words, object), list(range(12)), np.arange(12) % 2 == 0)
    for i, given in enumerate(kinds):
        tree = exported(fitted, y=given, num_draws=2, evidence=bound)
        assert tree["constant_data"]["label"].values.tolist() == np.asarray(given).tolist()
        if i % 2:  # lists became arrays: a file of each kind of array is enough
            continue
        tree.to_netcdf(tmp_path / f"labels{i}.nc")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read = az.from_netcdf(tmp_path / f"labels{i}.nc")
        assert read["constant_data"]["label"].values.tolist() == np.asarray(given).tolist()
        if hasattr(read, "close"):
            read.close()
    for bad in (["a", *range(11)], np.array(["a", *range(11)], object)):
        with pytest.raises(TypeError, match="y must be all numbers or all strings, got both"):
            exported(fitted, y=bad)
    with pytest.raises(TypeError, match=r"y must be numbers or strings, got datetime64"):
        exported(fitted, y=np.full(12, np.datetime64("2020-01-01")))


def test_what_is_refused(fitted):
    vae, x, y = fitted
    with pytest.raises(ValueError, match="x has 12 items, y has 3"):
        pyrovae.to_arviz(vae, x, y=y[:3])
    with pytest.raises(ValueError, match="items_sha256 differs"):
        exported(fitted, evidence=pyrovae.iwae(vae, x[:3]))
    bounds = [pyrovae.iwae(vae, x, num_particles=size) for size in (2, 3)]
    with pytest.raises(ValueError, match=r"iwae\(2\) - iwae\(3\) is a difference of two"):
        exported(fitted, evidence=bounds[0] - bounds[1])
    with pytest.raises(TypeError, match=r"evidence must be an Estimate of log p\(x\), got tuple"):
        exported(fitted, evidence=tuple(bounds))  # as bdmc gives
    with pytest.raises(ValueError, match=r"to_arviz needs a p\(x\)"):
        pyrovae.to_arviz(pyrovae.mlp_ae((3,)), torch.zeros(1, 3))


def test_the_callers_generator_is_left_alone(fitted):
    before = torch.random.get_rng_state()
    first, second = (exported(fitted, seed=3)["posterior"]["latent"].values for _ in range(2))
    assert np.array_equal(first, second)
    assert torch.equal(before, torch.random.get_rng_state())


def _groups(tree):
    return tree.groups() if callable(getattr(tree, "groups", None)) else [name.strip("/") for name in tree.children]


def test_a_split_gives_its_items_and_its_labels():
    x, y = torch.eye(3), torch.tensor([4, 5, 4])
    pair = pyrovae.linear_vae(3, 1)
    one = pyrovae.to_arviz(pair, pyrovae.data.Split(x.clone().requires_grad_(), y), num_draws=3)
    other = pyrovae.to_arviz(pair, x, y=y, num_draws=3)
    assert one.constant_data.label.values.tolist() == [4, 5, 4]
    for group in ("posterior", "observed_data", "log_evidence"):
        assert one[group].equals(other[group])
