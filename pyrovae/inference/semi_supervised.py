"""Stochastic variational inference from items with labels and items without."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import kl_divergence

from pyrovae import checks, ranks
from pyrovae.inference.environment import environment
from pyrovae.inference.history import History
from pyrovae.inference.items import EVALUATION_BATCH, Items
from pyrovae.inference.labels import items_and_labels, numbered_labels
from pyrovae.inference.method import Method, Task, register_methods
from pyrovae.models.classifiers import numbered
from pyrovae.models.pair import as_module, dtype_and_device
from pyrovae.models.scopes import Workspace
from pyrovae.models.semi_supervised import SemiSupervisedVAE
from pyrovae.progress import progress_bar
from pyrovae.seeding import Noise, stream

__all__ = ["SemiSupervisedSVI", "Terms", "terms_of", "unlabeled_bound"]


class Terms(NamedTuple):
    """The terms of the loss in nats, each of every item."""

    labeled: Tensor  # L(x, y), (N,): Kingma et al. 2014, eq. 6
    unlabeled: Tensor  # U(x), (M,): eq. 7
    cross_entropy: Tensor  # -log q(y | x), (N,)

    def loss(self, share: float, alpha: float, weight: float = 1.0) -> Tensor:
        """Eq. 9 divided by the number of items, of which `share` have a label; `weight` is that of U(x)."""
        value = share * self.labeled.mean() + alpha * self.cross_entropy.mean()
        return value + (1 - share) * weight * self.unlabeled.mean() if len(self.unlabeled) else value


def terms_of(pair: SemiSupervisedVAE, x: Tensor, y: Tensor, more: Tensor, *, quiet: bool = True) -> Terms:
    """The terms at one draw of each code, at class numbers `y` of the items `x`, and for the unlabelled items `more`.

    -L(x, y) = E_q[log p(x | y, z) + log p(y) + log p(z) - log q(z | x, y)]; U(x) = sum_y q(y | x) (L(x, y) + log q(y |
    x)), over all classes at once, a batch (C, M) of codes. With `quiet` the divergence of q(z | x, y) from p(z) is in
    closed form, where torch has one, and all classes share one noise.
    """
    labeled = _bound(pair, x, pair.indicators(y), quiet)
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
        schedule: "constant", or "cosine" from the learning rate to 0.
        binarize: draw binary items from grey ones, anew in each step; the validation items once.

    Raises ValueError or TypeError for an option that is not one of these.

    >>> from pyrovae.methods import SemiSupervisedSVI
    >>> SemiSupervisedSVI(alpha=0.1).alpha
    0.1
    """

    name: ClassVar[str] = "semi_supervised_svi"
    title: ClassVar[str] = "semi-supervised SVI"
    belongs_to: ClassVar[str] = "SemiSupervisedVAE"
    takes_unlabeled: ClassVar[bool] = True

    epochs: int = 20
    batch_size: int = 256
    labeled_batch_size: int = 100
    learning_rate: float = 1e-3
    alpha: float = 1.0
    warmup: int = 0
    weight_decay: float = 0.0
    schedule: Literal["constant", "cosine"] = "constant"
    binarize: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.binarize, bool):
            raise TypeError(f"binarize must be True or False, got {self.binarize!r}")
        checked = {
            "epochs": checks.whole("epochs", self.epochs),
            "batch_size": checks.whole("batch_size", self.batch_size),
            "labeled_batch_size": checks.whole("labeled_batch_size", self.labeled_batch_size),
            "learning_rate": checks.positive("learning_rate", self.learning_rate),
            "alpha": checks.positive("alpha", self.alpha, zero=True),
            "warmup": checks.whole("warmup", self.warmup, least=0),
            "weight_decay": checks.positive("weight_decay", self.weight_decay, zero=True),
            "schedule": checks.choice("schedule", self.schedule, ("constant", "cosine")),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def refuse_checkpoint(self, name: str) -> None:
        raise ValueError(f"{name} is not kept by {self.title}: save(path, pair) after the fit, or leave it out")

    def run(self, task: Task) -> History:
        """Train the pair in place, from where its parameters are."""
        if ranks.current().size > 1:
            raise ValueError(f"{self.title} runs in one process: leave pyrovae.distributed() out")
        return _Fit(task, self).run()


class _Fit:
    """One fit: the items, checked before anything is changed, and the steps."""

    def __init__(self, task: Task, options: SemiSupervisedSVI) -> None:
        self.task, self.options, self.pair = task, options, task.pair
        self.device, binarize = task.device, options.binarize
        self.source = Items(self.pair, task.x, "x", binarize)
        if not isinstance(self.source.x, Tensor):
            raise TypeError("x must be an array of the labelled items, and is memory-mapped: read the rows with labels")
        self.names, number = numbered_labels(self.pair, task.y, len(self.source))
        self.source.y = number
        counts = torch.bincount(number, minlength=len(self.names))
        if absent := [name for name, count in zip(self.names.tolist(), counts, strict=True) if not count]:
            raise ValueError(
                f"class {absent[0]!r} has no labelled item, and nothing else says which items it has: label one of "
                "each class, or build the pair for fewer classes"
            )
        self.more: Items | None = None
        if task.unlabeled is not None:
            self.more = Items(self.pair, task.unlabeled, "unlabeled", binarize, reference=self.source)
        self.held_out: Items | None = None
        if task.validation is not None:
            items, labels = items_and_labels(task.validation)
            self.held_out = Items(self.pair, items, "validation", binarize, reference=self.source)
            self.held_out.y = numbered(self.names, labels, len(self.held_out), name="validation labels")
        self.module = as_module(self.pair)
        for name, parameter in self.module.named_parameters():
            if not parameter.isfinite().all():
                raise ValueError(f"parameter {name!r} of the pair is not finite: build it anew or load a good state")
        main = self.source if self.more is None else self.more
        self.batch = options.batch_size if self.more is not None else options.labeled_batch_size
        self.steps = math.ceil(len(main) / self.batch)
        self.share = len(self.source) / (len(self.source) + (0 if self.more is None else len(self.more)))

    def run(self) -> History:
        options, home = self.options, dtype_and_device(self.pair)[1]
        trained = [p for p in self.module.parameters() if p.requires_grad]
        if not trained:
            raise ValueError(f"{type(self.pair).__name__} has no parameter with requires_grad: nothing to fit")
        rows: list[dict[str, float]] = []
        self.pair.rename(self.names)
        try:
            self.module.to(self.device)
            for items in (self.source, self.more, self.held_out):
                if items is not None:
                    items.move(self.device)
            self.optimizer = torch.optim.AdamW(
                trained, lr=options.learning_rate, weight_decay=options.weight_decay, fused=True
            )
            with progress_bar(range(options.epochs), show=self.task.progress, unit="epoch") as bar:
                for epoch in bar:
                    rows.append(self.epoch(epoch, trained))
                    bar.set_postfix(loss=f"{rows[-1]['loss']:.3f}")
        finally:
            for parameter in self.module.parameters():
                parameter.grad = None
            self.module.to(home)
        return History.from_rows(rows, self.config())

    def epoch(self, epoch: int, trained: list[nn.Parameter]) -> dict[str, float]:
        """Take the steps of an epoch; their means, each term over the items of its own kind."""
        options, start = self.options, time.perf_counter()
        weight = min(1.0, (epoch + 1) / options.warmup) if options.warmup else 1.0
        noise = Noise(stream(self.task.seed, "noise", epoch), self.device)
        space = Workspace(self.module, training=True, noise=noise)
        sums: list[Tensor] = []
        before = [p.detach().clone() for p in trained]
        for number, batch in enumerate(self.batches(epoch)):
            self.set_rate(epoch * self.steps + number)
            with space.turn():
                x, y, more = self.drawn(*batch)
                terms = terms_of(self.pair, x, y, more)
                loss = terms.loss(self.share, options.alpha, weight)
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()
                self.optimizer.step()
            unlabeled = terms.unlabeled if len(more) else terms.labeled.new_zeros(1)
            parts = (loss, terms.labeled.mean(), unlabeled.mean(), terms.cross_entropy.mean())
            sums.append(torch.stack(parts).detach())
        mean = torch.stack(sums).double().mean(0).cpu()
        finite = torch.stack([p.isfinite().all() for p in trained]).all()
        if not (finite and mean.isfinite().all()):
            with torch.no_grad():
                torch._foreach_copy_(list[Tensor](trained), before)
            raise FloatingPointError(
                f"the loss or a weight became infinite or NaN in epoch {epoch}; the weights are those before it: lower "
                "learning_rate or look at the items"
            )
        loss, labeled, unlabeled_loss, cross_entropy = mean.tolist()
        row = {"loss": loss, "labeled_loss": labeled, "cross_entropy": cross_entropy}
        if self.more is not None:
            row["unlabeled_loss"] = unlabeled_loss
        row |= {"learning_rate": self.rate, "seconds": time.perf_counter() - start}
        if self.held_out is not None:
            row["validation_log_loss"] = self.validated()
        return row

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """An epoch's batches: labelled items, their class numbers, and unlabelled items."""
        labeled, seed = self.labeled_batches(epoch), self.task.seed
        if self.more is None:
            for _ in range(self.steps):
                x, y = next(labeled)
                yield x, y, x[:0]
            return
        for more, _ in self.more.batches(self.batch, seed=seed, epoch=epoch):
            yield *next(labeled), more

    def labeled_batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Labelled items in passes without an end, each of them shuffled anew."""
        size, turn = self.options.labeled_batch_size, 0
        while True:
            seed = stream(self.task.seed, "labeled", epoch, turn)
            for x, y in self.source.batches(size, seed=seed):
                assert y is not None
                yield x, y
            turn += 1

    def drawn(self, x: Tensor, y: Tensor, more: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A batch on the device, binary where that is asked for."""
        x, y, more = x.to(self.device), y.to(self.device), more.to(self.device)
        return (torch.bernoulli(x), y, torch.bernoulli(more)) if self.options.binarize else (x, y, more)

    def set_rate(self, step: int) -> None:
        """The learning rate of a step."""
        total = self.steps * self.options.epochs
        factor = 1.0 if self.options.schedule == "constant" else 0.5 * (1 + math.cos(math.pi * step / total))
        self.rate = self.options.learning_rate * factor
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate

    def validated(self) -> float:
        """The mean of -log q(y | x) of the validation items."""
        assert self.held_out is not None
        noise = Noise(stream(self.task.seed, "validation"), self.device)
        space, total = Workspace(self.module, noise=noise), 0.0
        for x, y in self.held_out.batches(EVALUATION_BATCH, shuffle=False):
            assert y is not None
            with space.turn():
                x = torch.bernoulli(x.to(self.device)) if self.options.binarize else x.to(self.device)
                logits = self.pair.label_logits(x)
                total += float(nn.functional.cross_entropy(logits, y.to(self.device), reduction="sum"))
        return total / len(self.held_out)

    def config(self) -> dict[str, Any]:
        """The `config` of the fit's history."""
        return {
            "method": self.options.name,
            **dataclasses.asdict(self.options),
            "seed": self.task.seed,
            "items": len(self.source),
            "unlabeled_items": 0 if self.more is None else len(self.more),
            "validation_items": 0 if self.held_out is None else len(self.held_out),
            "classes": self.names.tolist(),
            "latent_dim": self.pair.latent_dim,
            "device": str(self.device),
            "dtype": str(dtype_and_device(self.pair)[0]),
            **environment(self.device),
        }


register_methods(SemiSupervisedVAE, SemiSupervisedSVI())
