"""What does the explorer of a report look like? The README's picture, made again.

    python analysis/explorer_picture.py --root data          # MNIST, a few epochs: about ten minutes on two cores

Fits the autoencoder and the VAE of the post to MNIST, writes a report's page with their code planes, and takes a
picture of it with a browser, which playwright drives (`pip install -e ".[dev]"`; the browser is `--browser`).
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch

import pyrovae
from pyrovae.report import Entry, explorer, page

LIKELIHOOD = pyrovae.Normal(0.626, link="sigmoid")  # the post's squared error


def fitted(kind: str, data: pyrovae.data.Dataset, out: Path, items: int, epochs: int) -> pyrovae.VAE | pyrovae.AE:
    """The fitted pair, from its folder where an earlier run left it."""
    folder = out / kind
    if folder.exists():
        return pyrovae.load(folder)
    torch.manual_seed(0)
    make = {"AE": pyrovae.conv_ae, "VAE": pyrovae.conv_vae}[kind]
    pair = make(data.event_shape, 2, likelihood=LIKELIHOOD)
    pyrovae.fit(pair, data.train.x[:items], epochs=epochs, batch_size=128, learning_rate=2e-3)
    pyrovae.save(folder, pair)
    return pair


def photograph(file: Path, picture: Path, browser: str) -> None:
    """The page as a reader sees it at 1,600 pixels, with the pointer in the VAE's plane."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        view = opened.new_page(viewport={"width": 1600, "height": 900}, color_scheme="light")
        view.goto(file.resolve().as_uri())
        view.wait_for_selector("#explorer[data-ready]")
        for plane, (across, up) in zip(view.locator(".plane").all(), ((0.71, 0.3), (0.3, 0.62)), strict=True):
            box = plane.bounding_box()
            view.mouse.click(box["x"] + across * box["width"], box["y"] + up * box["height"])
            view.wait_for_timeout(500)
        box = view.locator(".plane").last.bounding_box()
        view.mouse.move(box["x"] + 0.67 * box["width"], box["y"] + 0.27 * box["height"])
        view.wait_for_timeout(500)
        part = view.locator("#explorer").bounding_box()
        top, bottom = part["y"] - 20, view.locator(".planes").bounding_box()
        clip = {"x": 110, "y": top, "width": 1380, "height": bottom["y"] + bottom["height"] + 8 - top}
        view.screenshot(path=picture, clip=clip)
        opened.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--root", default=None)
    parser.add_argument("--out", type=Path, default=Path("out/explorer_picture"))
    parser.add_argument("--items", type=int, default=15_000)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--browser", default=shutil.which("chromium") or "chromium")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    data = pyrovae.data.load(options.data, root=options.root)
    entries = [Entry(kind, fitted(kind, data, options.out, options.items, options.epochs)) for kind in ("AE", "VAE")]
    file = options.out / "explorer.html"
    file.write_text(page("The codes of an autoencoder and of a VAE", [], explorer(entries, data)), encoding="utf-8")
    photograph(file, options.out / "explorer.png", options.browser)
    print(f"{file} and {options.out / 'explorer.png'}")


if __name__ == "__main__":
    main()
