"""One VAE given the label, or one VAE per class? Both as p(x | y) of a classifier by Bayes' rule.

    python analysis/one_or_ten.py                                               # 8x8 digits: some minutes
    python analysis/one_or_ten.py --data mnist --root data --train 10000 --epochs 20

Binary images, drawn once from the grey ones. One network takes the label as a covariate, in the encoder and the
decoder; the other way has a network of the same widths for each class, which sees the items of that class alone. Both
take as many passes over the same labelled items, drawn anew for each seed with as many of each class. p(y | x) follows
from importance-weighted bounds of log p(x | y) by --particles and equal class proportions. On the test items of the
data set: the error rate, the mean of -log p(y | x), and the bound at the true class, all with Student's interval at 95
% for the difference over seeds. Seconds are those of the fits.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from typing import Any

import torch

import pyrovae

FIGURES = {"error": "error in %", "log_loss": "-log p(y | x)", "bound": "log p(x | y)"}


def one(x: torch.Tensor, y: torch.Tensor, args: argparse.Namespace, seed: int) -> dict[int, Any]:
    """One VAE given the label, as a density of each class."""
    torch.manual_seed(seed)
    vae = pyrovae.mlp_vae(x.shape[1:], args.latent, hidden_dims=(args.width,), covariate_dim=10)
    pyrovae.fit(vae, x, covariates=pyrovae.data.one_hot(y, 10), seed=seed, **how(args, len(x)))
    return {c: pyrovae.Given(vae, torch.eye(10)[c]) for c in range(10)}


def ten(x: torch.Tensor, y: torch.Tensor, args: argparse.Namespace, seed: int) -> dict[int, Any]:
    """A VAE of each class."""
    torch.manual_seed(seed)
    vaes = {}
    for c in range(10):
        vaes[c] = pyrovae.mlp_vae(x.shape[1:], args.latent, hidden_dims=(args.width,))
        pyrovae.fit(vaes[c], x[y == c], seed=seed, **how(args, int((y == c).sum())))
    return vaes


def how(args: argparse.Namespace, n: int) -> dict[str, Any]:
    """Passes and batches: ten batches a pass at least, where there are items for them."""
    return {
        "epochs": args.epochs,
        "batch_size": min(100, max(1, n // 10)),
        "learning_rate": 2e-3,
        "schedule": "cosine",
        "compile": False,
        "progress": False,
    }


def judged(densities: dict[int, Any], x: torch.Tensor, y: torch.Tensor, args: argparse.Namespace) -> dict[str, float]:
    evidence = partial(pyrovae.iwae, num_particles=args.particles)
    classifier = pyrovae.GenerativeClassifier(densities, evidence=evidence)
    with torch.no_grad():
        joint = classifier.log_joint(x)
    log_proba, rows = joint.log_softmax(-1), torch.arange(len(x))
    return {
        "error": 100 * float((log_proba.argmax(-1) != y).double().mean()),
        "log_loss": -float(log_proba[rows, y].mean()),
        "bound": float(joint[rows, y].mean() - torch.tensor(0.1).log()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", help="digits, mnist, fashion-mnist or kmnist")
    parser.add_argument("--root", default=None, help="folder of the data set, in torchvision's layout")
    parser.add_argument("--train", type=int, nargs="+", default=[200, 1000], help="numbers of labelled images")
    parser.add_argument("--items", type=int, default=500, help="test images at most")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--latent", type=int, default=8)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--particles", type=int, default=100)
    args = parser.parse_args()
    data = pyrovae.data.load(args.data, root=args.root)
    x, test_x = (pyrovae.data.binarize(torch.as_tensor(part.x[:]), seed=0) for part in (data.train, data.test))
    test_x, test_y = test_x[: args.items], data.test.y[: args.items]
    for count in args.train:
        found: dict[str, list[dict[str, float]]] = {"one": [], "ten": []}
        for seed in range(args.seeds):
            rows = pyrovae.data.labelled_subset(data.train.y, count, seed=seed)
            for name, build in (("one", one), ("ten", ten)):
                start = time.perf_counter()
                densities = build(x[rows], data.train.y[rows], args, seed)
                seconds = time.perf_counter() - start
                found[name].append(judged(densities, test_x, test_y, args) | {"seconds": seconds})
        print(f"\n{count:,} labelled images, {len(test_x)} test images, {args.seeds} seeds")
        print(f"  {'':14s} {'one':>9s} {'ten':>9s}   ten less one, 95 % interval over seeds")
        for key, title in FIGURES.items():
            values = {name: torch.tensor([row[key] for row in rows]) for name, rows in found.items()}
            mean, low, high = pyrovae.paired_interval((values["ten"] - values["one"]).numpy())
            means = [f"{float(value.mean()):9.3f}" for value in values.values()]
            print(f"  {title:14s} {means[0]} {means[1]}   {mean:.3f} [{low:.3f}, {high:.3f}]", flush=True)
        means = [f"{sum(row['seconds'] for row in rows) / len(rows):9.1f}" for rows in found.values()]
        print(f"  {'seconds':14s} {means[0]} {means[1]}")


if __name__ == "__main__":
    main()
