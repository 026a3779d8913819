"""From 20,000 colour images in a file, and from a folder of PNGs, to every result and the report, by commands alone."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import arviz as az
import numpy as np
import pytest
from PIL import Image

from pyrovae.cli import main

pytestmark = pytest.mark.slow
SHAPES = ("disc", "square", "cross")


def pictures(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """RGB images of a red, green or blue shape on a shaded background, (count, 32, 32, 3) of uint8, and its kind."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 3, count)
    row, column = np.mgrid[0:32, 0:32].astype(np.float32)
    x, y = rng.uniform(11, 21, (2, count, 1, 1)).astype(np.float32)
    size = rng.uniform(5, 9, (count, 1, 1)).astype(np.float32)
    across, down = np.abs(column - x), np.abs(row - y)
    largest = np.maximum(across, down)
    cross = (np.minimum(across, down) < 2.5) & (largest < size)
    inside = np.choose(kind[:, None, None], [np.hypot(across, down) < size, largest < size, cross])
    hue = np.eye(3, dtype=np.float32)[rng.integers(0, 3, count)]
    colour = 0.1 + hue * rng.uniform(0.35, 0.9, (count, 1)).astype(np.float32)
    slope = rng.uniform(-0.2, 0.2, (count, 1, 1)).astype(np.float32)
    shade = 0.35 + slope * (row - 16) / 16
    image = np.where(inside[..., None], colour[:, None, None], shade[..., None])
    image = image + 0.02 * rng.standard_normal(image.shape, np.float32)
    return np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8), kind


@pytest.fixture
def run(tmp_path, monkeypatch, capsys) -> Callable[[str], str]:
    """Runs a command in an empty folder, and gives what it prints."""
    monkeypatch.chdir(tmp_path)

    def of(command: str) -> str:
        capsys.readouterr()
        status = main(command.split())
        out, error = capsys.readouterr()
        assert status == 0, error
        return out

    return of


def result(text: str) -> list[dict]:
    """The first result of each run in what `evaluate --json` prints."""
    return [one["results"][0] for one in json.loads(text)["runs"]]


def table(file: str) -> list[dict[str, str]]:
    with Path(file).open(newline="") as opened:
        return list(csv.DictReader(opened))


@pytest.mark.long
def test_colour_images_in_a_file(run):
    images, kind = pictures(20_000)
    np.save("x.npy", images)
    np.save("y.npy", kind)
    assert "20,000" in run("data x.npy")
    read = "x.npy --labels y.npy --channel-axis last --hidden-dims 128"
    normal = "--network mlp --likelihood normal --batch-size 64 --learning-rate 0.004 --epochs 1"
    run(f"fit {read} {normal} --latent-dim 8 --out vae")
    run(f"fit {read} {normal} --out plane")
    run(f"fit {read} --model mlp_ae --batch-size 64 --epochs 1 --out ae")

    # what they are worth
    assert "  elbo  " in run("evaluate vae --num-items 100 --num-particles 100")
    shares = [each["r2"] for each in result(run("evaluate vae plane ae -e reconstruction --json"))]
    assert shares[0] > 0.5 > shares[1] > 0.2 > shares[2] > 0  # eight dimensions keep more than two
    found = json.loads(run("compare vae plane -e elbo --num-items 100 --json"))
    assert found["differences"][0]["better"] == "vae" and found["differences"][0]["low"] > 10

    # what they make of items
    run("sample vae --mean -o samples.png")
    run("sample vae -n 5 -o samples/")
    assert [Image.open(file).size for file in sorted(Path("samples").iterdir())] == [(32, 32)] * 5
    run("encode vae -o codes.csv")
    rows = table("codes.csv")
    assert len(rows) == 4_000 and list(rows[0])[-1] == "latent_7"
    assert {row["label"] for row in rows} == {"0", "1", "2"}
    run("encode plane -o codes.png")
    run("reconstruct vae -o reconstructions.png")
    run("reconstruct vae --num-items 10 -o reconstructions.npz")
    with np.load("reconstructions.npz") as archive:
        assert archive["reconstruction"].shape == archive["x"].shape == (10, 3, 32, 32)
    run("export plane --num-items 5 --num-draws 10 -o plane.nc")
    assert az.from_netcdf("plane.nc").posterior["latent"].shape == (1, 10, 5, 2)

    # what is missing of new ones
    new = np.moveaxis(pictures(12, seed=1)[0], -1, 1) / 255
    holes = new.copy()
    holes[:, :, 16:] = np.nan
    np.save("holes.npy", holes)
    run("impute vae --data holes.npy --num-draws 60 --interval 0.9 -o filled.npz")
    run("impute vae --data holes.npy --num-items 4 --num-draws 10 -o filled.png")
    with np.load("filled.npz") as archive:
        filled, lower, upper = (archive[name] for name in ("x", "lower", "upper"))
    assert np.array_equal(filled[:, :, :16], new[:, :, :16])
    lost = new[:, :, 16:]
    usual = np.moveaxis(images, -1, 1).mean(0)[:, 16:] / 255
    assert np.square(filled[:, :, 16:] - lost).mean() < np.square(usual - lost).mean()
    inside = (lower[:, :, 16:] <= lost) & (lost <= upper[:, :, 16:])
    assert inside.mean() > 0.8

    run("report plane ae --num-items 20 --num-ledger-items 2 --num-particles 100 -o report.html")
    page = Path("report.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>") and all(f">{name}<" in page for name in ("plane", "ae"))


def test_a_folder_of_pngs(run):
    images, kind = pictures(240, seed=2)
    images = images[:, ::2, ::2]  # a quarter of the work
    for number, (image, label) in enumerate(zip(images, kind, strict=True)):
        file = Path("images", SHAPES[label], f"{number:03d}.png")
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    run("fit images --epochs 2 --batch-size 32 --out vae")  # all else by default
    run("fit images --model gaussian_classifier --covariance diagonal --floor 0.01 --out classes")
    assert result(run("evaluate vae --num-items 20 --num-particles 50 --json"))[0]["estimator"] == "elbo"
    assert result(run("evaluate classes --json"))[0]["accuracy"]["value"] > 1 / 3
    run("encode vae -o codes.csv")
    assert {row["label"] for row in table("codes.csv")} == set(SHAPES)  # by the names of the folders
    run("sample classes --label disc -n 3 -o discs.png")
    run("reconstruct vae -o reconstructions.png")
    half = np.zeros((3, 16, 16), bool)
    half[:, 8:] = True
    np.save("half.npy", half)
    run("impute vae --mask half.npy --num-items 2 --num-draws 5 --num-steps 10 -o filled/")
    run("export vae --num-items 3 --num-draws 5 -o vae.nc")
    run("report vae --num-items 20 --num-ledger-items 2 --num-particles 100 -o report.html")
    assert "<!doctype html>" in Path("report.html").read_text(encoding="utf-8")[:20]
