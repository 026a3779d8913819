"""Saved states: what comes back is what was saved, and nothing that lies in a folder is ever executed."""

from __future__ import annotations

import hashlib
import json
import os
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import pyrovae
from pyrovae.inference.checkpoint import MANIFEST, WEIGHTS, CheckpointError
from pyrovae.inference.checkpoint.manifest import manifest_digest
from pyrovae.models.distributions import DiagonalNormal, Likelihood, StandardNormal
from pyrovae.models.networks import MLP

BUILDERS = {
    "mlp_vae": lambda **o: pyrovae.mlp_vae((1, 6, 5), 3, hidden_dims=(7, 4), activation="tanh", **o),
    "conv_vae": lambda **o: pyrovae.conv_vae((1, 6, 5), 3, channels=(4, 6), strides=(2, 1), **o),
    "mlp_ae": lambda **o: pyrovae.mlp_ae((1, 6, 5), 3, hidden_dims=(7,), **o),
    "conv_ae": lambda **o: pyrovae.conv_ae((1, 6, 5), 3, **o),
}
LIKELIHOODS = ["bernoulli", "continuous_bernoulli", "normal", pyrovae.Normal(scale=0.3, link="sigmoid")]


def same_state(a, b):
    first, second = a.state_dict(), b.state_dict()
    return list(first) == list(second) and all(
        torch.equal(first[n], second[n]) and first[n].dtype == second[n].dtype for n in first
    )


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=lambda v: v if isinstance(v, str) else "fixed")
@pytest.mark.parametrize("builder", BUILDERS)
def test_every_builder_comes_back_whole(tmp_path, builder, likelihood):
    pair = BUILDERS[builder](likelihood=likelihood)
    again = pyrovae.load(pyrovae.save(tmp_path / "state", pair))
    assert type(again) is type(pair)
    assert same_state(pair, again)
    x = torch.rand(5, 1, 6, 5).round()
    assert torch.equal(pair.encode(x), again.encode(x))
    assert torch.equal(pair.reconstruct(x), again.reconstruct(x))
    if pair.is_normalized:
        first, second = (pyrovae.elbo(p, x, num_particles=3, seed=1) for p in (pair, again))
        assert first.pointwise.equals(second.pointwise)
        assert first.mean != pyrovae.elbo(again, x, num_particles=3, seed=2).mean  # control
        assert (first - second).mean == 0


def test_a_linear_pair_in_double_precision_after_a_fit(tmp_path):
    vae = pyrovae.linear_vae(4, 2).double()
    pyrovae.fit(vae, torch.randn(50, 4) * 3, epochs=20, learning_rate=0.05, progress=False)
    again = pyrovae.load(pyrovae.save(tmp_path / "state", vae))
    assert same_state(vae, again)
    assert next(again.parameters()).dtype == torch.float64


def test_a_pair_composed_by_hand_comes_back_into_its_likeness(tmp_path):
    def compose(width):
        trunk = MLP((4,), (width,), activate_last=True)
        likelihood = Likelihood(MLP((2,), (4,)), pyrovae.Normal(scale=1.0), (4,))
        return pyrovae.VAE(StandardNormal(2), likelihood, DiagonalNormal(trunk, width, 2))

    vae = compose(5)
    pyrovae.save(tmp_path / "state", vae)
    with pytest.raises(CheckpointError, match=r"composed by hand: give load\(path, like="):
        pyrovae.load(tmp_path / "state")
    like = compose(5)
    before = like.state_dict()["posterior.loc.weight"].clone()
    again = pyrovae.load(tmp_path / "state", like=like)
    assert same_state(vae, again)
    assert torch.equal(like.state_dict()["posterior.loc.weight"], before)  # a copy was filled
    with pytest.raises(CheckpointError, match=r"tensors.posterior.loc.weight: saved \[2, 5\], here \[2, 6\]"):
        pyrovae.load(tmp_path / "state", like=compose(6))


class Loc(nn.Module):
    """A network whose two layers may share one weight."""

    def __init__(self, tied):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        if tied:
            self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


def composed(network, event_shape=(3,)):
    """A pair by hand whose encoder runs through `network`."""
    likelihood = Likelihood(MLP((2,), event_shape, hidden_dims=(4,)), pyrovae.Normal(scale=1.0), event_shape)
    return pyrovae.VAE(StandardNormal(2), likelihood, DiagonalNormal(network, 3, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shared_parameters_stay_shared(tmp_path, dtype):
    vae, like = composed(Loc(tied=True)), composed(Loc(tied=True)).to(dtype)
    again = pyrovae.load(pyrovae.save(tmp_path / "state", vae), like=like)
    assert same_state(vae, again)
    assert again.posterior.network.second.weight is again.posterior.network.first.weight
    assert len(list(again.parameters())) == len(list(vae.parameters()))
    assert not same_state(like, again)  # a copy was filled
    x = torch.randn(5, 3)
    assert torch.equal(again.encode(x), vae.encode(x))


def test_shared_and_separate_parameters_are_two_architectures(tmp_path):
    shared, separate = composed(Loc(tied=True)), composed(Loc(tied=False))
    name = "posterior.network.second.weight"
    with pytest.raises(CheckpointError, match=f"tied.{name}: saved posterior.network.first.weight, here absent"):
        pyrovae.load(pyrovae.save(tmp_path / "shared", shared), like=separate)
    with pytest.raises(CheckpointError, match=f"tied.{name}: saved absent, here posterior.network.first.weight"):
        pyrovae.load(pyrovae.save(tmp_path / "separate", separate), like=shared)


def test_a_builders_pair_with_a_shared_parameter_is_no_longer_the_builders(tmp_path):
    vae = BUILDERS["mlp_vae"]()
    vae.posterior.raw_log_scale.weight = vae.posterior.loc.weight
    folder = pyrovae.save(tmp_path / "state", vae)
    with pytest.raises(CheckpointError, match="composed by hand"):
        pyrovae.load(folder)
    again = pyrovae.load(folder, like=vae)
    assert same_state(vae, again)
    assert again.posterior.raw_log_scale.weight is again.posterior.loc.weight


@pytest.mark.usefixtures("float32")
def test_each_tensor_keeps_the_type_it_was_saved_in(tmp_path):
    # the first parameter says the pair's type; one head and a counter are of others
    def compose():
        vae = composed(nn.Linear(3, 3))
        vae.register_buffer("steps", torch.tensor(7))
        return vae

    vae = compose()
    vae.posterior.raw_log_scale.double()
    again = pyrovae.load(pyrovae.save(tmp_path / "state", vae), like=compose().half())
    assert same_state(vae, again)
    assert again.posterior.raw_log_scale.weight.dtype == torch.float64
    assert again.prior().mean.dtype == torch.float32  # what is not saved too is of the pair's type
    assert all(p.requires_grad and p.is_leaf and p.grad is None for p in again.parameters())


def test_items_and_codes_of_another_shape_are_told(tmp_path):
    # the networks are alike to the last weight: only the parts' own words tell the two apart
    vae = composed(MLP((1, 2, 3), (3,), hidden_dims=()), (1, 2, 3))
    like = composed(MLP((3, 2), (3,), hidden_dims=()), (3, 2))
    folder = pyrovae.save(tmp_path / "state", vae)
    with pytest.raises(CheckpointError, match=r"architecture:\n  event_shape: saved \[1, 2, 3\], here \[3, 2\]$"):
        pyrovae.load(folder, like=like)
    like = composed(MLP((1, 2, 3), (3,), hidden_dims=()), (1, 2, 3))
    like.latent_dim = 5
    with pytest.raises(CheckpointError, match=r"architecture:\n  latent_dim: saved 2, here 5$"):
        pyrovae.load(folder, like=like)


def test_a_recipe_must_build_the_event_shape_that_was_saved(tmp_path):
    folder = pyrovae.save(tmp_path / "state", BUILDERS["mlp_vae"]())
    manifest = json.loads((folder / MANIFEST).read_text())
    forge(folder, {**manifest, "recipe": {**manifest["recipe"], "event_shape": [5, 6]}})
    with pytest.raises(CheckpointError, match=r"event_shape: saved \[1, 6, 5\], here \[5, 6\]"):
        pyrovae.load(folder)


def without_newer_fields(folder):
    """Make the manifest one from before it held shapes and shared parameters."""
    manifest = json.loads((folder / MANIFEST).read_text())
    forge(folder, {k: v for k, v in manifest.items() if k not in ("event_shape", "latent_dim", "tied", "dtypes")})


def test_an_older_manifest_still_loads(tmp_path):
    vae = BUILDERS["mlp_vae"]()
    folder = pyrovae.save(tmp_path / "built", vae)
    without_newer_fields(folder)
    assert same_state(pyrovae.load(folder), vae)
    assert same_state(pyrovae.load(folder, like=BUILDERS["mlp_vae"]()), vae)
    shared = composed(Loc(tied=True))
    folder = pyrovae.save(tmp_path / "shared", shared)
    without_newer_fields(folder)
    assert same_state(pyrovae.load(folder, like=composed(Loc(tied=True))), shared)
    # two weights do not go into one
    folder = pyrovae.save(tmp_path / "separate", composed(Loc(tied=False)))
    without_newer_fields(folder)
    with pytest.raises(CheckpointError, match=r"first.weight and posterior.network.second.weight are one here"):
        pyrovae.load(folder, like=shared)


@pytest.fixture
def empty_folder(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o711)
    return tmp_path / "run"


def test_an_empty_folder_is_filled_and_stays_what_it_is(empty_folder, monkeypatch):
    monkeypatch.chdir(empty_folder)
    before = os.stat(".")
    pair = BUILDERS["mlp_vae"]()
    assert pyrovae.save(".", pair) == empty_folder
    assert os.getcwd() == str(empty_folder)
    after = os.stat(empty_folder)
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)
    assert same_state(pyrovae.load("."), pair)
    assert os.listdir(empty_folder.parent) == ["run"]


def test_what_a_kill_of_an_earlier_version_left_of_a_folder_being_filled_is_filled_again(tmp_path):
    vae = pyrovae.mlp_vae((3,))
    folder = pyrovae.save(tmp_path / "state", vae)
    (folder / WEIGHTS).unlink()  # the manifest was moved first
    with pytest.raises(pyrovae.CheckpointError):
        pyrovae.load(folder)
    pyrovae.save(folder, vae)
    assert torch.equal(pyrovae.load(folder).decode(torch.ones(1, 2)), vae.decode(torch.ones(1, 2)))


def test_a_setting_changed_after_the_builder_is_no_longer_the_builders(tmp_path):
    vae = pyrovae.mlp_vae((3,), likelihood=pyrovae.Normal(scale=1.0))
    vae.likelihood.family.link = "sigmoid"
    with pytest.raises(pyrovae.CheckpointError, match="like="):
        pyrovae.load(pyrovae.save(tmp_path / "state", vae))


def test_a_replaced_folder_keeps_its_mode(empty_folder):
    pyrovae.save(empty_folder, BUILDERS["mlp_vae"]())
    pair = BUILDERS["mlp_ae"]()
    pyrovae.save(empty_folder, pair)
    assert same_state(pyrovae.load(empty_folder), pair)
    assert empty_folder.stat().st_mode & 0o7777 == 0o711


def test_a_second_save_replaces_the_first_and_nothing_else(tmp_path):
    first, second = BUILDERS["mlp_vae"](), BUILDERS["mlp_ae"]()
    pyrovae.save(tmp_path / "state", first)
    pyrovae.save(tmp_path / "state", second)
    assert same_state(pyrovae.load(tmp_path / "state"), second)
    assert sorted(os.listdir(tmp_path)) == ["state"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(FileExistsError, match="is not a saved state"):
        pyrovae.save(tmp_path / "mine", first)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"


def test_a_failed_save_keeps_the_earlier_state(tmp_path, monkeypatch):
    pair = BUILDERS["mlp_vae"]()
    pyrovae.save(tmp_path / "state", pair)

    def full(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        pyrovae.save(tmp_path / "state", BUILDERS["mlp_vae"]())
    monkeypatch.undo()
    assert same_state(pyrovae.load(tmp_path / "state"), pair)
    assert sorted(os.listdir(tmp_path)) == ["state"]


def forge(folder, manifest):
    """Write a manifest whose own checksum is right."""
    (folder / MANIFEST).write_text(json.dumps({**manifest, "sha256": manifest_digest(manifest)}, indent=1))


def test_a_link_to_a_state_is_followed(tmp_path):
    pyrovae.save(tmp_path / "state", BUILDERS["mlp_vae"]())
    (tmp_path / "link").symlink_to(tmp_path / "state", target_is_directory=True)
    pair = BUILDERS["mlp_ae"]()
    pyrovae.save(tmp_path / "link", pair)
    assert (tmp_path / "link").is_symlink()
    assert same_state(pyrovae.load(tmp_path / "state"), pair)


def test_a_folder_that_only_looks_like_a_state_is_not_replaced(tmp_path):
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / MANIFEST).write_text("{}")
    (tmp_path / "web" / "thesis.tex").write_text("years")
    with pytest.raises(FileExistsError):
        pyrovae.save(tmp_path / "web", BUILDERS["mlp_vae"]())
    folder = pyrovae.save(tmp_path / "state", BUILDERS["mlp_vae"]())
    (folder / "mine.txt").write_text("keep")
    with pytest.raises(FileExistsError):
        pyrovae.save(folder, BUILDERS["mlp_vae"]())
    assert (folder / "mine.txt").read_text() == "keep"


def test_the_recipe_is_of_the_pair_as_it_is(tmp_path):
    widths = [8]
    vae = pyrovae.mlp_vae((6,), np.int64(2), hidden_dims=widths, likelihood=pyrovae.Normal(scale=np.float32(0.5)))
    widths.append(3)
    again = pyrovae.load(pyrovae.save(tmp_path / "plain", vae))
    assert same_state(vae, again)
    assert float(again.likelihood.family.scale) == 0.5
    vae = pyrovae.mlp_vae((6,))
    vae.likelihood.family = pyrovae.ContinuousBernoulli()  # no longer what the builder made
    with pytest.raises(CheckpointError, match="composed by hand"):
        pyrovae.load(pyrovae.save(tmp_path / "changed", vae))
    with pytest.raises(CheckpointError, match=r"structure.*saved .*ContinuousBernoulli"):
        pyrovae.load(tmp_path / "changed", like=pyrovae.mlp_vae((6,)))
    assert type(pyrovae.load(tmp_path / "changed", like=vae).likelihood.family) is pyrovae.ContinuousBernoulli


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_row_22_a_missing_path_names_those_that_exist(tmp_path):
    pyrovae.save(tmp_path / "epoch3", BUILDERS["mlp_vae"]())
    with pytest.raises(FileNotFoundError, match=r"does not exist; saved states beside it: epoch3"):
        pyrovae.load(tmp_path / "epoch4")
    with pytest.raises(FileNotFoundError, match="no saved state lies in"):
        pyrovae.load(tmp_path / "epoch3" / "a" / "b")


def test_a_runs_folder_is_read_and_what_lies_in_another_is_named(tmp_path):
    vae = BUILDERS["mlp_vae"]()
    run = tmp_path / "run"
    for name in ("model", "checkpoint/epoch-000001", "checkpoint/epoch-000002", ".hidden/state"):
        pyrovae.save(run / name, vae if name == "model" else BUILDERS["mlp_ae"]())
    (run / "history.nc").write_text("")
    assert same_state(pyrovae.load(run), vae)
    assert same_state(pyrovae.load(run, like=BUILDERS["mlp_vae"]()), vae)
    (run / "model").rename(run / "else")
    epochs = "checkpoint/epoch-000001, checkpoint/epoch-000002"
    with pytest.raises(CheckpointError, match=rf"no manifest.json; saved states in it: {epochs}, else$"):
        pyrovae.load(run)
    with pytest.raises(CheckpointError, match=r"saved states in it: epoch-000001, epoch-000002$"):
        pyrovae.load(run / "checkpoint")
    with pytest.raises(CheckpointError, match=r"history.nc is a file, and a saved state is a folder"):
        pyrovae.load(run / "history.nc")
    (run / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"no manifest.json$"):
        pyrovae.load(run / "empty")
    # a state of its own comes first, and a damaged model is said so
    pyrovae.save(run / "else" / "model", BUILDERS["mlp_ae"]())
    assert same_state(pyrovae.load(run / "else"), vae)
    (run / "else").rename(run / "model")
    (run / "model" / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match=r"model is not a whole saved state"):
        pyrovae.load(run)


def test_row_23_another_architecture_is_told_field_by_field(tmp_path):
    pyrovae.save(tmp_path / "state", BUILDERS["mlp_vae"]())
    with pytest.raises(CheckpointError, match=r"another architecture") as caught:
        pyrovae.load(tmp_path / "state", like=BUILDERS["conv_vae"]())
    text = str(caught.value)
    assert "recipe.builder: saved mlp_vae, here conv_vae" in text
    assert "recipe.hidden_dims: saved [7, 4], here absent" in text
    with pytest.raises(CheckpointError, match=r"recipe.latent_dim: saved 3, here 2"):
        pyrovae.load(tmp_path / "state", like=pyrovae.mlp_vae((1, 6, 5), 2, hidden_dims=(7, 4), activation="tanh"))


def test_row_24_another_format_version(tmp_path):
    folder = pyrovae.save(tmp_path / "state", BUILDERS["mlp_vae"]())
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, "format_version": 99}))
    with pytest.raises(CheckpointError, match="format version 99, this pyrovae reads 1"):
        pyrovae.load(folder)


@pytest.mark.parametrize("file", [MANIFEST, WEIGHTS])
@pytest.mark.parametrize("make", ["pickle", "torch"])
def test_row_25_a_pickle_in_any_files_place_is_not_executed(tmp_path, file, make):
    folder = pyrovae.save(tmp_path / "state", BUILDERS["mlp_vae"]())
    mark = tmp_path / "executed"
    if make == "pickle":
        (folder / file).write_bytes(pickle.dumps(Bomb(mark)))
    else:
        torch.save(Bomb(mark), folder / file)
    with pytest.raises(CheckpointError, match="nothing was unpickled"):
        pyrovae.load(folder)
    if file == WEIGHTS:  # even with a manifest that vouches for it
        manifest = json.loads((folder / MANIFEST).read_text())
        manifest["weights_sha256"] = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
        forge(folder, manifest)
        with pytest.raises(CheckpointError, match="not a safetensors file"):
            pyrovae.load(folder)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Bomb(mark))).close()  # control: it would have been
    assert mark.exists()


@pytest.mark.parametrize("harm", ["truncate", "empty", "flip", "remove", "no manifest"])
def test_row_26_damage_is_found_and_named(tmp_path, harm):
    folder = pyrovae.save(tmp_path / "state", BUILDERS["mlp_vae"]())
    weights = folder / WEIGHTS
    content = bytearray(weights.read_bytes())
    if harm == "truncate":
        weights.write_bytes(content[:-7])
    elif harm == "empty":
        weights.write_bytes(b"")
    elif harm == "flip":
        content[-3] ^= 1
        weights.write_bytes(content)
    elif harm == "remove":
        weights.unlink()
    else:
        (folder / MANIFEST).unlink()
    with pytest.raises(CheckpointError, match=MANIFEST if harm == "no manifest" else WEIGHTS):
        pyrovae.load(folder)


def test_a_recipe_cannot_name_anything_but_a_builder(tmp_path):
    folder = pyrovae.save(tmp_path / "state", BUILDERS["mlp_vae"]())
    manifest = json.loads((folder / MANIFEST).read_text())
    huge = {**manifest["recipe"], "hidden_dims": [10**13]}
    larger = {**manifest["recipe"], "hidden_dims": [7, 4000]}
    for recipe in (
        {"builder": "os.system"},
        {"builder": []},
        {"builder": "mlp_vae", "event_shape": [0]},
        "x",
        huge,
        larger,
    ):
        forge(folder, {**manifest, "recipe": recipe})
        with pytest.raises(CheckpointError, match=r"unknown builder|does not build|another architecture"):
            pyrovae.load(folder)


@pytest.mark.parametrize(
    ("field", "value"), [("dtype", "float16"), ("class", "AE"), ("recipe", {"builder": "mlp_ae"}), ("tensors", {})]
)
def test_every_byte_of_the_manifest_is_checked(tmp_path, field, value):
    folder = pyrovae.save(tmp_path / "state", BUILDERS["mlp_vae"]())
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, field: value}))
    with pytest.raises(CheckpointError, match="damaged or was changed"):
        pyrovae.load(folder)
    (folder / MANIFEST).write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match="is not JSON"):
        pyrovae.load(folder)


@pytest.mark.parametrize("field", ["class", "recipe", "dtype", "tensors", "structure", "weights_sha256"])
def test_a_manifest_without_a_field_is_damaged(tmp_path, field):
    folder = pyrovae.save(tmp_path / "state", BUILDERS["mlp_vae"]())
    manifest = json.loads((folder / MANIFEST).read_text())
    forge(folder, {name: value for name, value in manifest.items() if name != field})
    with pytest.raises(CheckpointError, match=rf"is damaged: missing or unreadable \['{field}'\]"):
        pyrovae.load(folder)


def test_a_manifest_of_no_floating_type_or_of_another_program_is_refused(tmp_path):
    folder = pyrovae.save(tmp_path / "state", BUILDERS["mlp_vae"]())
    manifest = json.loads((folder / MANIFEST).read_text())
    forge(folder, {**manifest, "dtype": "int64"})
    with pytest.raises(CheckpointError, match=r"missing or unreadable \['dtype'\]"):
        pyrovae.load(folder)
    forge(folder, {**manifest, "format": "another"})
    with pytest.raises(CheckpointError, match="was not written by pyrovae"):
        pyrovae.load(folder)
    with pytest.raises(FileExistsError, match="is not a saved state"):
        pyrovae.save(folder, BUILDERS["mlp_vae"]())


def test_loading_leaves_the_callers_generator_alone(tmp_path):
    folder = pyrovae.save(tmp_path / "state", BUILDERS["mlp_vae"]())
    before = torch.random.get_rng_state()
    pyrovae.load(folder)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_part_of_the_users_own_is_saved_without_a_recipe(tmp_path):
    class Mine(nn.Module):
        support, base_measure = pyrovae.Normal.support, "density"

        def forward(self, loc):
            return torch.distributions.Laplace(loc, 1.0)

    vae = pyrovae.mlp_vae((3,), likelihood=Mine())
    folder = pyrovae.save(tmp_path / "state", vae)
    assert same_state(pyrovae.load(folder, like=vae), vae)


def rewritten(folder, change, **manifest):
    """Change the tensors of a state, and let its manifest vouch for the file, and say what else is given."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / WEIGHTS)
    save_file(change(tensors), folder / WEIGHTS)
    stated = json.loads((folder / MANIFEST).read_text())
    stated["weights_sha256"] = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    forge(folder, {**stated, **manifest})
    return folder


NAME = "likelihood.network.layers.0.bias"


def with_(value):
    def change(tensors):
        tensors[NAME][1] = value
        return tensors

    return change


def in_(dtype):
    return lambda tensors: {**tensors, NAME: tensors[NAME].to(dtype)}


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("like", [None, BUILDERS["mlp_vae"]])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_row_47_weights_that_are_not_finite_are_refused(tmp_path, value, like, older):
    folder = rewritten(pyrovae.save(tmp_path / "state", BUILDERS["mlp_vae"]()), with_(value))
    if older:
        without_newer_fields(folder)
    with pytest.raises(CheckpointError, match=rf"'{NAME}' of .*safetensors has 1 of 4 values NaN or infinite"):
        pyrovae.load(folder, like=None if like is None else like())
    rewritten(folder, with_(0.0))  # the control
    assert float(pyrovae.load(folder).state_dict()[NAME][1]) == 0.0


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float64,
        torch.float16,
        torch.bfloat16,
        torch.float8_e4m3fn,
        torch.float8_e5m2,
        torch.complex64,
        torch.int32,
    ],
)
@pytest.mark.usefixtures("float32")
def test_row_47_weights_of_another_type_than_the_manifest_says_are_refused(tmp_path, dtype):
    folder = rewritten(pyrovae.save(tmp_path / "state", BUILDERS["mlp_vae"]()), in_(dtype))
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(CheckpointError, match=rf"{NAME} is {name}, and the manifest says float32$"):
        pyrovae.load(folder)
    # a manifest that says so is not enough where the pair has no such numbers
    stated = json.loads((folder / MANIFEST).read_text())["dtypes"]
    forge(folder, json.loads((folder / MANIFEST).read_text()) | {"dtypes": {**stated, NAME: name}})
    if dtype in (torch.float64, torch.float16, torch.bfloat16):
        assert pyrovae.load(folder).state_dict()[NAME].dtype == dtype
    else:
        with pytest.raises(CheckpointError, match=rf"{NAME} is {name}, and here it is float32$"):
            pyrovae.load(folder)
    # the first manifests say no type of each: then the difference is named
    without_newer_fields(folder)
    if dtype in (torch.float64, torch.float16, torch.bfloat16):
        with pytest.warns(UserWarning, match=rf"is a state in float32, and {NAME} is {name}"):
            pyrovae.load(folder)
    else:
        with pytest.raises(CheckpointError, match=rf"{NAME} is {name}"):
            pyrovae.load(folder)


def test_row_47_counters_and_masks_of_another_type_and_missing_tensors(tmp_path):
    def compose():
        vae = composed(nn.Linear(3, 3))
        vae.register_buffer("steps", torch.tensor(7))
        vae.register_buffer("mask", torch.tensor([True, False]))
        return vae

    folder = pyrovae.save(tmp_path / "state", compose())
    for name, dtype, words in (("steps", torch.float32, "int64"), ("mask", torch.uint8, "bool")):
        content = {file.name: file.read_bytes() for file in folder.iterdir()}
        rewritten(folder, lambda tensors, n=name, d=dtype: {**tensors, n: tensors[n].to(d)})
        with pytest.raises(CheckpointError, match=rf"{name} is \S+, and the manifest says {words}"):
            pyrovae.load(folder, like=compose())
        for file, before in content.items():
            (folder / file).write_bytes(before)
    rewritten(folder, lambda tensors: {k: v for k, v in tensors.items() if k != "steps"})
    with pytest.raises(CheckpointError, match=r"it has other tensors, 1 fewer, as 'steps'"):
        pyrovae.load(folder, like=compose())


def test_row_47_what_is_not_finite_is_not_saved_over_what_is(tmp_path):
    vae = BUILDERS["mlp_vae"]()
    folder, before = pyrovae.save(tmp_path / "state", vae), vae.state_dict()[NAME].clone()
    with torch.no_grad():
        vae.state_dict()[NAME][0] = torch.nan
    with pytest.raises(CheckpointError, match=rf"'{NAME}' of the pair has 1 of 4 values NaN or infinite"):
        pyrovae.save(folder, vae)
    assert torch.equal(pyrovae.load(folder).state_dict()[NAME], before)


class Masked(nn.Module):
    """A user's network, whose buffer is infinite where an entry is not seen."""

    def __init__(self):
        super().__init__()
        self.linear, self.norm = nn.Linear(3, 3), nn.BatchNorm1d(3)
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf, 0.0]))

    def forward(self, x):
        return self.linear(x) + self.mask.exp()


def test_row_47_a_users_own_buffer_may_be_infinite_and_no_layers(tmp_path):
    vae = composed(Masked())
    with pytest.warns(UserWarning, match=r"buffer 'posterior.network.mask' of .* has 1 of 3 values NaN or infinite"):
        folder = pyrovae.save(tmp_path / "state", vae)
    with pytest.warns(UserWarning, match="posterior.network.mask"):
        assert same_state(pyrovae.load(folder, like=composed(Masked())), vae)
    vae.posterior.network.norm.running_var.fill_(torch.inf)
    with pytest.raises(CheckpointError, match="running_var"), pytest.warns(UserWarning, match="mask"):
        pyrovae.save(folder, vae)


def test_row_47_a_state_larger_than_its_pair_is_not_read(tmp_path, monkeypatch):
    import tracemalloc

    from safetensors.torch import save_file

    folder = pyrovae.save(tmp_path / "state", BUILDERS["mlp_vae"]())
    empty, count = torch.zeros(0), 5_000
    save_file({f"tensor.number.{i}": empty for i in range(count)}, folder / WEIGHTS)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["weights_sha256"] = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    forge(folder, manifest)
    tracemalloc.start()
    with pytest.raises(
        CheckpointError, match=r"it has a header of [\d,]+ bytes, and that of these tensors takes [\d,]+ "
    ):
        pyrovae.load(folder)
    # and a manifest that lists them all
    names = [f"tensor.number.{i}" for i in range(count)]
    forge(folder, manifest | {"tensors": dict.fromkeys(names, "[0]"), "dtypes": dict.fromkeys(names, "float32")})
    with pytest.raises(CheckpointError, match="another architecture") as caught:
        pyrovae.load(folder)
    assert len(str(caught.value).splitlines()) < 40 and "more" in str(caught.value)
    # and a recipe of as many layers, beside the weights of two
    whole = pyrovae.save(tmp_path / "whole", BUILDERS["mlp_vae"]())
    stated = json.loads((whole / MANIFEST).read_text())
    forge(whole, stated | {"recipe": {**stated["recipe"], "hidden_dims": [1] * count}})
    with pytest.raises(CheckpointError, match=r"5,\d+ numbers are too many entries for 14 tensors"):
        pyrovae.load(whole)
    assert tracemalloc.get_traced_memory()[1] < 10 * 2**20
    tracemalloc.stop()
    monkeypatch.setattr("pyrovae.inference.checkpoint.manifest.MOST_TENSORS", count - 1)
    names = [f"tensor.number.{i}" for i in range(count)]
    forge(folder, manifest | {"tensors": dict.fromkeys(names, "[0]"), "dtypes": dict.fromkeys(names, "float32")})
    with pytest.raises(CheckpointError, match=r"names 5,000 tensors, and at most 4,999 are read"):
        pyrovae.load(folder)
    monkeypatch.setattr("pyrovae.inference.checkpoint.manifest.MANIFEST_BYTES", 1000)
    with pytest.raises(CheckpointError, match=r"has [\d,]+ bytes, and a manifest at most 1,000"):
        pyrovae.load(folder)
    with pytest.raises(CheckpointError, match=r"a saved state has at most 4,999 tensors and 1,000 bytes"):
        pyrovae.save(tmp_path / "other", BUILDERS["mlp_vae"]())
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("dtypes", [None, True, [], "float32", 1.5])
def test_types_that_are_not_named_one_by_one_are_refused(tmp_path, dtypes):
    folder = pyrovae.save(tmp_path / "state", pyrovae.mlp_vae((3,), hidden_dims=(4,)))
    manifest = json.loads((folder / MANIFEST).read_bytes()) | {"dtypes": dtypes}
    (folder / MANIFEST).write_text(json.dumps({**manifest, "sha256": manifest_digest(manifest)}, indent=1))
    with pytest.raises(CheckpointError, match="is damaged: its dtypes are not named one by one"):
        pyrovae.load(folder)


def test_another_argument_of_a_builder_is_named_with_what_to_do(tmp_path):
    folder = pyrovae.save(tmp_path / "state", pyrovae.GaussianMixture((3,), 2, floor=1e-6))
    with pytest.raises(CheckpointError, match=r"(?s)recipe.floor: saved 1e-06, here None.*with the saved arguments"):
        pyrovae.load(folder, like=pyrovae.GaussianMixture((3,), 2))
    assert pyrovae.load(folder, like=pyrovae.GaussianMixture((3,), 2, floor=1e-6)).components.floor == 1e-6
    with pytest.raises(CheckpointError) as caught:
        pyrovae.load(folder, like=pyrovae.linear_vae(3, 2).double())
    assert "class: saved GaussianMixture, here VAE" in str(caught.value)


def test_a_pair_whose_state_has_more_than_tensors_is_refused_as_like_too(tmp_path):
    class WithExtraState(MLP):
        def get_extra_state(self):
            return "a word"

        def set_extra_state(self, state):
            pass

    folder = pyrovae.save(tmp_path / "state", pyrovae.mlp_vae((3,), hidden_dims=(4,)))
    like = pyrovae.mlp_vae((3,), hidden_dims=(4,))
    like.extra = WithExtraState((3,), (2,))
    with pytest.raises(TypeError, match=r"'extra\._extra_state' of the pair's state is a str, and a saved state has"):
        pyrovae.load(folder, like=like)
