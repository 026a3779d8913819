"""States that somebody made to fill the memory, to wait for ever or to lead elsewhere: an error, soon, in few bytes."""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path

import pytest
import torch

import pyrovae
from pyrovae import json_files
from pyrovae.inference.checkpoint import MANIFEST, WEIGHTS, CheckpointError, write
from pyrovae.inference.checkpoint.manifest import manifest_digest

MOST_MEMORY, MOST_SECONDS = 200 * 10**6, 2.0  # of the processor; a machine may be busy


def forge(folder: Path, **changes):
    """Change fields of a manifest, whose own SHA-256 is right again."""
    manifest = json.loads((folder / MANIFEST).read_bytes()) | changes
    manifest.pop("sha256")
    (folder / MANIFEST).write_text(json.dumps({**manifest, "sha256": manifest_digest(manifest)}, indent=1))


def holes(file: Path, header: dict, size: int):
    """A file of tensors with that header, whose bytes are zeros that take no place on the disk."""
    text = json.dumps(header).encode()
    with file.open("wb") as opened:
        opened.write(len(text).to_bytes(8, "little") + text)
        opened.truncate(8 + len(text) + size)


def of_shapes(folder: Path, shapes: dict, **recipe):
    """Give the state weights of these shapes, and let the header, the manifest and the length of the file agree."""
    header, place = {}, 0
    for name, shape in shapes.items():
        size = 4 * torch.Size(shape).numel()
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [place, place + size]}
        place += size
    holes(folder / WEIGHTS, header, place)
    recipe = json.loads((folder / MANIFEST).read_bytes())["recipe"] | recipe
    tensors = {name: str(list(shape)) for name, shape in shapes.items()}
    forge(folder, recipe=recipe, tensors=tensors, dtypes=dict.fromkeys(shapes, "float32"))


def like(folder: Path, make, **recipe):
    """Weights as a large pair has them, and a recipe that builds it."""
    with torch.device("meta"):
        shapes = {name: tuple(t.shape) for name, t in make().state_dict().items()}
    of_shapes(folder, shapes, **recipe)


def with_recipe(folder: Path, **recipe):
    forge(folder, recipe=json.loads((folder / MANIFEST).read_bytes())["recipe"] | recipe)


def pipe(file: Path):
    file.unlink()
    os.mkfifo(file)


def link(file: Path, to: str):
    file.unlink()
    file.symlink_to(to)


def with_columns(folder: Path, categories):
    forge(folder, recipe={"builder": "table_vae", "columns": [{"column": ["a", "categorical", categories]}]})


def overlapping(folder: Path):
    content = (folder / WEIGHTS).read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    for record in header.values():
        record["data_offsets"] = [0, record["data_offsets"][1] - record["data_offsets"][0]]
    holes(folder / WEIGHTS, header, len(content) - 8 - length)


MANY = 10**8
FLOW = f"flow(num_transforms={MANY})"
COLUMN = {"column": ["a", "real", None]}

# by its name: what is done to a state of a small VAE, and what is said of it
HOSTILE = {
    "6 GB of weights that are not stated": (
        lambda f: os.truncate(f / WEIGHTS, 6 * 10**9),
        "is too long or was replaced: it has 6,000,000,000 bytes and should have",
    ),
    "6 GB of weights as stated": (
        lambda f: like(f, lambda: pyrovae.mlp_vae((3,), hidden_dims=(28_000, 28_000)), hidden_dims=[28_000, 28_000]),
        r"has 6.27 GB of weights, and load reads at most 4.29 GB: .* give max_bytes=6",
    ),
    "10^8 components": (
        lambda f: forge(f, recipe={"builder": "GaussianMixture", "event_shape": [3], "num_components": MANY}),
        "100000000 is too large for a pair whose tensors have",
    ),
    "10^8 components of a Bayesian mixture": (
        lambda f: forge(f, recipe={"builder": "BayesianGaussianMixture", "event_shape": [3], "num_components": MANY}),
        "100000000 is too large for a pair whose tensors have",
    ),
    "10^8 classes": (
        lambda f: forge(f, recipe={"builder": "gaussian_classifier", "event_shape": [3], "num_classes": MANY}),
        "100000000 is too large",
    ),
    "10^8 labels": (
        lambda f: forge(f, recipe={"builder": "SemiSupervisedVAE", "event_shape": [3], "num_classes": MANY}),
        "100000000 is too large",
    ),
    "a flow of 10^8 transforms": (lambda f: with_recipe(f, prior=FLOW), "100000000 is too large"),
    "a flow of as many, written otherwise": (
        lambda f: with_recipe(f, posterior="flow(num_transforms=0x5f5_e100)"),
        "100000000 is too large",
    ),
    "a part of 10^8 transforms": (
        lambda f: with_recipe(
            f, prior={"kind": "prior", "name": "flow", "arguments": {"latent_dim": 2, "num_transforms": MANY}}
        ),
        "100000000 is too large",
    ),
    "10^8 categories": (
        lambda f: with_recipe(f, likelihood=f"categorical(num_classes={MANY})"),
        "100000000 is too large",
    ),
    "items of 10^5 x 10^5": (
        lambda f: forge(f, recipe={"builder": "conv_vae", "event_shape": [1, 10**5, 10**5]}),
        "another architecture",
    ),
    "10^8 components of columns": (
        lambda f: forge(f, recipe={"builder": "ColumnMixture", "columns": [COLUMN], "num_components": MANY}),
        "100000000 is too large",
    ),
    "10^8 categories of a column": (lambda f: with_columns(f, MANY), "100000000 is too large"),
    "a category of a million characters": (
        lambda f: with_columns(f, ["x" * 10**6, "y"]),
        "has 1,000,000 characters, and a word at most 100,000",
    ),
    "shapes without a value and with gigantic axes": (
        lambda f: of_shapes(f, {"a": (0, 2**62), "b": (2**62, 0, 2**62)}),
        "holds another architecture",
    ),
    "numbers of 4,000 digits": (
        lambda f: forge(f, classes=[10**4000 - 1] * 10),
        "a number of 4,000 digits, and at most 400 are read",
    ),
    "lists in lists, as canonical as can be": (
        lambda f: forge(f, attributes=json.loads("[" * 150 + "]" * 150)),
        "its bytes are not those that pyrovae writes",
    ),
    "digits of another script": (lambda f: forge(f, tensors={"t": "[\u0662]"}), "is no shape of 't'"),
    "tensors that are tied to none": (
        lambda f: forge(f, tied={"t": "u"}),
        "it says that other tensors are tied than it has",
    ),
    "weights that are a link to themselves": (lambda f: link(f / WEIGHTS, WEIGHTS), "it has no weights.safetensors"),
    "a manifest that is a link to itself": (lambda f: link(f / MANIFEST, MANIFEST), "it has no manifest.json"),
    "weights without an end": (lambda f: link(f / WEIGHTS, "/dev/zero"), "it has no weights.safetensors"),
    "a pipe for weights": (lambda f: pipe(f / WEIGHTS), "it has no weights.safetensors"),
    "a pipe for a manifest": (lambda f: pipe(f / MANIFEST), "it has no manifest.json"),
    "tensors that lie on one another": (overlapping, "begins at byte 0, and the tensor before it ends at"),
    "a shape of 2^62 x 2^62": (
        lambda f: forge(f, tensors={"t": "[4611686018427387904, 4611686018427387904]"}, dtypes={"t": "float32"}),
        "it has other tensors",
    ),
    "a shape in other words": (lambda f: forge(f, tensors={"t": "[1,2]"}), "is no shape of 't'"),
    "a dtype of a hundred million bits": (
        lambda f: forge(f, dtypes={"t": "float100000000"}),
        r"'float100000000' is no dtype of 't'; these are read: bfloat16, bool",
    ),
    "an integer of a million digits": (
        lambda f: (f / MANIFEST).write_text('{"format": "pyrovae", "format_version": 1' + "0" * 10**6 + "}"),
        "a number of 1,000,001 digits, and at most 400 are read",
    ),
    "lists in lists": (lambda f: (f / MANIFEST).write_text("[" * 10**5), "is not JSON"),
    "a manifest with a space more": (
        lambda f: (f / MANIFEST).write_bytes((f / MANIFEST).read_bytes() + b" "),
        "its bytes are not those that pyrovae writes",
    ),
    "a manifest that says a field twice": (
        lambda f: (f / MANIFEST).write_bytes((f / MANIFEST).read_bytes().replace(b"{", b'{\n "class": "AE",', 1)),
        "its bytes are not those that pyrovae writes",
    ),
}
# those that take seconds to be made
LARGE = {
    "hidden_dims of 195 kB": (
        lambda f: with_recipe(f, hidden_dims=[1] * 65_000),
        "numbers are too many entries for 14",
    ),
    "a flow of 1,000 transforms": (
        lambda f: with_recipe(f, prior="flow(num_transforms=1000)"),
        "it has more (parameters and buffers|modules) than 14 tensors are of",
    ),
    "a header of 49,000 tensors": (
        lambda f: holes(
            f / WEIGHTS, {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(49_000)}, 0
        ),
        "it has a header of .* and that of these tensors takes",
    ),
    "hidden_dims of 2,500, of fewer stated tensors": (
        lambda f: of_shapes(f, {f"t{i}": (1,) for i in range(1_300)}, hidden_dims=[1] * 2_500),
        "it has more parameters and buffers than 1,300 tensors are of",
    ),
    "10^8 components as stated": (
        lambda f: like(
            f,
            lambda: pyrovae.GaussianMixture((3,), MANY),
            builder="GaussianMixture",
            event_shape=[3],
            num_components=MANY,
        ),
        r"has [\d.]+ GB of weights, and load reads at most",
    ),
    "20,000 columns": (
        lambda f: forge(f, recipe={"builder": "table_vae", "columns": [COLUMN] * 20_000}),
        "60,001 words are too many entries for",
    ),
    "200,000 lists": (
        lambda f: forge(f, attributes=[[]] * 200_000),
        r"it has 200,\d+ lists and tables, and at most 160,000 are read",
    ),
    "a million dtypes": (
        lambda f: forge(f, dtypes={str(i): "float32" for i in range(10**6)}),
        "values or more, and at most 1,200,000 are read",
    ),
    "550,000 dtypes, just fewer than are counted": (
        lambda f: forge(f, dtypes={str(i): "float32" for i in range(550_000)}),
        "names 550,000 dtypes, and at most 50,000 are read",
    ),
    "40,000 dtypes": (
        lambda f: forge(f, dtypes={str(i): "float32" for i in range(40_000)}),
        "it says the dtypes of other tensors than it has",
    ),
    "half a million categories": (
        lambda f: with_columns(f, [str(i) for i in range(500_000)]),
        "500,003 words are too many entries for 103 values",
    ),
    "a name of 30 MB": (
        lambda f: with_recipe(f, activation="x" * 30 * 10**6),
        "has 30,000,000 characters, and a word at most 100,000",
    ),
    "tensors with names of a million characters": (
        lambda f: of_shapes(f, {"a" * 10**6 + str(i): (1,) for i in range(8)}),
        "holds another architecture",
    ),
    "a header of a million tensors": (
        lambda f: holes(
            f / WEIGHTS, {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(10**6)}, 0
        ),
        "it has a header of .* and that of these tensors takes",
    ),
    "a manifest of 60 MB": (
        lambda f: with_recipe(f, activation="x" * 60 * 10**6),
        r"has 60,\d+,\d+ bytes, and a manifest at most 33,554,432",
    ),
    "a manifest of 9 MB that are 3 million lists": (
        lambda f: (f / MANIFEST).write_bytes(b'{"format": "pyrovae", "x": [' + b"{}," * (3 * 10**6) + b"{}]}"),
        "it has 6,000,006 values or more, and at most 1,200,000 are read",
    ),
}


def most_memory() -> int:
    """The most that this process has had in memory since it was last asked, in bytes; 0 where nobody knows."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        Path("/proc/self/clear_refs").write_text("5")
        now = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    taken = [next(int(line.split()[1]) for line in each if line.startswith("VmHWM")) for each in (lines, now)]
    most_memory.before, before = 1000 * taken[1], getattr(most_memory, "before", 0)
    return 1000 * taken[0] - before


@pytest.fixture
def state(tmp_path):
    """A small state that loads, whose parts have been imported."""
    folder = pyrovae.save(tmp_path / "state", pyrovae.mlp_vae((3,), hidden_dims=(4, 4)))
    pyrovae.load(folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def _imported():
    """What torch imports when it first makes a shape without values takes seconds, and is no state's doing."""
    import torch._dynamo  # noqa: F401


def refused(folder, words):
    most_memory()
    start = time.process_time()
    with pytest.raises(CheckpointError, match=words):
        pyrovae.load(folder)
    assert time.process_time() - start < MOST_SECONDS
    assert most_memory() < MOST_MEMORY


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_state_is_refused_soon_and_in_little_memory(state, name):
    make, words = HOSTILE[name]
    make(state)
    refused(state, words)


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_a_large_hostile_state_is_refused_soon_and_in_little_memory(state, name):
    make, words = LARGE[name]
    make(state)
    refused(state, words)


@pytest.mark.parametrize("names", [range(300), [1355868, 1361824]], ids=["many", "large"])
def test_classes_may_have_any_whole_numbers_as_names(tmp_path, names):
    pair = pyrovae.gaussian_classifier((3,), len(names), classes=list(names))
    assert pyrovae.load(pyrovae.save(tmp_path / "state", pair)).classes_.tolist() == list(names)


def test_the_limit_on_weights_is_the_callers(state):
    size = (state / WEIGHTS).stat().st_size
    pyrovae.load(state, max_bytes=size)
    with pytest.raises(CheckpointError, match=rf"load reads at most .*: if they are .* give max_bytes={size}"):
        pyrovae.load(state, max_bytes=size - 1)
    like = pyrovae.mlp_vae((3,), hidden_dims=(4, 4))
    pyrovae.load(state, like=like, max_bytes=1)  # a pair at hand says how many they are
    with pytest.raises(ValueError, match="max_bytes must be an integer of at least 1"):
        pyrovae.load(state, max_bytes=0)


def test_a_table_of_many_columns_and_categories_comes_back(tmp_path):
    # whose names are more than its tensors
    columns = [pyrovae.Column(f"c{i}", "real") for i in range(200)]
    columns.append(pyrovae.Column("city", "categorical", [f"city {i}" for i in range(500)]))
    vae = pyrovae.table_vae(columns, 2, hidden_dims=(4,))
    again = pyrovae.load(pyrovae.save(tmp_path / "state", vae))
    assert all(map(torch.equal, vae.parameters(), again.parameters())) and again.columns == vae.columns


@pytest.mark.parametrize(
    "categories", [(10115, 80331, 1234567), tuple(range(500)), ("flow(num_transforms=100000000)", "y"), (True, None, 3)]
)
@pytest.mark.parametrize("make", [pyrovae.table_vae, pyrovae.ColumnMixture])
def test_categories_are_words_whatever_they_are(tmp_path, make, categories):
    columns = [pyrovae.Column("zip", "categorical", categories), pyrovae.Column("r", "real")]
    again = pyrovae.load(pyrovae.save(tmp_path / "state", make(columns, 2)))
    assert again.columns == tuple(columns)


def some_json(generator, depth=0):
    kind = generator.random()
    if depth > 4 or kind < 0.4:
        return generator.choice([None, True, 1, -3.5, 1e300, float("inf"), 'a"é\n', "x,:[{", 10**30, [], {}, ""])
    if kind < 0.7:
        return [some_json(generator, depth + 1) for _ in range(generator.randrange(6))]
    return {f"{generator.choice('aé')}{i}": some_json(generator, depth + 1) for i in range(generator.randrange(6))}


def test_what_is_canonical_is_what_json_writes(monkeypatch):
    monkeypatch.setattr(json_files, "PIECE", 2)
    generator = random.Random(0)
    for _ in range(300):
        value = some_json(generator)
        content = json.dumps(value, indent=1).encode()
        assert json_files.is_canonical(content, value)
        for other in (content + b" ", content[:-1], content.replace(b"1", b"1.0", 1).replace(b"\n", b"\n ", 1)):
            assert other == content or not json_files.is_canonical(other, value)


def test_what_could_not_be_read_is_not_written(tmp_path):
    vae = pyrovae.linear_vae(3, 1)
    pyrovae.save(tmp_path / "state", vae)
    with pytest.raises(CheckpointError, match=r"would be too large: it has 160,\d+ lists and tables"):
        write(tmp_path / "state", vae, ({"words": [[]] * 160_000}, {}))
    pyrovae.load(tmp_path / "state")


def damaged(folder, contents):
    """How many of these contents of a file of the state are refused."""
    count = 0
    for file, content in contents:
        before = (folder / file).read_bytes()
        (folder / file).write_bytes(content)
        try:
            pyrovae.load(folder)
        except CheckpointError:
            count += 1
        (folder / file).write_bytes(before)
    return count


def truncations(folder, step):
    for file in (MANIFEST, WEIGHTS):
        content = (folder / file).read_bytes()
        yield from ((file, content[:length]) for length in range(0, len(content), step))


def flips(folder, count):
    generator = random.Random(0)
    for _ in range(count):
        file = generator.choice((MANIFEST, WEIGHTS))
        content = bytearray((folder / file).read_bytes())
        content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        yield file, bytes(content)


@pytest.mark.parametrize(
    ("step", "count"), [(97, 40), pytest.param(1, 1_000, marks=pytest.mark.long)], ids=["some", "all"]
)
def test_every_truncation_and_every_flipped_bit_is_found(tmp_path, step, count):
    folder = pyrovae.save(tmp_path / "state", pyrovae.linear_vae(2, 1))
    assert damaged(folder, [(MANIFEST, (folder / MANIFEST).read_bytes())]) == 0  # the control
    content = (folder / WEIGHTS).read_bytes()
    last = [content[:-n] + bytes([content[-n] ^ 1]) + content[len(content) - n + 1 :] for n in (1, 2, 5)]
    assert damaged(folder, [(WEIGHTS, each) for each in last]) == 3  # in the values themselves
    cut = list(truncations(folder, step))
    assert damaged(folder, cut) == len(cut) and (step > 1 or len(cut) > 2_000)
    assert damaged(folder, flips(folder, count)) == count
