"""What are unlabelled images worth beside 100 labelled ones?

    python analysis/half_the_labels.py --root data                               # 10,000 unlabelled images
    python analysis/half_the_labels.py --root data --unlabeled 59000 --epochs 300 --hidden 500   # closer to the paper
    python analysis/half_the_labels.py --data digits --labels 50                 # minutes

Each split draws labelled training images, as many of each class, and unlabelled ones from the rest; all of them are
judged on the data set's own test images. Rows: the network of q(y | x) on the labels alone, on pixels and on codes;
self-training of that network on pixels (the tenth of the unlabelled images that it is surest of gets its labels, and
more each round); the semi-supervised VAE on pixels (M2 of Kingma et al. 2014) and on codes (M1+M2); and both with the
pixels of each unlabelled image shuffled, which are then of no use. Codes are draws of q(z | x) of one VAE (M1) that is
fitted to all training images, or all of them shuffled, and sees no labels, so that all splits share it, as in the
paper; dimensions of the code whose means hardly vary are left out.

The weight alpha of the cross-entropy, and for codes the likelihood too, are chosen on the first split, by the error in
five-fold cross-validation within its labelled images, or fixed in advance by `--alpha` and `--codes-likelihood`;
nothing is chosen by test images. Differences of errors are paired over splits, with Student's interval at 95 %. With
one split there is no interval. The paper has 50,000 images, some thousand passes and a network of its own width: its
figures stand beside, and not as a claim.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import pyrovae

ALPHAS = (0.1, 1.0, 5.0)
LIKELIHOODS = ("normal", "heteroscedastic_normal")  # of codes
FOLDS = 5
PUBLISHED = {"M2": "11.97 ± 1.71", "M1+M2": "3.33 ± 0.14"}  # Kingma et al. 2014, table 1, 100 labels
ROUNDS = 9  # of self-training
DRAWS = 5  # of the codes of M1
ACTIVE = 0.1  # standard deviation of a code's mean over images, below which M2 does not see that dimension
# what rows are held against
AGAINST = {
    "codes, labels alone": ["labels alone"],
    "self-training": ["labels alone"],
    "M1+M2": ["labels alone", "codes, labels alone", "self-training"],
    "M1+M2, shuffled": ["labels alone"],
    "M2": ["labels alone", "M2, shuffled"],
    "M2, shuffled": ["labels alone"],
}

Codes = Callable[[Tensor], Tensor]


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
    more = shuffle(items.more, items.seed) if shuffled else items.more
    torch.manual_seed(items.seed)
    pair = pyrovae.SemiSupervisedVAE(items.x.shape[1:], 10, args.latent_dim, hidden_dims=(args.hidden,))
    pyrovae.fit(pair, items.x, items.y, unlabeled=more, binarize=True, alpha=alpha, **options(args.epochs))
    return error(pair.predict(items.test_x), items.test_y)


def shuffle(x: Tensor, seed: int) -> Tensor:
    """Each image with its pixels in an order of its own."""
    order = torch.rand(len(x), x[0].numel(), generator=torch.Generator().manual_seed(seed)).argsort(1)
    return x.flatten(1).gather(1, order).view_as(x)


def on_codes(
    items: Split, args: argparse.Namespace, alpha: float, likelihood: str, codes: Codes, *, shuffled: bool = False
) -> float:
    torch.manual_seed(items.seed)
    x, more = codes(items.x), codes(shuffle(items.more, items.seed) if shuffled else items.more)
    pair = pyrovae.SemiSupervisedVAE(
        x.shape[2:], 10, args.latent_dim, hidden_dims=(args.hidden,), likelihood=likelihood
    )
    y = items.y.repeat(DRAWS)
    how = options(max(1, args.epochs // DRAWS))
    pyrovae.fit(pair, x.flatten(0, 1), y, unlabeled=more.flatten(0, 1), alpha=alpha, **how)
    return error(pair.predict(codes(items.test_x).mean(0)), items.test_y)


def first_model(data: pyrovae.data.Dataset, args: argparse.Namespace, *, shuffled: bool = False) -> Codes:
    """Draws of the codes of a VAE that is fitted to all training images without their labels: (DRAWS, N, active)."""
    place, x = args.first_model, torch.as_tensor(data.train.x[:])
    if shuffled:
        x = shuffle(x, 0)
        place = place and place.with_name(f"{place.name}-shuffled")
    if place is not None and place.exists():
        vae = pyrovae.load(place)
    else:
        torch.manual_seed(0)
        vae = pyrovae.mlp_vae(data.event_shape, args.latent_dim, hidden_dims=(500, 500))
        how = options(25 if data.name == "mnist" else 100, learning_rate=1e-3, batch_size=200)
        pyrovae.fit(vae, x, binarize=True, **how)
        if place is not None:
            pyrovae.save(place, vae)
    with torch.no_grad():
        spread = vae.posterior(x[:2000]).mean.std(0)
    active = spread >= min(ACTIVE, float(spread.max()))

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


def alone_on_codes(items: Split, args: argparse.Namespace, codes: Codes) -> float:
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
        x = torch.cat([*[items.x] * 5, items.more[surest]])  # given labels count for more than guessed ones
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


# what is chosen ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chosen:
    """The weight of the cross-entropy on pixels and on codes, and the likelihood of codes."""

    on_pixels: Any  # None where no row needs it
    on_codes: Any
    likelihood: str


def chosen(items: Split, args: argparse.Namespace, codes: Codes) -> Chosen:
    """What is fixed in advance, and else by cross-validation."""
    pixels, of_codes = args.alpha or (None, None)
    if pixels is None and wanted(args, "M2", "M2, shuffled"):
        (pixels,) = best(items, args, [ALPHAS], lambda inner, alpha: on_pixels(inner, args, alpha))
    likelihood = args.codes_likelihood or LIKELIHOODS[0]
    if (of_codes is None or args.codes_likelihood is None) and wanted(args, "M1+M2", "M1+M2, shuffled"):
        alphas = ALPHAS if of_codes is None else (of_codes,)
        kinds = LIKELIHOODS if args.codes_likelihood is None else (args.codes_likelihood,)
        of_codes, likelihood = best(
            items, args, [alphas, kinds], lambda inner, alpha, kind: on_codes(inner, args, alpha, kind, codes)
        )
    found = Chosen(pixels, of_codes, likelihood)
    print(found, flush=True)
    return found


def best(
    items: Split, args: argparse.Namespace, values: list[tuple[Any, ...]], run: Callable[..., float]
) -> tuple[Any, ...]:
    """The combination of the least mean error over folds of the labelled items; the last of equals."""
    errors: dict[tuple[Any, ...], float] = {}
    for candidate in product(*values):
        errors[candidate] = sum(run(inner, *candidate) for inner in folds(items, args)) / FOLDS
        print("cross-validation", *candidate, f"{errors[candidate]:.1f} %", flush=True)
    return min(reversed(list(errors)), key=errors.__getitem__)


def folds(items: Split, args: argparse.Namespace) -> Iterator[Split]:
    """The labelled items in five parts with as many of each class; each is the test part of the others once."""
    fold, left = torch.empty(len(items.y), dtype=torch.long), torch.arange(len(items.y))
    for number in range(FOLDS - 1):
        part = pyrovae.data.labelled_subset(items.y[left], len(items.y) // FOLDS, seed=number)
        fold[left[part]] = number
        rest = torch.ones(len(left), dtype=torch.bool)
        rest[part] = False
        left = left[rest]
    fold[left] = FOLDS - 1
    more = items.more[: args.unlabeled // FOLDS]  # shorter runs
    for number in range(FOLDS):
        out = fold == number
        yield Split(items.x[~out], items.y[~out], more, items.x[out], items.y[out], items.seed)


def wanted(args: argparse.Namespace, *names: str) -> bool:
    return args.rows is None or bool({*names} & {*args.rows})


# the study ------------------------------------------------------------------------------------------


def measured(data: pyrovae.data.Dataset, args: argparse.Namespace) -> dict[str, dict[int, float]]:
    """The error of each row in each split, in %."""
    rows: dict[str, dict[int, float]] = {}
    if args.out is not None and args.out.exists():  # goes on where it was stopped
        known = json.loads(args.out.read_text(encoding="utf-8"))
        rows = {name: {int(seed): value for seed, value in one.items()} for name, one in known.items()}
    codes = first_model(data, args)
    of_shuffled = first_model(data, args, shuffled=True) if wanted(args, "M1+M2, shuffled") else codes
    settings: Chosen | None = None
    for seed in range(args.first_split, args.first_split + args.splits):
        items = split(data, args, seed)
        settings = settings or chosen(items, args, codes)
        for name, run in runs_of(items, args, codes, of_shuffled, settings).items():
            if not wanted(args, name) or seed in rows.get(name, {}):
                continue
            start = time.perf_counter()
            rows.setdefault(name, {})[seed] = run()
            print(
                f"split {seed}  {name:19} {rows[name][seed]:6.2f} %  {time.perf_counter() - start:5.0f} s", flush=True
            )
            if args.out is not None:
                args.out.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return rows


def runs_of(
    items: Split, args: argparse.Namespace, codes: Codes, of_shuffled: Codes, settings: Chosen
) -> dict[str, Callable[[], float]]:
    def alone() -> float:
        return error(network(items.x, items.y, args, items.seed).predict(items.test_x), items.test_y)

    def of_codes(codes: Codes, *, shuffled: bool = False) -> float:
        return on_codes(items, args, settings.on_codes, settings.likelihood, codes, shuffled=shuffled)

    return {
        "labels alone": alone,
        "codes, labels alone": lambda: alone_on_codes(items, args, codes),
        "self-training": lambda: self_trained(items, args),
        "M1+M2": lambda: of_codes(codes),
        "M1+M2, shuffled": lambda: of_codes(of_shuffled, shuffled=True),
        "M2": lambda: on_pixels(items, args, settings.on_pixels),
        "M2, shuffled": lambda: on_pixels(items, args, settings.on_pixels, shuffled=True),
    }


def report(rows: dict[str, dict[int, float]]) -> str:
    """A table: errors with their standard deviation over splits, and paired differences over the splits of both."""
    lines = [
        "| model | splits | error in % | less than | by, with the 95 % interval | published |",
        "|---|---|---|---|---|---|",
    ]
    for name, found in rows.items():
        errors = torch.tensor(list(found.values()), dtype=torch.float64)
        spread = f" ± {float(errors.std()):.2f}" if len(errors) > 1 else ""
        cells = [name, str(len(errors)), f"{float(errors.mean()):.2f}{spread}"]
        published = PUBLISHED.get(name, "")
        for than in AGAINST.get(name, []):
            gain = [rows[than][seed] - value for seed, value in found.items() if seed in rows.get(than, {})]
            if gain:
                cells += [than, paired(torch.tensor(gain, dtype=torch.float64)), published]
                lines.append(f"| {' | '.join(cells)} |")
                cells, published = [""] * 3, ""
        if cells[0]:
            lines.append(f"| {' | '.join([*cells, '', '', published])} |")
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
    parser.add_argument("--codes-likelihood", choices=LIKELIHOODS, default=None, help="fixed in advance")
    parser.add_argument("--first-model", type=Path, default=None, help="where M1 is kept, and read if it is there")
    parser.add_argument("--rows", nargs="*", default=None, help="run these rows alone")
    parser.add_argument(
        "--out", type=Path, default=None, help="a JSON file of each split's errors; what it has is kept"
    )
    args = parser.parse_args()
    data = pyrovae.data.load(args.data, root=args.root)
    rows = measured(data, args)
    print(report(rows))


if __name__ == "__main__":
    main()
