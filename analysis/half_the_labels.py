"""What are unlabelled images worth beside 100 labelled ones?

    python analysis/half_the_labels.py --root data                               # 10,000 unlabelled images
    python analysis/half_the_labels.py --root data --unlabeled 59000 --epochs 300 --hidden 500   # closer to the paper
    python analysis/half_the_labels.py --data digits --labels 50                 # minutes

Each split draws labelled training images, as many of each class, and unlabelled ones from the rest; all of them are
judged on the data set's own test images. Rows: the network of q(y | x) on the labels alone, on pixels and on codes;
self-training of that network on pixels (the tenth of the unlabelled images that it is surest of gets its labels, and
more each round); the semi-supervised VAE on pixels (M2 of Kingma et al. 2014) and on codes (M1+M2); and M2 with the
pixels of each unlabelled image shuffled, which are then of no use. Codes are draws of q(z | x) of one VAE that is
fitted to all training images and sees no labels, so that all splits share it, as in the paper; dimensions of the code
whose means hardly vary are left out.

The weight alpha of the cross-entropy is chosen for M2 and for M1+M2 on the first split, by the error on a fifth of its
labelled images that is held out, or fixed in advance by `--alpha`; nothing is chosen by test images. Differences of
errors from the network alone on the same input are paired over splits, with Student's interval at 95 %. With one split
there is no interval. The paper has 50,000 images, some thousand passes and a network of its own width: its figures
stand beside, and not as a claim.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import pyrovae

ALPHAS = (0.1, 1.0, 5.0)
PUBLISHED = {"M2": "11.97 ± 1.71", "M1+M2": "3.33 ± 0.14"}  # Kingma et al. 2014, table 1, 100 labels
ROUNDS = 9  # of self-training
DRAWS = 5  # of the codes of M1
ACTIVE = 0.1  # standard deviation of a code's mean over images, below which M2 does not see that dimension
ALONE = {"codes, labels alone": "labels alone", "M1+M2": "codes, labels alone"}  # what a row is held against


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
    pyrovae.fit(pair, items.x, items.y, unlabeled=more, binarize=True, alpha=alpha, **options(args.epochs))
    return error(pair.predict(items.test_x), items.test_y)


def on_codes(items: Split, args: argparse.Namespace, alpha: float, codes: Callable[[Tensor], Tensor]) -> float:
    torch.manual_seed(items.seed)
    x, more = codes(items.x), codes(items.more)
    pair = pyrovae.SemiSupervisedVAE(
        x.shape[2:], 10, args.latent_dim, hidden_dims=(args.hidden,), likelihood=args.codes_likelihood
    )
    y = items.y.repeat(DRAWS)
    how = options(max(1, args.epochs // DRAWS))
    pyrovae.fit(pair, x.flatten(0, 1), y, unlabeled=more.flatten(0, 1), alpha=alpha, **how)
    return error(pair.predict(codes(items.test_x).mean(0)), items.test_y)


def first_model(data: pyrovae.data.Dataset, args: argparse.Namespace) -> Callable[[Tensor], Tensor]:
    """Draws of the codes of a VAE that is fitted to all training images without their labels: (DRAWS, N, active)."""
    if args.first_model is not None and args.first_model.exists():
        vae = pyrovae.load(args.first_model)
    else:
        torch.manual_seed(0)
        vae = pyrovae.mlp_vae(data.event_shape, args.latent_dim, hidden_dims=(500, 500))
        how = options(25 if data.name == "mnist" else 100, learning_rate=1e-3, batch_size=200)
        pyrovae.fit(vae, data.train.x, binarize=True, **how)
        if args.first_model is not None:
            pyrovae.save(args.first_model, vae)
    with torch.no_grad():
        active = vae.posterior(torch.as_tensor(data.train.x[:2000])).mean.std(0) > ACTIVE

    def codes(x: Tensor) -> Tensor:
        with torch.no_grad():
            drawn: Tensor = vae.posterior(x).sample((DRAWS,))[..., active]
            return drawn

    return codes


def network(x: Tensor, y: Tensor, args: argparse.Namespace, seed: int) -> pyrovae.DiscriminativeClassifier:
    """The network of q(y | x) on labels alone, at the mode of its posterior."""
    torch.manual_seed(seed)
    alone = pyrovae.DiscriminativeClassifier(
        x.shape[1:], 10, hidden_dims=(args.hidden,), activation="softplus", prior_scale=1.0
    )
    if len(x) <= 1000:
        pyrovae.fit(alone, x, y, method="lbfgs", max_iterations=100)
    else:
        pyrovae.fit(alone, x, y, epochs=10, batch_size=100, progress=False)
    return alone


def alone_on_codes(items: Split, args: argparse.Namespace, codes: Callable[[Tensor], Tensor]) -> float:
    torch.manual_seed(items.seed)
    x = codes(items.x)
    model = network(x.flatten(0, 1), items.y.repeat(DRAWS), args, items.seed)
    return error(model.predict(codes(items.test_x).mean(0)), items.test_y)


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


def options(epochs: int, *, learning_rate: float = 2e-3, batch_size: int = 100) -> dict[str, Any]:
    return {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "schedule": "cosine",
        "progress": False,
    }


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
    codes, alphas = first_model(data, args), dict[str, float]()
    for seed in range(args.first_split, args.first_split + args.splits):
        items = split(data, args, seed)
        if args.alpha is not None:
            alphas = dict(zip(("M2", "M1+M2"), args.alpha, strict=True))
        alphas = alphas or chosen_alphas(items, args, codes)
        for name, run in runs_of(items, args, codes, alphas).items():
            if args.rows and name not in args.rows:
                continue
            start = time.perf_counter()
            rows.setdefault(name, []).append(run())
            print(f"split {seed}  {name:19} {rows[name][-1]:6.2f} %  {time.perf_counter() - start:5.0f} s", flush=True)
            if args.out is not None:
                args.out.write_text(json.dumps(rows, indent=1), encoding="utf-8")
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
        "codes, labels alone": lambda: alone_on_codes(items, args, codes),
        "M1+M2": lambda: on_codes(items, args, alphas["M1+M2"], codes),
        "self-training": lambda: self_trained(items, args),
        "M2": lambda: on_pixels(items, args, alphas["M2"]),
        "M2, shuffled": lambda: on_pixels(items, args, alphas["M2"], shuffled=True),
    }


def report(rows: dict[str, list[float]]) -> str:
    """A table: errors with their standard deviation over splits, and paired differences over the splits of both."""
    lines = [
        "| model | splits | error in % | less than | by, with the 95 % interval | published |",
        "|---|---|---|---|---|---|",
    ]
    for name, values in rows.items():
        errors = torch.tensor(values, dtype=torch.float64)
        spread = f" ± {float(errors.std()):.2f}" if len(errors) > 1 else ""
        than = ALONE.get(name, "labels alone")
        gain = ""
        if name != "labels alone" and than in rows:
            both = min(len(values), len(rows[than]))
            gain = paired(torch.tensor(rows[than][:both], dtype=torch.float64) - errors[:both])
        value = f"{float(errors.mean()):.2f}{spread}"
        lines.append(
            f"| {name} | {len(values)} | {value} | {than if gain else ''} | {gain} | {PUBLISHED.get(name, '')} |"
        )
    return "\n".join(lines)


def paired(gain: Tensor) -> str:
    if len(gain) == 1:
        return f"{float(gain):.2f}"
    half = float(student(len(gain) - 1) * gain.std() / len(gain) ** 0.5)
    return f"{float(gain.mean()):.2f} ({float(gain.mean()) - half:.2f} to {float(gain.mean()) + half:.2f})"


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
    parser.add_argument("--first-split", type=int, default=0, help="the seed of the first split")
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--hidden", type=int, default=200)
    parser.add_argument("--latent-dim", type=int, default=50)
    parser.add_argument("--alpha", type=float, nargs=2, default=None, help="of M2 and of M1+M2, fixed in advance")
    parser.add_argument("--codes-likelihood", default="normal")
    parser.add_argument("--first-model", type=Path, default=None, help="where M1 is kept, and read if it is there")
    parser.add_argument("--rows", nargs="*", default=None, help="run these rows alone")
    parser.add_argument("--out", type=Path, default=None, help="a JSON file of the errors of each split")
    args = parser.parse_args()
    data = pyrovae.data.load(args.data, root=args.root)
    rows = measured(data, args)
    print(report(rows))


if __name__ == "__main__":
    main()
