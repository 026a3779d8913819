"""What are unlabelled images worth beside 100 labelled ones?

    python analysis/half_the_labels.py --root data                               # 10,000 unlabelled images
    python analysis/half_the_labels.py --root data --unlabeled 59000 --epochs 300 --hidden 500   # closer to the paper
    python analysis/half_the_labels.py --data digits --labels 50                 # minutes

Each split draws labelled training images, as many of each class, and unlabelled ones from the rest; all of them are
judged on the data set's own test images. Rows: the semi-supervised VAE on pixels (M2 of Kingma et al. 2014), the same
on codes of a VAE that is fitted to all training images of the split (M1+M2, codes drawn several times), the network of
q(y | x) on the labels alone, self-training of that network (the tenth of the unlabelled images that it is surest of
gets its labels, and more each round), and M2 with the pixels of each unlabelled image shuffled, which are then of no
use. The weight alpha of the cross-entropy is chosen for M2 and for M1+M2 on the first split, by the error on a fifth of
its labelled images that is held out; nothing is chosen by test images. Differences of errors from the network alone are
paired over splits, with Student's interval at 95 %. The paper has 50,000 images and a longer training: its figures
stand beside, and not as a claim. With one split there is no interval.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import pyrovae

ALPHAS = (0.1, 1.0, 5.0)
PUBLISHED = {"M2": "11.97 ± 1.71", "M1+M2": "3.33 ± 0.14"}  # Kingma et al. 2014, table 1, 100 labels
ROUNDS = 9  # of self-training
DRAWS = 5  # of the codes of M1


@dataclass(frozen=True)
class Split:
    """The items of one split: labelled, unlabelled, and the test items of the data set."""

    x: Tensor
    y: Tensor
    more: Tensor
    test_x: Tensor
    test_y: Tensor
    seed: int


def split(data: pyrovae.data.Dataset, args: argparse.Namespace, seed: int) -> Split:
    few = pyrovae.data.labelled_subset(data.train.y, args.labels, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    rest = torch.ones(len(data.train.y), dtype=torch.bool)
    rest[few] = False
    others = rest.nonzero()[:, 0]
    others = others[torch.randperm(len(others), generator=generator)[: args.unlabeled]].sort().values
    x = torch.as_tensor(data.train.x[few])
    return Split(x, data.train.y[few], torch.as_tensor(data.train.x[others]), data.test.x[:], data.test.y, seed)


def error(predicted: Tensor, y: Tensor) -> float:
    return 100 * float((predicted != y).double().mean())


# the rows -------------------------------------------------------------------------------------------


def on_pixels(items: Split, args: argparse.Namespace, alpha: float, *, shuffled: bool = False) -> float:
    more = items.more
    if shuffled:
        generator = torch.Generator().manual_seed(items.seed)
        order = torch.rand(len(more), more[0].numel(), generator=generator).argsort(1)
        more = more.flatten(1).gather(1, order).view_as(more)
    torch.manual_seed(items.seed)
    pair = pyrovae.SemiSupervisedVAE(items.x.shape[1:], 10, args.latent_dim, hidden_dims=(args.hidden,))
    pyrovae.fit(pair, items.x, items.y, unlabeled=more, binarize=True, alpha=alpha, **options(args, args.epochs))
    return error(pair.predict(items.test_x), items.test_y)


def on_codes(items: Split, args: argparse.Namespace, alpha: float, codes: Callable[[Tensor], Tensor]) -> float:
    torch.manual_seed(items.seed)
    x, more = codes(items.x), codes(items.more)
    shape = x.shape[2:]
    pair = pyrovae.SemiSupervisedVAE(shape, 10, args.latent_dim, hidden_dims=(args.hidden,), likelihood="normal")
    y = items.y.repeat(DRAWS)
    how = options(args, max(1, args.epochs // DRAWS))
    pyrovae.fit(pair, x.flatten(0, 1), y, unlabeled=more.flatten(0, 1), alpha=alpha, **how)
    return error(pair.predict(codes(items.test_x).mean(0)), items.test_y)


def first_model(items: Split, args: argparse.Namespace) -> Callable[[Tensor], Tensor]:
    """Draws of the codes of a VAE that is fitted to the split's images without their labels: (DRAWS, N, latent_dim)."""
    torch.manual_seed(items.seed)
    vae = pyrovae.mlp_vae(items.x.shape[1:], args.latent_dim, hidden_dims=(args.hidden,))
    everything = torch.cat([items.x, items.more])
    pyrovae.fit(vae, everything, binarize=True, epochs=2 * args.epochs, batch_size=100, progress=False)

    def codes(x: Tensor) -> Tensor:
        with torch.no_grad():
            drawn: Tensor = vae.posterior(x).sample((DRAWS,))
            return drawn

    return codes


def network(x: Tensor, y: Tensor, args: argparse.Namespace, seed: int) -> pyrovae.DiscriminativeClassifier:
    """The network of q(y | x) on labels alone, at the mode of its posterior."""
    torch.manual_seed(seed)
    alone = pyrovae.DiscriminativeClassifier(
        x.shape[1:], 10, hidden_dims=(args.hidden,), activation="softplus", prior_scale=1.0
    )
    if len(x) <= 1000:
        pyrovae.fit(alone, x, y, method="lbfgs", max_iterations=200)
    else:
        pyrovae.fit(alone, x, y, epochs=30, batch_size=100, progress=False)
    return alone


def self_trained(items: Split, args: argparse.Namespace) -> float:
    """Rounds in which the items that the network is surest of get its labels, a tenth more in each (Lee 2013)."""
    model = network(items.x, items.y, args, items.seed)
    for number in range(1, ROUNDS + 1):
        with torch.no_grad():
            sureness, guess = model.predict_log_proba(items.more).max(-1)
        surest = sureness.argsort(descending=True)[: len(items.more) * number // 10]
        x = torch.cat([items.x.repeat(5, 1, 1, 1), items.more[surest]])  # given labels count for more than guessed ones
        model = network(x, torch.cat([items.y.repeat(5), guess[surest]]), args, items.seed)
    return error(model.predict(items.test_x), items.test_y)


def options(args: argparse.Namespace, epochs: int) -> dict[str, object]:
    return {"epochs": epochs, "batch_size": 100, "learning_rate": 2e-3, "schedule": "cosine", "progress": False}


# the choice of alpha --------------------------------------------------------------------------------


def chosen(items: Split, args: argparse.Namespace, run: Callable[[Split, float], float]) -> float:
    """The alpha of the least error on a fifth of the labelled items, which are held out; the largest of equals."""
    held_out = torch.zeros(len(items.y), dtype=torch.bool)
    held_out[pyrovae.data.labelled_subset(items.y, max(10, len(items.y) // 5), seed=1)] = True
    x, y = items.x, items.y
    inner = Split(x[~held_out], y[~held_out], items.more[: args.unlabeled // 4], x[held_out], y[held_out], items.seed)
    return min(reversed(ALPHAS), key=lambda alpha: run(inner, alpha))


# the study ------------------------------------------------------------------------------------------


def measured(data: pyrovae.data.Dataset, args: argparse.Namespace) -> dict[str, list[float]]:
    rows: dict[str, list[float]] = {}
    alphas: dict[str, float] = {}
    for seed in range(args.splits):
        items = split(data, args, seed)
        codes = first_model(items, args)
        alphas = alphas or chosen_alphas(items, args, codes)
        for name, run in runs_of(items, args, codes, alphas).items():
            start = time.perf_counter()
            rows.setdefault(name, []).append(run())
            print(f"split {seed}  {name:14} {rows[name][-1]:6.2f} %  {time.perf_counter() - start:5.0f} s", flush=True)
    return rows


def chosen_alphas(items: Split, args: argparse.Namespace, codes: Callable[[Tensor], Tensor]) -> dict[str, float]:
    alphas = {
        "M2": chosen(items, args, lambda inner, alpha: on_pixels(inner, args, alpha)),
        "M1+M2": chosen(items, args, lambda inner, alpha: on_codes(inner, args, alpha, codes)),
    }
    print("alpha:", alphas, flush=True)
    return alphas


def runs_of(
    items: Split, args: argparse.Namespace, codes: Callable[[Tensor], Tensor], alphas: dict[str, float]
) -> dict[str, Callable[[], float]]:
    def alone() -> float:
        return error(network(items.x, items.y, args, items.seed).predict(items.test_x), items.test_y)

    return {
        "labels alone": alone,
        "self-training": lambda: self_trained(items, args),
        "M1+M2": lambda: on_codes(items, args, alphas["M1+M2"], codes),
        "M2": lambda: on_pixels(items, args, alphas["M2"]),
        "M2, shuffled": lambda: on_pixels(items, args, alphas["M2"], shuffled=True),
    }


def report(rows: dict[str, list[float]]) -> str:
    lines = ["| model | error in % | less than labels alone, 95 % | published |", "|---|---|---|---|"]
    alone = torch.tensor(rows["labels alone"], dtype=torch.float64)
    for name, values in rows.items():
        errors = torch.tensor(values, dtype=torch.float64)
        spread = f" ± {float(errors.std()):.2f}" if len(errors) > 1 else ""
        gain = alone - errors
        text = f"{float(gain.mean()):.2f}"
        if len(errors) > 1 and name != "labels alone":
            half = float(student(len(errors) - 1) * gain.std() / len(errors) ** 0.5)
            text += f" ({float(gain.mean()) - half:.2f} to {float(gain.mean()) + half:.2f})"
        lines.append(f"| {name} | {float(errors.mean()):.2f}{spread} | {text} | {PUBLISHED.get(name, '')} |")
    return "\n".join(lines)


def student(degrees: int) -> float:
    from scipy.stats import t

    return float(t.ppf(0.975, degrees))


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--root", type=Path, default=None)
    parser.add_argument("--labels", type=int, default=100)
    parser.add_argument("--unlabeled", type=int, default=10_000)
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--hidden", type=int, default=200)
    parser.add_argument("--latent-dim", type=int, default=50)
    parser.add_argument("--out", type=Path, default=None, help="a JSON file of the errors of each split")
    args = parser.parse_args()
    data = pyrovae.data.load(args.data, root=args.root)
    rows = measured(data, args)
    print(report(rows))
    if args.out is not None:
        args.out.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
