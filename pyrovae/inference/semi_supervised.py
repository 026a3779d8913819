"""Stochastic variational inference from items with labels and items without."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import kl_divergence

from pyrovae import checks, ranks
from pyrovae.inference.callbacks import Callback, checked_callbacks
from pyrovae.inference.history import History
from pyrovae.inference.interrupted import noted
from pyrovae.inference.items import Items
from pyrovae.inference.labels import items_and_labels, numbered_labels
from pyrovae.inference.measuring import measuring
from pyrovae.inference.method import Method, Task, register_methods
from pyrovae.inference.svi.loop import Loop
from pyrovae.inference.svi.optimizer import OptimizerChoice
from pyrovae.inference.svi.place import placed, require_finite, require_ties_last
from pyrovae.inference.svi.plan import options_in_words, require_score
from pyrovae.inference.svi.problem import binary_draws, not_finite, ready
from pyrovae.inference.svi.schedule import checked_schedule, schedule_of
from pyrovae.models.classifiers import numbered
from pyrovae.models.layers import seen
from pyrovae.models.pair import as_module, dtype_and_device
from pyrovae.models.scopes import Workspace
from pyrovae.models.semi_supervised import SemiSupervisedVAE
from pyrovae.seeding import Noise, stream

__all__ = ["SemiSupervisedSVI", "Terms", "terms_of", "unlabeled_bound"]

TERMS = ("loss", "labeled_loss", "cross_entropy", "unlabeled_loss")  # of an epoch, as the loss gives them


class Terms(NamedTuple):
    """The terms of the loss in nats, each of every item."""

    labeled: Tensor  # L(x, y), (N,): Kingma et al. 2014, eq. 6
    unlabeled: Tensor  # U(x), (M,): eq. 7
    cross_entropy: Tensor  # -log q(y | x), (N,)

    def loss(self, share: float, alpha: float, weight: float | Tensor | None = None) -> Tensor:
        """Eq. 9 divided by the number of items, of which `share` have a label; `weight` is that of U(x), None for 1."""
        value = share * self.labeled.mean() + alpha * self.cross_entropy.mean()
        factor = 1 - share if weight is None else (1 - share) * weight
        return value + factor * self.unlabeled.mean() if len(self.unlabeled) else value


def terms_of(pair: SemiSupervisedVAE, x: Tensor, y: Tensor, more: Tensor, *, quiet: bool = True) -> Terms:
    """The terms at one draw of each code, at class numbers `y` of the items `x`, and for the unlabelled items `more`.

    -L(x, y) = E_q[log p(x | y, z) + log p(y) + log p(z) - log q(z | x, y)]; U(x) = sum_y q(y | x) (L(x, y) + log q(y |
    x)), over all classes at once, a batch (C, M) of codes. With `quiet` the divergence of q(z | x, y) from p(z) is in
    closed form, where torch has one, and all classes share one noise.
    """
    every = torch.eye(pair.num_classes, dtype=x.dtype, device=x.device)
    labeled = _bound(pair, x, every[y], quiet)  # one_hot looks at values, which no graph can
    cross_entropy = nn.functional.cross_entropy(pair.label_logits(x), y, reduction="none")
    return Terms(labeled, unlabeled_bound(pair, more, quiet=quiet) if len(more) else labeled[:0], cross_entropy)


def unlabeled_bound(pair: SemiSupervisedVAE, x: Tensor, *, quiet: bool = True) -> Tensor:
    """U(x), (N,), with the label summed out; `quiet` as in `terms_of`."""
    every = torch.eye(pair.num_classes, dtype=x.dtype, device=x.device)[:, None]
    table = _bound(pair, x, every, quiet)  # (C, N)
    log_proba = pair.label_logits(x).log_softmax(-1).T
    return (log_proba.exp() * (table + log_proba)).sum(0)


def _bound(pair: SemiSupervisedVAE, x: Tensor, indicators: Tensor, quiet: bool) -> Tensor:
    """L(x, y) for indicators (N, C) or (C, 1, C), at one draw of each code: (N,) or (C, N)."""
    q, p = pair.code(x, indicators), pair.prior()
    if quiet:
        z = q.mean + q.stddev * torch.randn(len(x), pair.latent_dim, dtype=x.dtype, device=x.device)
    else:
        z = q.rsample()
    divergence = _divergence(q, p) if quiet else None
    if divergence is None:
        divergence = q.log_prob(z) - p.log_prob(z)
    return divergence - pair.given(indicators, z).log_prob(x) - indicators @ pair.log_class_prior.log_softmax(-1)


def _divergence(q: Any, p: Any) -> Tensor | None:
    try:
        return kl_divergence(q, p.expand(q.batch_shape))
    except NotImplementedError:
        return None


@dataclass(frozen=True)
class SemiSupervisedSVI(Method):
    """Stochastic variational inference for a `SemiSupervisedVAE`, from items with labels and items without.

    The loss, in nats per item, is (sum over labelled items L(x, y) + sum over unlabelled U(x)) / N + alpha mean(-log
    q(y | x)), the mean over the labelled items alone and N the number of all items: equation 9 of Kingma, Mohamed,
    Rezende and Welling (2014) divided by N. In a sum over items each of the N_l labelled ones thus weighs its
    cross-entropy by alpha N / N_l. The paper's weight, 0.1 N, is `alpha=0.1`; it trains for thousands of passes, and
    in few of them the labelled items are then overruled, so that the default is 1. A step takes labelled and
    unlabelled items from two shuffled sources, each with its share of N as its weight, so that every gradient is
    unbiased whatever the batches are. An epoch is a pass over the unlabelled items, or over the labelled ones where
    there are no others. Labels are summed out over all classes, and codes are drawn once.

    Args:
        epochs: passes over the items without a label.
        batch_size: unlabelled items in a step.
        labeled_batch_size: labelled items in a step, or all of them where they are fewer.
        learning_rate: of Adam.
        alpha: the weight of the cross-entropy of q(y | x) at the labelled items.
        warmup: epochs over which the weight of U(x) is raised from 0 on a straight line.
        weight_decay: of AdamW, divided by the learning rate as torch has it; 0 is Adam.
        schedule: "constant", "cosine", "plateau" or a function, as of `SVI`; a plateau is of the
            validation log-loss, or without validation of the loss.
        callbacks: objects that are told of the run's begin, epochs and end, and may stop it: `pyrovae.callbacks`.
        binarize: draw binary items from grey ones, anew in each step; the validation items once.
        patience: stop after so many epochs without a better validation log-loss, -log q(y | x), and take the best
            weights back.
        compile: take each step as one compiled graph, as of `SVI`.

    Raises ValueError or TypeError for an option that is not one of these.

    >>> from pyrovae.methods import SemiSupervisedSVI
    >>> SemiSupervisedSVI(alpha=0.1).alpha
    0.1
    """

    name: ClassVar[str] = "semi_supervised_svi"
    title: ClassVar[str] = "semi-supervised SVI"
    belongs_to: ClassVar[str] = "SemiSupervisedVAE"
    keeps_checkpoints: ClassVar[bool] = True
    takes_unlabeled: ClassVar[bool] = True

    epochs: int = 20
    batch_size: int = 256
    labeled_batch_size: int = 100
    learning_rate: float = 1e-3
    alpha: float = 1.0
    warmup: int = 0
    weight_decay: float = 0.0
    schedule: Literal["constant", "cosine", "plateau"] | Callable[[int, int], float] = "constant"
    callbacks: Sequence[Callback] = ()
    binarize: bool = False
    patience: int | None = None
    compile: bool | Literal["auto"] = "auto"

    def __post_init__(self) -> None:
        if not isinstance(self.binarize, bool):
            raise TypeError(f"binarize must be True or False, got {self.binarize!r}")
        compiled = self.compile if isinstance(self.compile, bool) else checks.choice("compile", self.compile, ("auto",))
        checked = {
            "epochs": checks.whole("epochs", self.epochs),
            "batch_size": checks.whole("batch_size", self.batch_size),
            "labeled_batch_size": checks.whole("labeled_batch_size", self.labeled_batch_size),
            "learning_rate": checks.positive("learning_rate", self.learning_rate),
            "alpha": checks.positive("alpha", self.alpha, zero=True),
            "warmup": checks.whole("warmup", self.warmup, least=0),
            "weight_decay": checks.positive("weight_decay", self.weight_decay, zero=True),
            "schedule": checked_schedule(self.schedule),
            "callbacks": checked_callbacks(self.callbacks),
            "patience": None if self.patience is None else checks.whole("patience", self.patience),
            "compile": compiled,
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def run(self, task: Task) -> History:
        """Train the pair in place, from where its parameters, or a checkpoint, are."""
        if ranks.current().size > 1:
            raise ValueError(f"{self.title} runs in one process: leave pyrovae.distributed() out")
        require_score(self.patience, task)
        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(SemiSupervisedSVI)}
        decay = {"weight_decay": self.weight_decay}
        choice = OptimizerChoice(torch.optim.AdamW, decay, self.learning_rate)
        return _fitted(task, _Plan(**options, optimizer=choice, seed=task.seed))


@dataclass(frozen=True)
class _Plan(SemiSupervisedSVI):
    """The options of one run."""

    clip_norm: ClassVar[float | None] = None
    precision: ClassVar[str] = "float32"

    optimizer: OptimizerChoice = OptimizerChoice(torch.optim.AdamW, {"weight_decay": 0.0}, 1e-3)  # noqa: RUF009
    seed: int = 0

    def in_words(self) -> dict[str, Any]:
        return options_in_words(self)


def _fitted(task: Task, plan: _Plan) -> History:
    """Train the pair: its items are checked before anything is changed."""
    pair, module = task.pair, as_module(task.pair)
    data = _Data(task, plan.binarize)
    problem = _Problem(pair, plan, data, task.device)
    schedule = schedule_of(plan, problem.steps_per_epoch)
    require_finite(module)
    with nullcontext() if task.snapshots is None else task.snapshots.locked():
        require_ties_last(module, dtype_and_device(pair)[1], task.device)
        pair.rename(data.names)
        with (
            placed(pair, task.device, data.labeled, data.unlabeled, data.held_out),
            measuring(pair, data.labeled, *([] if data.unlabeled is None else [data.unlabeled])) as begin,
        ):
            problem.try_out()
            loop = Loop(task, plan, problem, schedule)
            begin()
            told = partial(_told, task, plan, data)
            with noted(lambda: (loop.rows, told() | loop.broken_off())):
                rows, kept = loop.run()
    if rows and len(rows) < plan.warmup:
        checks.warn(
            f"training ended after {len(rows)} of {plan.warmup} warm-up epochs, with U(x) weighed by "
            f"{len(rows) / plan.warmup:.3g}: raise epochs or lower warmup"
        )
    return History.from_rows(rows, told() | loop.outcome(kept))


def _told(task: Task, plan: _Plan, data: _Data) -> dict[str, Any]:
    """What the `config` of a history says of what was fitted, and to what."""
    return {
        "method": plan.name,
        **plan.in_words(),
        "items": len(data.labeled),
        "unlabeled_items": 0 if data.unlabeled is None else len(data.unlabeled),
        "validation_items": 0 if data.held_out is None else len(data.held_out),
        "classes": data.names.tolist(),
        "device": str(task.device),
        "dtype": str(dtype_and_device(task.pair)[0]),
        "latent_dim": task.pair.latent_dim,
    }


class _Data:
    """The items of a fit, checked: those with labels and their class numbers, those without, and the validation's."""

    def __init__(self, task: Task, binarize: bool) -> None:
        pair = task.pair
        self.labeled = Items(pair, task.x, "x", binarize)
        if not isinstance(self.labeled.x, Tensor):
            raise TypeError("x must be an array of the labelled items, and is memory-mapped: read the rows with labels")
        self.names, number = numbered_labels(pair, task.y, len(self.labeled))
        self.labeled.y = number
        counts = torch.bincount(number, minlength=len(self.names))
        if absent := [name for name, count in zip(self.names.tolist(), counts, strict=True) if not count]:
            raise ValueError(
                f"class {absent[0]!r} has no labelled item, and nothing else says which items it has: label one of "
                "each class, or build the pair for fewer classes"
            )
        self.unlabeled: Items | None = None
        if task.unlabeled is not None:
            self.unlabeled = Items(pair, task.unlabeled, "unlabeled", binarize, reference=self.labeled)
        self.held_out: Items | None = None
        if task.validation is not None:
            items, labels = items_and_labels(task.validation)
            self.held_out = Items(pair, items, "validation", binarize, reference=self.labeled)
            self.held_out.y = numbered(self.names, labels, len(self.held_out), name="validation labels")


class _Problem:
    """The loss of a batch of labelled and a batch of unlabelled items, and its three terms beside it."""

    def __init__(self, pair: SemiSupervisedVAE, plan: _Plan, data: _Data, device: torch.device) -> None:
        self.pair, self.plan, self.device = pair, plan, device
        self.labeled, self.unlabeled, self.held_out = data.labeled, data.unlabeled, data.held_out
        self.source = self.labeled if self.unlabeled is None else self.unlabeled
        self.batch_size = plan.labeled_batch_size if self.unlabeled is None else plan.batch_size
        self.steps_per_epoch = math.ceil(len(self.source) / self.batch_size)
        self.share = len(self.labeled) / (len(self.labeled) + (0 if self.unlabeled is None else len(self.unlabeled)))
        self.elements = 0

    def try_out(self) -> None:
        """Count what the layers put out in a step of whole batches, by two items of each kind."""
        module, sizes = as_module(self.pair), []
        space = Workspace(module, training=True, noise=Noise(0, self.device))
        for items in (self.labeled, self.unlabeled):
            if items is None:
                continue
            x = next(items.batches(2, shuffle=False))[0].to(self.device)
            y = torch.zeros(len(x), dtype=torch.long, device=self.device)
            with space.turn(), torch.no_grad(), seen(module) as layers:
                terms_of(self.pair, x, y, x[:0]) if items is self.labeled else unlabeled_bound(self.pair, x)
            sizes.append(sum(layers.sizes) // len(x))
        counts = (min(self.plan.labeled_batch_size, len(self.labeled)), min(self.batch_size, len(self.source)))
        self.elements = sum(size * count for size, count in zip(sizes, counts, strict=False))

    def loss(self, x: Tensor, y: Tensor, more: Tensor, weight: float | Tensor | None, size: Any) -> Tensor:
        """The loss and the means of its terms, (4,) or without unlabelled items (3,): `TERMS` names them."""
        terms = terms_of(self.pair, x, y, more)
        means = [terms.loss(self.share, self.plan.alpha, weight), terms.labeled.mean(), terms.cross_entropy.mean()]
        return torch.stack([*means, terms.unlabeled.mean()] if len(more) else means)

    pure = loss

    def batches(
        self, epoch: int, start: int = 0, draws: torch.Generator | None = None
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """An epoch's batches: labelled items, their class numbers, and unlabelled items."""
        draws = binary_draws(self.plan, epoch, self.device) if draws is None else draws
        labeled = self._labeled_batches(epoch, start)
        if self.unlabeled is None:
            for _ in range(start, self.steps_per_epoch):
                batch, y = next(labeled)
                x = ready(batch, self.device, draws)
                yield x, y.to(self.device), x[:0]
            return
        turns = slice(start, None)
        for more, _ in self.unlabeled.batches(self.batch_size, seed=self.plan.seed, epoch=epoch, turns=turns):
            x, y = next(labeled)
            yield ready(x, self.device, draws), y.to(self.device), ready(more, self.device, draws)

    def _labeled_batches(self, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Labelled items in passes without an end, each of them shuffled anew, from the epoch's batch `start` on."""
        size = self.plan.labeled_batch_size
        turn, first = divmod(start, math.ceil(len(self.labeled) / size))
        while True:
            seed = stream(self.plan.seed, "labeled", epoch, turn)
            for x, y in self.labeled.batches(size, seed=seed, turns=slice(first, None)):
                assert y is not None
                yield x, y
            turn, first = turn + 1, 0

    def arguments(self, batch: tuple[Any, ...], step: int) -> tuple[Any, ...]:
        """The batch, the weight of U(x) in this epoch, and the numbers of items."""
        x, y, more = batch
        warmup = self.plan.warmup
        weight = min(1.0, (step // self.steps_per_epoch + 1) / warmup) if warmup else None
        return x, y, more, weight, (len(x), len(more))

    def row(self, losses: Tensor, step: int) -> dict[str, float]:
        """The means over an epoch's steps, in each of which a term is a mean over the items of its own kind."""
        return dict(zip(TERMS, losses.mean(0).tolist(), strict=False))

    def fingerprints(self) -> dict[str, Any]:
        """Those of the items with labels, of those without, and of the validation items."""
        named = {"items": self.labeled, "unlabeled_items": self.unlabeled, "validation_items": self.held_out}
        return {name: None if items is None else items.fingerprint for name, items in named.items()}

    def broken_terms(self, batch: tuple[Any, ...]) -> str:
        """Which of L(x, y), U(x) and -log q(y | x) is not finite for an item."""
        terms = terms_of(self.pair, *batch)
        return not_finite({"L(x, y)": terms.labeled, "U(x)": terms.unlabeled, "log q(y | x)": terms.cross_entropy})


register_methods(SemiSupervisedVAE, SemiSupervisedSVI())
