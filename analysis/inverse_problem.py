"""What does a VAE as a prior buy where images are hidden in part, or blurred?

    python analysis/inverse_problem.py                                  # 8x8 digits: some minutes
    python analysis/inverse_problem.py --data mnist --root data         # half an hour and more on two cores

Fits a VAE with a Normal likelihood and a full-covariance Gaussian mixture to the same training images. Of --items
test images the lower half, a random 75 %, or a block of half the side is hidden, or all are blurred by a Gaussian
kernel, with noise of 0.05. Each method gives draws of the images: training images at random (mean imputation by their
mean), the 20 training images nearest in what is seen, the mixture's exact conditional (of the blurred ones that of
one Gaussian), and the VAE by each method of `impute`. The blur is a likelihood of its own around the frozen VAE:
given the code what is seen is normal with the covariance of blurred likelihood noise and of the measurement, its
posterior is drawn by Pyro's NUTS, all items in one plate, and an image is the decoder's moved towards the
measurement. Over the hidden pixels, or all where blurred: the root mean squared error of the draws' mean; the mean
log-density of a normal with the draws' mean and standard deviation, 0.05 at least, in nats per pixel; the ratio of
the root mean squared spread to the error, which is 1 where it is right; and the coverage of the 90 % interval of an
item's total over these pixels, between order statistics of the draws. A pixel that is black in every image is covered
by anything: the total is not. Errors are standard errors over items.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from matplotlib.figure import Figure
from pyro.infer import MCMC, NUTS
from torch import Tensor

import pyrovae

NOISE = 0.05  # of a blurred measurement
LEAST = 0.05  # standard deviation of a pixel in the log-density
NEIGHBOURS = 20
Draws = Callable[[], Tensor]


def hidden_pixels(x: Tensor, seed: int) -> dict[str, Tensor]:
    """Where each kind of damage hides pixels: of x's shape."""
    side = x.shape[-1]
    lower = torch.zeros_like(x, dtype=torch.bool)
    lower[..., side // 2 :, :] = True
    scattered = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) < 0.75
    block = torch.zeros_like(lower)
    start = side // 4
    block[..., start : start + side // 2, start : start + side // 2] = True
    return {"lower half": lower, "random 75 %": scattered, "block": block}


def blur(side: int, width: float) -> Tensor:
    """The symmetric matrix of a Gaussian blur of square images, (pixels, pixels); outside of them is black."""
    at = torch.arange(side, dtype=torch.float32)
    weights = torch.exp(-0.5 * ((at[:, None] - at) / width) ** 2)
    one = weights / (width * math.sqrt(2 * math.pi))
    return torch.kron(one, one)


def nearest(seen: Tensor, measured: Tensor, train: Tensor) -> Tensor:
    """The training images nearest in what is measured; `seen` is what is measured of each training image."""
    distance = torch.cdist(measured.flatten(1), seen.flatten(1))
    which = distance.topk(NEIGHBOURS, largest=False).indices
    return train[which].transpose(0, 1)


def neighbours_of_masked(x: Tensor, train: Tensor) -> Tensor:
    """The training images nearest in the pixels that are not NaN, (NEIGHBOURS, N, *event_shape)."""
    chosen = []
    for row in x:
        seen = ~row.isnan()
        distance = (train[:, seen] - row[seen]).square().sum(1)
        chosen.append(train[distance.topk(NEIGHBOURS, largest=False).indices])
    return torch.stack(chosen, 1)


def by_hidden(vae: Any, mixture: Any, train: Tensor, x: Tensor, options: argparse.Namespace) -> dict[str, Draws]:
    """Each method's draws of items with NaN where a pixel is hidden."""
    n = options.draws
    generator = torch.Generator().manual_seed(0)
    at_random = train[torch.randint(len(train), (n, len(x)), generator=generator)]
    known = {
        "training images": lambda: torch.where(x.isnan(), at_random, x),
        "nearest images": lambda: torch.where(x.isnan(), neighbours_of_masked(x, train), x),
        "Gaussian mixture": lambda: mixture.conditional(x).sample((n,)),
    }

    def imputed(method: str) -> Draws:
        return lambda: vae.impute(x, num_draws=n, method=method)

    return known | {f"VAE, {method}": imputed(method) for method in options.methods}


def by_blurred(vae: Any, train: Tensor, y: Tensor, matrix: Tensor, n: int) -> dict[str, Draws]:
    """Each method's draws of items of which `y`, blurred and with noise, is measured."""
    shape = train.shape[1:]
    generator = torch.Generator().manual_seed(0)
    flat = train.flatten(1)
    at_random = train[torch.randint(len(train), (n, len(y)), generator=generator)]

    def gaussian() -> Tensor:
        mean, covariance = flat.mean(0), torch.cov(flat.T) + 1e-4 * torch.eye(flat.shape[1])
        of_measured = matrix @ covariance @ matrix + NOISE**2 * torch.eye(len(matrix))
        gain = torch.linalg.solve(of_measured, matrix @ covariance).T
        root = torch.linalg.cholesky(covariance)
        draws = mean + torch.randn(n, len(y), len(mean), generator=generator) @ root.T
        simulated = draws @ matrix + NOISE * torch.randn(draws.shape, generator=generator)
        return (draws + (y.flatten(1) - simulated) @ gain.T).unflatten(-1, shape)

    def frozen() -> Tensor:
        return deblurred(vae.frozen(), y, matrix, n).unflatten(-1, shape)

    blurred = (flat @ matrix).unflatten(1, shape)
    return {
        "training images": lambda: at_random,
        "nearest images": lambda: nearest(blurred, y, train),
        "one Gaussian": gaussian,
        "VAE, nuts": frozen,
    }


def deblurred(prior: Any, y: Tensor, matrix: Tensor, n: int) -> Tensor:
    """Draws of images given their blurred measurements, by NUTS over the codes of a frozen VAE."""
    scale = float(prior.likelihood.family.scale)
    gains, axes = torch.linalg.eigh(matrix)  # in these axes what is measured has independent entries
    rotated = y.flatten(1) @ axes
    spread = (scale**2 * gains**2 + NOISE**2).sqrt()

    def model() -> None:
        with pyro.plate("items", len(y)):
            z = pyro.sample("z", prior.prior())
            seen = prior.decode(z).flatten(-len(prior.event_shape)) @ axes * gains
            pyro.sample("y", dist.Normal(seen, spread).to_event(1), obs=rotated)

    pyro.set_rng_seed(0)
    start = {"z": prior.encode(y.clamp(0, 1))}
    chain = MCMC(NUTS(model), num_samples=n, warmup_steps=n, initial_params=start, disable_progbar=True)
    chain.run()
    decoded = prior.decode(chain.get_samples()["z"]).flatten(-len(prior.event_shape))
    image = decoded + scale * torch.randn_like(decoded)
    simulated = image @ axes * gains + NOISE * torch.randn_like(decoded)
    return image + ((rotated - simulated) * (scale**2 * gains / spread**2)) @ axes.T


def scored(draws: Tensor, true: Tensor, asked: Tensor) -> dict[str, Any]:
    """The figures of a method over the pixels that are asked for, and the place of each item's total among draws."""
    mean, spread = draws.mean(0), draws.std(0)
    asked = asked.flatten(1)
    square = ((mean - true).square().flatten(1) * asked).sum(1) / asked.sum(1)
    variance = (spread.square().flatten(1) * asked).sum(1) / asked.sum(1)
    density = dist.Normal(mean, spread.clamp(min=LEAST)).log_prob(true).flatten(1)
    density = (density * asked).sum(1) / asked.sum(1)
    totals, total = (draws.flatten(2) * asked).sum(-1), (true.flatten(1) * asked).sum(-1)
    below = (totals < total).sum(0)
    place = (below + torch.rand(below.shape, generator=torch.Generator().manual_seed(0))) / (len(draws) + 1)
    covered = ((place > 0.05) & (place < 0.95)).float()
    root = math.sqrt(len(true))
    error = float(square.mean().sqrt())
    return {
        "error": error,
        "error_se": float(square.std()) / root / (2 * error),
        "density": float(density.mean()),
        "density_se": float(density.std()) / root,
        "spread": float(variance.mean().sqrt()) / error,
        "coverage": float(covered.mean()),
        "coverage_se": float(covered.std()) / root,
        "place": place.numpy(),
    }


def line(name: str, one: dict[str, Any], seconds: float) -> str:
    """A row of the table."""
    cells = [f"{one[k]:7.3f} ± {one[f'{k}_se']:.3f}" for k in ("error", "density", "coverage")]
    return f"  {name:18s} {cells[0]:>17s} {cells[1]:>17s} {one['spread']:9.2f} {cells[2]:>17s} {seconds:9.1f}"


def pictures(shown: dict[str, dict[str, Tensor]], count: int) -> Figure:
    """A block of rows for each damage: some items as they are, as they are seen, and what the methods make of them."""
    columns = ["true", "seen", "training mean", "nearest", "Gaussian", "VAE, mean", "VAE, a draw", "VAE, spread"]
    rows = count * len(shown)
    figure = Figure(figsize=(0.95 * len(columns) + 0.7, 0.95 * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, len(columns))
    for block, (damage, images) in enumerate(shown.items()):
        for i in range(count):
            for j, column in enumerate(columns):
                ax = axes[block * count + i, j]
                image = images[column][i].mean(0).masked_fill(images[column][i].isnan().any(0), torch.nan).numpy()
                ax.set_facecolor("#3f8fd9")  # hidden
                ax.imshow(image, cmap="gray", vmin=0, vmax=0.5 if column.endswith("spread") else 1)
                ax.set_xticks([])  # the spread is shown from 0 to 0.5
                ax.set_yticks([])
                if block == 0 and i == 0:
                    ax.set_title(column, fontsize=9)
        axes[block * count, 0].set_ylabel(damage, fontsize=9)
    return figure


def calibration(places: dict[str, dict[str, np.ndarray]]) -> Figure:
    """The share of items whose true total lies below a level of the draws: the diagonal where they are calibrated."""
    figure = Figure(figsize=(3.3 * len(places), 3.9), layout="constrained")
    axes = figure.subplots(1, len(places), sharey=True, squeeze=False)[0]
    names = list(dict.fromkeys(name for one in places.values() for name in one))
    for ax, (damage, one) in zip(axes, places.items(), strict=True):
        ax.plot([0, 1], [0, 1], color="black", linewidth=0.8)
        for name, place in one.items():
            levels = np.sort(place)
            ax.step(levels, np.arange(1, len(levels) + 1) / len(levels), color=f"C{names.index(name)}", label=name)
        ax.set_title(damage, fontsize=10)
        ax.set_xlabel("level of the true total among draws")
    axes[0].set_ylabel("share of items below")
    handles = {h: n for ax in axes for h, n in zip(*ax.get_legend_handles_labels(), strict=True)}
    first = {name: handle for handle, name in reversed(handles.items())}
    figure.legend([first[n] for n in names], names, loc="outside lower center", ncols=len(names), frameon=False)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", help="digits, mnist, fashion-mnist or kmnist")
    parser.add_argument("--root", default=None, help="folder of the data set, in torchvision's layout")
    parser.add_argument("--train", type=int, default=10_000, help="training images at most")
    parser.add_argument("--items", type=int, default=200, help="test images")
    parser.add_argument("--methods", nargs="+", default=["mcmc", "sir", "nuts"], help="of impute; mcmc is pictured")
    parser.add_argument("--draws", type=int, default=99)
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--latent", type=int, default=10)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--components", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None, help="folder for figures (out/inverse-problem-DATA)")
    options, start = parser.parse_args(), time.perf_counter()
    options.out = options.out or Path("out") / f"inverse-problem-{Path(options.data).name}"
    if "mcmc" not in options.methods:
        parser.error("--methods must have mcmc among them, which is pictured")
    options.out.mkdir(parents=True, exist_ok=True)
    data = pyrovae.data.load(options.data, root=options.root)
    train, true = data.train.x[: options.train], data.test.x[: options.items]
    torch.manual_seed(options.seed)
    vae = pyrovae.mlp_vae(
        data.event_shape,
        options.latent,
        hidden_dims=(options.width, options.width // 2),
        activation="leaky_relu",
        likelihood="normal",
    )
    how = {"epochs": options.epochs, "learning_rate": 2e-3, "compile": False, "progress": False}
    print(pyrovae.fit(vae, train, seed=options.seed, **how))
    mixture = pyrovae.GaussianMixture(data.event_shape, options.components, covariance="full", floor=1e-2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # pixels that are black in all images
        pyrovae.fit(mixture, train, num_restarts=1, max_iterations=50, progress=False)
    print(f"{len(train):,} training images; fits took {time.perf_counter() - start:.0f} s")
    tasks = {}
    for damage, hidden in hidden_pixels(true, options.seed).items():
        x = true.masked_fill(hidden, torch.nan)
        tasks[damage] = (x, hidden, by_hidden(vae, mixture, train, x, options))
    matrix = blur(true.shape[-1], true.shape[-1] / 14)
    noise = NOISE * torch.randn(true.flatten(1).shape, generator=torch.Generator().manual_seed(options.seed))
    y = (true.flatten(1) @ matrix + noise).view_as(true)
    tasks["blurred"] = (y, torch.ones_like(true, dtype=torch.bool), by_blurred(vae, train, y, matrix, options.draws))
    shown: dict[str, dict[str, Tensor]] = {}
    places: dict[str, dict[str, np.ndarray]] = {}
    for damage, (x, asked, methods) in tasks.items():
        print(f"\n{damage}, {len(x)} test images")
        print(f"  {'':18s} {'error':>17s} {'log-density':>17s} {'spread':>9s} {'coverage, 0.9':>17s} {'seconds':>9s}")
        shown[damage], places[damage] = {"true": true, "seen": x}, {}
        for name, draw in methods.items():
            torch.manual_seed(options.seed)
            begun = time.perf_counter()
            with torch.no_grad() if name != "VAE, nuts" else torch.enable_grad():
                draws = draw().detach()
            one = scored(draws, true, asked)
            places[damage][name] = one["place"]
            print(line(name, one, time.perf_counter() - begun), flush=True)
            kinds = {"training images": "training mean", "nearest images": "nearest"}
            kinds |= {"Gaussian mixture": "Gaussian", "one Gaussian": "Gaussian"}
            if name in kinds:
                shown[damage][kinds[name]] = draws.mean(0)
            elif name == "VAE, mcmc" or damage == "blurred":
                shown[damage] |= {"VAE, mean": draws.mean(0), "VAE, a draw": draws[0], "VAE, spread": draws.std(0)}
    pictures(shown, min(2, len(true))).savefig(options.out / "images.png", dpi=110)
    calibration(places).savefig(options.out / "calibration.png", dpi=110)
    print(f"\n{time.perf_counter() - start:.0f} s; figures are in {options.out}/")


if __name__ == "__main__":
    main()
