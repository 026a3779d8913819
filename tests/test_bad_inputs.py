"""Fifty bad inputs, each through Python and, where it applies, the command line: what each must get.

An input is refused by an error that names the argument, what was expected and what came; or it is taken as what it is.
The ids name the rows. What takes processes of its own, or seconds, is marked slow.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import re
import resource
import subprocess
import sys
import tarfile
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.poutine as poutine
import pytest
import torch
from conftest import default_dtype
from PIL import Image
from torch import nn

import pyrovae
from pyrovae.cli import main
from pyrovae.data import load, table
from pyrovae.data.idx import read_idx

ROWS: dict[str, Callable[[Path], None]] = {}
LINES: dict[str, tuple[str, str]] = {}  # what is typed, and what is answered
QUIET: dict[str, Any] = {"progress": False}
EPOCH: dict[str, Any] = {"progress": False, "epochs": 1}


def row(
    name: str, *, typed: str = "", answered: str = ""
) -> Callable[[Callable[[Path], None]], Callable[[Path], None]]:
    """A row of the table; `typed` is a line of arguments for the command line, in a folder of files."""

    def add(function: Callable[[Path], None]) -> Callable[[Path], None]:
        ROWS[name] = function
        if typed:
            LINES[name] = typed, answered
        return function

    return add


def refused(words: str, call: Callable[[], Any], kind: type[Exception] = ValueError) -> None:
    with pytest.raises(kind, match=words):
        call()


def items(n: int = 12, d: int = 4) -> torch.Tensor:
    return torch.rand(n, d, generator=torch.Generator().manual_seed(0))


def linear(**options: Any) -> pyrovae.VAE:
    torch.manual_seed(0)
    return pyrovae.linear_vae(4, 2, **options)


def binary(**options: Any) -> pyrovae.VAE:
    torch.manual_seed(0)
    return pyrovae.mlp_vae((4,), 2, hidden_dims=(3,), **options)


def same(a: nn.Module, b: nn.Module) -> bool:
    states = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(one, other) for one, other in states)


@row(
    "1 wrong shape",
    typed="evaluate run --data narrow.npy",
    answered=r"of items of shape \(4,\), and those of --data narrow\.npy have shape \(3,\)",
)
def wrong_shape(at: Path) -> None:
    refused(
        r"x must have shape \(N, 4\), got \(12, 2, 2\); x.reshape\(\(-1, 4\)\)",
        lambda: linear().encode(items().view(12, 2, 2)),
    )
    refused(
        r"x must have shape \(N, 4\), got \(4,\); one item is x\[None\]",
        lambda: pyrovae.fit(linear(), items()[0], **EPOCH),
    )


@row("2 NaN or infinite values", typed="fit missing.npy --out new", answered=r"missing \(NaN\)")
def not_finite(at: Path) -> None:
    x = items()
    x[3, 1] = torch.nan
    x[5, 2] = torch.inf
    refused(
        r"x must be finite: 2 NaN or infinite values, the first at x\[3, 1\]", lambda: pyrovae.fit(linear(), x, **EPOCH)
    )


@row(
    "3 values outside the likelihood's support",
    typed="fit wide.npy --likelihood bernoulli --out new",
    answered=r"bernoulli",
)
def outside_support(at: Path) -> None:
    refused(
        r"x lies outside the support .*min 1\..*max 1\..*likelihood that fits: 'normal'",
        lambda: pyrovae.elbo(binary(), items() + 1),
    )


@row("4 grey values under Bernoulli", typed="fit x.npy --likelihood bernoulli --out new", answered=r"--binarize")
def grey(at: Path) -> None:
    refused(
        r"x has grey values .*binarize=True.*likelihood='continuous_bernoulli'",
        lambda: pyrovae.fit(binary(), items(), **EPOCH),
    )


@row("5 uint8 0..255", typed="data bytes.npy", answered="")
def uint8(at: Path) -> None:
    x = (items() * 255).to(torch.uint8)
    refused(r"x looks like 0..255 integers; divide by 255", lambda: pyrovae.fit(linear(), x, **EPOCH))


@row("6 empty array", typed="fit empty.npy --out new", answered=r"empty\.npy is empty")
def empty(at: Path) -> None:
    refused(
        r"x is empty: expected shape \(N, 4\) with N of at least 1", lambda: pyrovae.fit(linear(), items()[:0], **EPOCH)
    )


@row("7 one item", typed="fit one.npy --out new", answered=r"one\.npy must have at least 2 items")
def one_item(at: Path) -> None:
    assert np.isfinite(float(pyrovae.fit(linear(), items(1), **EPOCH).epochs.loss[-1]))
    np.save(at / "x.npy", items(1).numpy())
    refused(r"x\.npy must have at least 2 items", lambda: load(at / "x.npy"))
    refused("x has 1 items for 2 components", lambda: pyrovae.fit(pyrovae.GaussianMixture((4,), 2), items(1), **QUIET))


@row("8 labels of another length", typed="fit x.npy --labels short.npy --out new", answered=r"x\.npy has 12 items")
def other_length(at: Path) -> None:
    classifier = pyrovae.gaussian_classifier((4,), 2)
    refused(r"x has 12 items, y has 11", lambda: pyrovae.fit(classifier, items(), torch.arange(11) % 2, **QUIET))


@row(
    "9 NaN label", typed="fit x.npy --labels nan.npy --model gaussian_classifier --out new", answered=r"1 missing label"
)
def nan_label(at: Path) -> None:
    y = np.arange(12.0) % 2
    y[4] = np.nan
    classifier = pyrovae.gaussian_classifier((4,), 2)
    refused(
        r"y has 1 missing labels \(NaN or None\), the first at y\[4\]",
        lambda: pyrovae.fit(classifier, items(), y, **QUIET),
    )


@row("10 one class only", typed="fit x.npy --labels ones.npy --model gaussian_classifier --out new", answered=r"class")
def one_class(at: Path) -> None:
    classifier = pyrovae.gaussian_classifier((4,), 2)
    refused(r"class", lambda: pyrovae.fit(classifier, items(), torch.ones(12, dtype=torch.long), **QUIET))


@row("11 labels as strings, or not 0..C-1")
def named_labels(at: Path) -> None:
    for names in (np.array(["b", "a"]), np.array([7, 3])):
        classifier = pyrovae.gaussian_classifier((4,), 2)
        pyrovae.fit(classifier, items(40), names[np.arange(40) % 2], **QUIET)
        assert classifier.classes_.tolist() == sorted(names.tolist())
        assert set(np.asarray(classifier.predict(items(40))).tolist()) <= set(names.tolist())


@row("12 float64")
def float64(at: Path) -> None:
    assert torch.equal(linear().encode(items().double()), linear().encode(items()))


@row("13 half precision on CPU")
def half(at: Path) -> None:
    x = items().half()
    assert torch.equal(linear().encode(x), linear().encode(x.float()))


@row("14 strided, negative strides, read-only numpy")
def strided(at: Path) -> None:
    x = items().numpy()
    frozen = x.copy()
    frozen.flags.writeable = False
    for given in (np.repeat(x, 2, 0)[::2], x[::-1].copy()[::-1], frozen, np.asfortranarray(x), x.astype(">f4")):
        assert torch.equal(linear().encode(given), linear().encode(items()))


@row(
    "15 batch size, epochs, learning rate zero or negative",
    typed="fit x.npy --epochs -1 --out new",
    answered=r"--epochs must be an integer of at least 1, got -1",
)
def zero(at: Path) -> None:
    for name, value in {"batch_size": 0, "epochs": -1}.items():
        refused(
            rf"{name} must be an integer of at least 1, got {value}",
            lambda name=name, value=value: pyrovae.fit(linear(), items(), **QUIET, **{name: value}),
        )
    refused(
        "learning_rate must be a finite number greater than 0, got 0",
        lambda: pyrovae.fit(linear(), items(), learning_rate=0, **EPOCH),
    )


@row(
    "16 latent_dim 0 or negative",
    typed="fit x.npy --latent-dim 0 --out new",
    answered=r"--latent-dim must be an integer of at least 1, got 0",
)
def latent_dim(at: Path) -> None:
    for build in (
        lambda n: pyrovae.linear_vae(4, n),
        lambda n: pyrovae.mlp_vae((4,), n),
        lambda n: pyrovae.conv_vae((1, 8, 8), n),
    ):
        for count in (0, -3):
            refused(
                f"latent_dim must be an integer of at least 1, got {count}",
                lambda build=build, count=count: build(count),
            )


@row(
    "17 truncated IDX file", typed="data cut", answered=r"is truncated: expected 24 bytes for shape \(2, 2, 2\), got 20"
)
def truncated(at: Path) -> None:
    path = at / "t-images-idx3-ubyte"
    path.write_bytes(bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 2, 1, 2, 3, 4]))
    refused(
        r"t-images-idx3-ubyte is truncated: expected 24 bytes for shape \(2, 2, 2\), got 20", lambda: read_idx(path)
    )


@row("18 download with wrong checksum")
def checksum(at: Path) -> None:
    raw = at / "MNIST" / "raw"

    class Fetched:
        resources = (("train-images-idx3-ubyte.gz", "0" * 32),)

        def __init__(self, *_: object, **__: object) -> None:
            raw.mkdir(parents=True)
            (raw / "train-images-idx3-ubyte.gz").write_bytes(b"x")
            raise RuntimeError("File not found or corrupted.")

    module = types.ModuleType("torchvision.datasets")
    module.MNIST = Fetched  # type: ignore[attr-defined]
    before = sys.modules.get("torchvision.datasets")
    sys.modules["torchvision.datasets"] = module
    try:
        actual = hashlib.md5(b"x").hexdigest()
        words = rf"checksum is wrong of .*ubyte\.gz \(expected MD5 {'0' * 32}, got {actual}\); delete"
        refused(words, lambda: load("mnist", root=at, download=True), RuntimeError)
    finally:
        del sys.modules["torchvision.datasets"]
        if before is not None:
            sys.modules["torchvision.datasets"] = before


@row("19 archive with path traversal", typed="data bad.tar", answered=r"archives are not unpacked")
def traversal(at: Path) -> None:
    inside = at / "inside"
    inside.mkdir()
    with tarfile.open(inside / "x.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("../escaped"), io.BytesIO())
    refused(r"x\.tar must be .*archives are not unpacked", lambda: load(inside / "x.tar"))
    np.savez(inside / "x.npz", **{"../escaped": np.zeros(3), "x": items().numpy()})
    assert load(inside / "x.npz").event_shape == (4,)
    assert sorted(path.name for path in at.iterdir()) == ["inside"]


@row("20 output folder not writable", typed="fit x.npy --out x.npy/run", answered=r"x\.npy")
def not_writable(at: Path) -> None:
    (at / "file").write_text("")
    pair = linear()
    with pytest.raises((OSError, ValueError), match="file"):
        pyrovae.fit(pair, items(), checkpoint=at / "file" / "run", **EPOCH)
    assert same(pair, linear())


@row("21 disk full while saving")
def disk_full(at: Path) -> None:
    kept = binary()
    pyrovae.save(at / "state", kept)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, before[1]))  # no file may grow beyond: Python ignores the signal
    try:
        with pytest.raises(OSError):
            pyrovae.save(at / "state", linear())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert same(pyrovae.load(at / "state"), kept)


@row("22 load of a path that is missing", typed="evaluate nowhere", answered=r"nowhere")
def missing_path(at: Path) -> None:
    pyrovae.save(at / "first", linear())
    refused(
        r"second does not exist; saved states beside it: first", lambda: pyrovae.load(at / "second"), FileNotFoundError
    )


@row("23 checkpoint of another architecture")
def other_architecture(at: Path) -> None:
    pyrovae.save(at / "state", linear())
    refused(
        r"another architecture:(.|\n)*recipe\.",
        lambda: pyrovae.load(at / "state", like=binary()),
        pyrovae.CheckpointError,
    )


@row("24 checkpoint of another format version")
def other_version(at: Path) -> None:
    folder = pyrovae.save(at / "state", linear())
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    (folder / "manifest.json").write_text(json.dumps({**manifest, "format_version": 99}), encoding="utf-8")
    refused(r"format version 99, this pyrovae reads \d", lambda: pyrovae.load(folder), pyrovae.CheckpointError)


class Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@row("25 malicious pickle given as a checkpoint", typed="evaluate pickle.pt", answered=r"pickle\.pt")
def malicious(at: Path) -> None:
    folder = pyrovae.save(at / "state", linear())
    mark = at / "executed"
    for file in ("manifest.json", "weights.safetensors"):
        before = (folder / file).read_bytes()
        (folder / file).write_bytes(pickle.dumps(Bomb(mark)))
        refused(f"{file}", lambda: pyrovae.load(folder), pyrovae.CheckpointError)
        (folder / file).write_bytes(before)
    torch.save(Bomb(mark), at / "state.pt")
    refused(r"state\.pt", lambda: pyrovae.load(at / "state.pt"), pyrovae.CheckpointError)
    assert not mark.exists()


@row("26 checkpoint truncated, empty or with a flipped bit")
def damaged(at: Path) -> None:
    folder = pyrovae.save(at / "state", linear())
    weights = folder / "weights.safetensors"
    whole = weights.read_bytes()
    for harmed in (whole[:-5], b"", whole[:-1] + bytes([whole[-1] ^ 1])):
        weights.write_bytes(harmed)
        refused(r"weights\.safetensors", lambda: pyrovae.load(folder), pyrovae.CheckpointError)


class Stops(pyrovae.callbacks.Callback):
    """An interrupt at the end of an epoch."""

    def __init__(self, at: int, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.at, self.error = at, error

    def epoch(self, run: Any, *_: Any, **__: Any) -> None:
        self.at -= 1
        if self.at == 0:
            raise self.error


@row("27 Ctrl-C while training")
def interrupted(at: Path) -> None:
    options: dict[str, Any] = {"epochs": 4, "batch_size": 4, **QUIET}
    whole = linear()
    pyrovae.fit(whole, items(), **options)
    pair = linear()
    with pytest.raises(KeyboardInterrupt):
        pyrovae.fit(pair, items(), checkpoint=at / "run", callbacks=[Stops(2)], **options)
    again = linear()
    pyrovae.fit(again, items(), checkpoint=at / "run", resume=True, **options)
    assert same(whole, again)


KILLED = """
import os, signal, sys, torch, pyrovae
class Dies(pyrovae.callbacks.Callback):
    left = 3
    def epoch(self, *_, **__):
        self.left -= 1
        if not self.left and {dies}:
            os.kill(os.getpid(), signal.SIGKILL)
torch.manual_seed({seed})
pair = pyrovae.linear_vae(4, 2)
x = torch.rand(12, 4, generator=torch.Generator().manual_seed(0))
pyrovae.fit(pair, x, checkpoint="run", checkpoint_every=1, resume=True, callbacks=[Dies()], epochs=5, batch_size=4,
            progress=False)
pyrovae.save("result{seed}", pair)
"""


@row("28 SIGTERM, kill -9 while training or saving")
def killed(at: Path) -> None:
    def run(seed: int, dies: bool) -> int:
        return subprocess.run(
            [sys.executable, "-c", KILLED.format(seed=seed, dies=dies)], cwd=at, check=False
        ).returncode

    assert run(0, True) == -9
    assert run(7, False) == 0  # from other initial weights, which the checkpoint's take the place of
    whole = linear()
    pyrovae.fit(whole, items(), epochs=5, batch_size=4, **QUIET)
    assert same(pyrovae.load(at / "result7"), whole)


@row("29 loss turns NaN")
def nan_loss(at: Path) -> None:
    pair = linear()
    with pytest.raises(FloatingPointError, match=r"(?s)loss|gradient|weight") as caught:
        pyrovae.fit(pair, items(), learning_rate=1e30, epochs=20, batch_size=4, **QUIET)
    assert re.search(r"epoch|step|batch", str(caught.value))
    assert all(bool(p.isfinite().all()) for p in pair.parameters())


@row("30 encoder scale overflows")
def scale_overflows(at: Path) -> None:
    pair = binary()
    with torch.no_grad():
        for parameter in pair.posterior.parameters():
            parameter.mul_(1e6)
    q = pair.posterior(items())
    assert bool(q.log_prob(q.rsample()).isfinite().all())


@row("31 class with fewer items than mixture components")
def few_in_class(at: Path) -> None:
    densities = {name: pyrovae.GaussianMixture((4,), 3) for name in ("a", "b")}
    y = np.array(["a"] * 38 + ["b"] * 2)
    refused(r"b.*2|2.*b", lambda: pyrovae.fit(pyrovae.GenerativeClassifier(densities), items(40), y, **QUIET))


@row("32 singular covariance, constant feature")
def singular(at: Path) -> None:
    x = items(40)
    x[:, 2] = 0.5
    mixture = pyrovae.GaussianMixture((4,), 1)
    with pytest.warns(pyrovae.VarianceFloorWarning, match=r"\b2\b"):
        pyrovae.fit(mixture, x, **QUIET)
    assert bool(mixture.log_prob(x).isfinite().all())


@row("33 unknown data set, likelihood, device", typed="fit mnits --out new", answered=r"did you mean mnist\?")
def unknown(at: Path) -> None:
    refused(r"name_or_path must be one of .*did you mean 'mnist'", lambda: load("mnits"))
    refused(r"likelihood .*did you mean 'bernoulli'", lambda: pyrovae.mlp_vae((4,), likelihood="bernouli"))
    refused(r"device must be .*available here: cpu", lambda: pyrovae.fit(linear(), items(), device="gpu", **EPOCH))


@row(
    "34 CUDA asked for and absent",
    typed="fit x.npy --device cuda:99 --out new",
    answered=r"cuda:99.* cannot be used; available here",
)
def no_cuda(at: Path) -> None:
    refused(
        r"device 'cuda:99' cannot be used; available here: cpu",
        lambda: pyrovae.fit(linear(), items(), device="cuda:99", **EPOCH),
    )


@row("35 two models trained in one process")
def two_models(at: Path) -> None:
    alone = linear()
    pyrovae.fit(alone, items(), **EPOCH)
    first, second = linear(), linear()
    pyrovae.fit(first, items().flip(0), **EPOCH)
    pyrovae.fit(second, items(), **EPOCH)
    assert same(second, alone) and not same(second, linear()) and not same(first, second)


@row("36 float64 values that float32 cannot tell apart")
def offsets(at: Path) -> None:
    x = items().double() + 1.7e9
    refused(r"torch.float32 does not hold x: .*subtract an offset", lambda: pyrovae.fit(linear(), x, **EPOCH))
    np.save(at / "x.npy", x.numpy())
    assert load(at / "x.npy").train.x.dtype == torch.float64


@row("37 columns of scales 1e9 apart, one constant")
def unlike_scales(at: Path) -> None:
    scales = torch.tensor([1e-5, 1.0, 1e4, 1.0], dtype=torch.float64)
    x = items(40).double()
    x[:, 3] = 0.5
    values = []
    for scale in (torch.ones(4, dtype=torch.float64), scales):
        mixture = pyrovae.GaussianMixture((4,), 1).double()
        with pytest.warns(pyrovae.VarianceFloorWarning, match=r"\b3\b"):
            pyrovae.fit(mixture, x * scale, **QUIET)
        values.append(mixture.log_prob(x * scale) + scale.log().sum())
    torch.testing.assert_close(values[0], values[1], rtol=1e-6, atol=1e-6)


@row("38 parameters that share memory")
def shared_memory(at: Path) -> None:
    pairs = []
    for compile in (False, True):
        pair = tied()
        with standing_for_a_compiler():
            pyrovae.fit(pair, items().round(), compile=compile, epochs=2, **QUIET)
        pairs.append(pair)
    for one, other in zip(pairs[0].parameters(), pairs[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    assert not same(pairs[1], tied())


def tied() -> pyrovae.VAE:
    """A pair of which two biases lie in one memory."""
    pair = binary()
    layers = [module for module in pair.modules() if isinstance(module, nn.Linear) and module.out_features == 3]
    layers[1].bias = layers[0].bias
    return pair


def standing_for_a_compiler() -> Any:
    """The captured graph itself, as Python runs it."""
    patch = pytest.MonkeyPatch.context()

    class Both:
        def __enter__(self) -> None:
            patch.__enter__().setattr(
                "pyrovae.compile.function.compile_graph", lambda graph, inputs, keep_noise=False: graph
            )

        def __exit__(self, *error: Any) -> None:
            patch.__exit__(*error)

    return Both()


@row("39 scaled, subsampled or masked sites in a pair under evaluation")
def scaled_sites(at: Path) -> None:
    pair = linear().double()
    expected = pyrovae.exact(pair, items()).pointwise.value.values

    class Scaled(type(pair)):  # type: ignore[misc]
        def model(self, *args: Any, **kwargs: Any) -> Any:
            with poutine.scale(scale=1 / 50):
                return super().model(*args, **kwargs)

        def guide(self, *args: Any, **kwargs: Any) -> Any:
            with poutine.scale(scale=1 / 50):
                return super().guide(*args, **kwargs)

    scaled = Scaled(pair.prior, pair.likelihood, pair.posterior)
    estimate = pyrovae.iwae(scaled, items(), num_particles=2000).pointwise.value.values
    assert abs(estimate - expected).max() < 0.2  # a fiftieth of it would be off by nats
    assert abs(expected / 50 - expected).min() > 1


@row("40 BatchNorm, dropout; a last batch of one")
def batch_norm(at: Path) -> None:
    def pair() -> pyrovae.VAE:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
        return pyrovae.VAE(linear().prior, linear().likelihood, pyrovae.DiagonalNormal(network, 3, 2))

    one = pair()
    assert torch.equal(one.encode(items()), one.encode(items()))
    assert torch.equal(one.encode(items())[:3], one.encode(items()[:3]))
    refused(r"batch.*\b1\b|\b1\b.*batch", lambda: pyrovae.fit(pair(), items(13), batch_size=4, **EPOCH))


@row("41 two threads")
def two_threads(at: Path) -> None:
    pair, fitted, alone = linear(), linear(), linear()  # made before, for a seed is set for the whole process
    pyrovae.fit(alone, items(), epochs=2, **QUIET)
    expected = str(pyrovae.iwae(pair, items(), num_particles=5))
    found: list[str] = []

    def evaluate() -> None:
        for _ in range(3):
            found.append(str(pyrovae.iwae(pair, items(), num_particles=5)))

    thread = threading.Thread(target=evaluate)
    thread.start()
    pyrovae.fit(fitted, items(), epochs=2, **QUIET)
    thread.join()
    assert found == [expected] * 3 and same(fitted, alone)


@row("42 data rebound after a capture")
def rebound(at: Path) -> None:
    data = items()

    def model() -> None:
        loc = pyro.param("loc", torch.zeros(4))
        with pyro.plate("data", len(data)):
            pyro.sample("obs", pyro.distributions.Normal(loc, 1.0).to_event(1), obs=data)

    def guide() -> None:
        pass

    with standing_for_a_compiler():
        svi = pyrovae.CompiledSVI(model, guide, pyro.optim.Adam({"lr": 0.1}), pyro.infer.Trace_ELBO())
        svi.step()
        data = items() + 100
        try:
            loss = svi.step()
        except pyrovae.CaptureError as error:
            assert "'data' of an enclosing function" in str(error)
        else:
            assert loss > 12 * 4 * 0.5 * 99**2


@row(
    "43 integers of a table, counts over 255",
    typed="fit counts.npy --likelihood poisson --epochs 1 --out counted",
    answered="",
)
def counts(at: Path) -> None:
    x = (items() * 1000).long()
    pair = binary(likelihood="poisson")
    assert int(x.max()) > 255
    pyrovae.fit(pair, x, **EPOCH)
    expected = pyrovae.elbo(pair, x.double(), num_particles=2)
    assert str(pyrovae.elbo(pair, x, num_particles=2)).split(" ± ")[0] == str(expected).split(" ± ")[0]


@row("44 DataFrame with object, nullable or date columns; AnnData; sparse")
def frames(at: Path) -> None:
    pd = pytest.importorskip("pandas")
    scipy = pytest.importorskip("scipy.sparse")
    numbers = {f"c{i}": np.linspace(0, 1, 12) for i in range(3)}
    columns = {
        "holds no numbers": ["a"] * 12,
        "holds dates or times": pd.date_range("2020", periods=12),
        "has missing entries": pd.array([1, None] * 6, dtype="Int64"),
    }
    for words, column in columns.items():
        frame = pd.DataFrame({**numbers, "bad": column})
        refused(rf"column 'bad' of x .*{words}", lambda frame=frame: linear().encode(frame), TypeError)
    refused("x is a sparse array: make it dense first", lambda: linear().encode(scipy.eye(4, format="csr")), TypeError)

    class Annotated:
        X = np.zeros((12, 4))
        shape = (12, 4)

        def __getitem__(self, index: Any) -> Annotated:
            return self

    refused(r"give its array, x\.X", lambda: linear().encode(Annotated()), TypeError)


@row(
    "45 split folders, nested class folders, hidden files, EXIF orientation, palettes, 16 bit",
    typed="data pictures",
    answered="",
)
def folders(at: Path) -> None:
    for number, name in enumerate(("Train/a", "Train/b", "TEST/a", "TEST/b")):
        (at / name).mkdir(parents=True)
        Image.fromarray(np.full((4, 6), 50 * number, np.uint8)).save(at / name / "1.png")
        (at / name / "._1.png").write_bytes(b"hidden")
    data = load(at)
    assert data.classes == ("a", "b") and data.train.y.tolist() == [0, 1] and data.event_shape == (1, 4, 6)
    assert data.test.x[:, 0, 0, 0].tolist() == pytest.approx([100 / 255, 150 / 255])
    deep = np.full((4, 6), 40_000, np.uint16)
    Image.fromarray(deep).save(at / "Train/a/1.png")
    assert load(at).train.x[0].max().item() == pytest.approx(40_000 / 65_535)
    turned = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(6, 4))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(at / "Train/a/1.png", exif=exif)
    assert torch.equal(
        load(at).train.x[0, 0] * 255, torch.from_numpy(np.rot90(np.arange(24).reshape(6, 4), -1).copy()).float()
    )


@row(
    "46 counts no machine can hold",
    typed=f"fit x.npy --batch-size {10**30} --out new",
    answered=r"--batch-size must be an integer of at most 2\^63 - 1",
)
def huge_counts(at: Path) -> None:
    refused(r"num_particles=.*would take at least", lambda: pyrovae.iwae(linear(), items(), num_particles=10**13))
    refused(
        r"epochs must be an integer of at most 2\^63 - 1", lambda: pyrovae.fit(linear(), items(), epochs=2**63, **QUIET)
    )
    refused(
        r"batch_size must be an integer of at most", lambda: pyrovae.fit(linear(), items(), batch_size=10**30, **EPOCH)
    )
    for build in (lambda: pyrovae.linear_vae(4, 10**12), lambda: pyrovae.mlp_vae((4,), 10**12)):
        with pytest.raises((ValueError, MemoryError), match="memory"):
            build()
    (at / "x").mkdir()
    (at / "x" / "x.npy").write_bytes(
        b"\x93NUMPY\1\0v\0"
        + b"{'descr': '<f8', 'fortran_order': False, 'shape': (999999999999, 9), }".ljust(117)
        + b"\n"
    )
    refused(r"x\.npy is damaged .*shape \(999999999999, 9\)", lambda: load(at / "x" / "x.npy"))


@row("47 weights in a state that are NaN, of a strange dtype; a header of a million tensors")
def hostile_state(at: Path) -> None:
    from safetensors.torch import load_file, save_file

    from pyrovae.inference.checkpoint.manifest import encoded

    changes: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
        "NaN": lambda tensors: {name: torch.full_like(x, torch.nan) for name, x in tensors.items()},
        "float8": lambda tensors: {name: x.to(torch.float8_e4m3fn) for name, x in tensors.items()},
        "complex": lambda tensors: {name: x.to(torch.complex64) for name, x in tensors.items()},
        "many tensors": lambda tensors: {**tensors, **{f"x{i}": torch.zeros(()) for i in range(2000)}},
    }
    for name, change in changes.items():
        folder = pyrovae.save(at / name, linear())
        weights = folder / "weights.safetensors"
        save_file(change(load_file(weights)), weights)
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        manifest["weights_sha256"] = hashlib.sha256(weights.read_bytes()).hexdigest()
        del manifest["sha256"]
        (folder / "manifest.json").write_bytes(encoded(manifest))
        refused("safetensors|tensors", lambda folder=folder: pyrovae.load(folder), pyrovae.CheckpointError)


@row("48 a float64 default dtype")
def double_default(at: Path) -> None:
    with default_dtype(torch.float64):
        pair = pyrovae.linear_vae(4, 2)
        pyrovae.fit(pair, items().double(), **EPOCH)
        assert np.isfinite(pyrovae.exact(pair, items()).pointwise.value.values).all()


@row(
    "49 unseen categories, a column never seen, a row with nothing seen",
    typed="evaluate tables --data unseen.csv",
    answered=r"--data unseen.csv: column word has the category c that the table was not made with",
)
def unseen(at: Path) -> None:
    pd = pytest.importorskip("pandas")
    made = table(pd.DataFrame({"word": ["a", "b"] * 10, "size": np.linspace(0, 1, 20)}))
    refused(r"'word'.*'z'", lambda: made.like(pd.DataFrame({"word": ["z"], "size": [0.5]})))
    refused(r"'never'", lambda: table(pd.DataFrame({"never": [np.nan] * 20, "size": np.linspace(0, 1, 20)})))
    mixture = pyrovae.GaussianMixture((4,), 2)
    pyrovae.fit(mixture, items(40), **QUIET)
    nothing = torch.full((1, 4), torch.nan)
    draws = mixture.conditional(nothing).sample((2000,)).double()
    prior = mixture.sample(2000, seed=0).double()
    error = (draws[:, 0].var(0) / 2000 + prior.var(0) / 2000).sqrt()
    assert bool(((draws[:, 0].mean(0) - prior.mean(0)).abs() < 5 * error).all())


@row("50 a part that does not fit")
def no_fit(at: Path) -> None:
    parts = linear()
    refused("posterior", lambda: pyrovae.VAE(parts.prior, parts.likelihood, nn.Linear(4, 2)), TypeError)
    with pytest.raises(
        (ValueError, TypeError), match=r"event shape \(4,\) for z of shape \(2, 3\).*takes 2 inputs is given 3"
    ):
        pyrovae.VAE(pyrovae.StandardNormal(3), parts.likelihood, parts.posterior)


SLOW = {
    name for name in ROWS if int(name.split()[0]) in (27, 28, 32, 37, 41, 43, 47, 49)
}  # processes, or parts of a second


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in ROWS]
)
def test_by_python(name: str, tmp_path: Path) -> None:
    ROWS[name](tmp_path)


def test_every_row_is_here_once() -> None:
    assert [int(name.split()[0]) for name in ROWS] == list(range(1, 51))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    at = tmp_path_factory.mktemp("files")
    x = items().numpy()
    arrays: dict[str, Any] = {
        "x": x,
        "narrow": x[:, :3],
        "wide": x + 1,
        "bytes": (x * 255).astype(np.uint8),
        "empty": x[:0],
        "one": x[:1],
        "short": np.arange(11) % 2,
        "nan": np.where(np.arange(12) == 3, np.nan, np.arange(12) % 2),
        "ones": np.ones(12, int),
        "counts": (x * 1000).astype(np.int64),
    }
    arrays["missing"] = np.where(x > 0.9, np.nan, x)
    for name, array in arrays.items():
        np.save(at / f"{name}.npy", array)
    (at / "cut").mkdir()
    cut = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 2, 1, 2, 3, 4])
    (at / "cut" / "t-images-idx3-ubyte").write_bytes(cut)
    with tarfile.open(at / "bad.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("../escaped"), io.BytesIO())
    torch.save(Bomb(at / "executed"), at / "pickle.pt")
    for name in ("Train/a", "Train/b", "TEST/a", "TEST/b"):
        (at / "pictures" / name).mkdir(parents=True)
        Image.fromarray(np.zeros((4, 6), np.uint8)).save(at / "pictures" / name / "1.png")
    (at / "seen.csv").write_text("word,size\n" + "a,0.5\nb,0.7\na,0.1\n" * 8, encoding="utf-8")
    (at / "unseen.csv").write_text("word,size\nc,0.5\na,0.7\n", encoding="utf-8")
    return at


FITTED = {name for name, (line, _) in LINES.items() if re.search("run|tables|counted", line)}  # a fit by a command


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in FITTED else name for name in LINES]
)
def test_by_the_command_line(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    typed, answered = LINES[name]
    needed = {
        "run": "fit x.npy --network linear --latent-dim 1 --epochs 1 --out run",
        "tables": "fit seen.csv --epochs 1 --out tables",
    }
    for run, line in needed.items():
        if f" {run} " in f" {typed} " and not (folder / run).is_dir():
            assert main(line.split()) == 0, capsys.readouterr().err
    status = main(typed.split())
    error = capsys.readouterr().err
    if answered:
        assert status == 2 and "Traceback" not in error
        assert re.search(answered, error), error
        assert not (folder / "new").exists() or not any((folder / "new").iterdir())
    else:
        assert status == 0, error
    assert not (folder / "executed").exists()
