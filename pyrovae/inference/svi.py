"""Stochastic variational inference: `fit` trains a pair in place and returns its `History`."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import pyro
import torch
from pyro.infer import Trace_ELBO
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import constraints

from pyrovae import checks
from pyrovae.data import MappedArray, batches
from pyrovae.models.pair import (
    Pair,
    as_module,
    checked_items,
    dtype_and_device,
    isolated_store,
    kept_modes,
    particles,
)
from pyrovae.models.pair import (
    validation as checking,
)
from pyrovae.seeding import forked, stream

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["History", "PosteriorCollapseWarning", "fit"]

EVALUATION_BATCH = 1024
ADVICE = "the weights are those of the last finite loss: lower learning_rate or look at these items"
ACTIVE_VARIANCE = 0.01  # Burda et al. 2016, section 5: a unit is active if Var_x E_q[z | x] exceeds this


class PosteriorCollapseWarning(UserWarning):
    """Units of the code that carry nothing of the item: their posterior is the prior."""


@dataclass(frozen=True, eq=False)  # a Dataset has no one truth value
class History:
    """What a fit did: `epochs`, an xarray.Dataset over "epoch", and `config`, everything the run was.

    Variables: `loss`, nats an item, the objective's own (at that epoch's beta); `validation_elbo`, nats an item, at
    beta = 1 (for an autoencoder E log p(x | z), which bounds nothing); `beta`; `learning_rate`; `seconds`, that
    epoch's batches and steps alone.
    """

    epochs: xr.Dataset
    config: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        count = self.epochs.sizes["epoch"]
        kept = self.config.get("weights_epoch", count - 1)
        text = f"{count} epochs, loss {float(self.epochs.loss[kept]):.3f} nats per item"
        if "validation_elbo" in self.epochs:
            text += f", validation ELBO {float(self.epochs.validation_elbo[kept]):.3f}"
        text += f", {float(self.epochs.seconds.sum()):.1f} s"
        if self.config.get("active_units") is not None:
            text += f", {self.config['active_units']} of {self.config['latent_dim']} units active"
        return text + (f" ({self.config['stopped']})" if self.config.get("stopped") else "")

    def levelled_off(self, *, within: float = 0.2) -> tuple[bool, float]:
        """Whether the last fifth's best validation ELBO is less than `within` nats above that of the fifth before.

        Also returned: that rise, in nats per item per epoch. Raises ValueError without validation or under 10 epochs.

        >>> import xarray as xr
        >>> curve = [-9.0, -8.0, -7.0, -6.0, -5.0, -4.0, -3.2, -3.1, -3.05, -3.0]
        >>> History(xr.Dataset({"validation_elbo": ("epoch", curve)})).levelled_off()[0]
        True
        """
        if "validation_elbo" not in self.epochs:
            raise ValueError("levelled_off needs a fit with `validation`")
        curve = self.epochs.validation_elbo.values
        fifth = len(curve) // 5
        if fifth < 2:
            raise ValueError(f"levelled_off needs at least 10 epochs, two in a fifth, got {len(curve)}")
        rise = float(curve[-fifth:].max() - curve[-2 * fifth : -fifth].max())
        return rise < within, rise / fifth


def fit(
    pair: Pair,
    x: Any,
    y: Any = None,
    *,
    validation: Any = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    schedule: Literal["constant", "cosine"] = "constant",
    objective: Literal["elbo", "iwae"] = "elbo",
    num_particles: int | None = None,
    binarize: bool = False,
    beta: float = 1.0,
    warmup: int = 0,
    patience: int | None = None,
    device: str | torch.device = "auto",
    progress: bool = True,
    seed: int = 0,
) -> History:
    """Train a pair in place by SVI on the items of `x`; a second fit goes on from the present parameters.

    The loss is the negative ELBO, E_q[log q(z | x) - log p(z)] beta - E_q[log p(x | z)], by Pyro's Trace_ELBO, or with
    `objective="iwae"` the negative importance-weighted bound of `num_particles` (Burda et al. 2016, eq. 8), in nats per
    item, minimised by Adam.

    Args:
        pair: any model/guide pair; its parameters are changed in place, its device and dtype are as they were.
        x: shape (N, *event_shape), an array, a tensor or a memory-mapped view; cast to the pair's dtype.
        y: labels, refused by a pair that has no use for them.
        validation: items of the same shape, or (items, labels): their ELBO, at beta = 1, is noted each epoch.
        epochs, batch_size, learning_rate: 20, 256 and 1e-3 where None. No item is dropped from the last batch.
        schedule: "constant", or "cosine" from the learning rate to 0 over the whole run.
        num_particles: draws an item; 1 for the ELBO and 5 for the importance-weighted bound where None.
        binarize: draw binary items from grey ones, anew each epoch; the validation items once.
        beta: the weight of the KL term; raised from 0 linearly over the first `warmup` epochs.
        patience: stop after so many epochs without a better validation ELBO, and take the best weights back.
        device: "auto" is a CUDA device where there is one; the pair comes back to its own device.
        progress: a bar where the output is a terminal.
        seed: fixes the order of the batches and all noise; the caller's generators, Pyro's parameter store and
            settings are left as they were.

    Raises ValueError or TypeError for what does not fit, before anything is changed, and FloatingPointError when the
    loss, a gradient or a weight is not finite, with the weights of the last finite loss in place, or the validation
    ELBO is not. The parameters' `.grad` is cleared. Warns of a collapsed posterior
    (`PosteriorCollapseWarning`) and of a run that ends before its warm-up does. One fit at a time in a process: Pyro's
    handlers are not safe under threads.

    >>> import pyrovae
    >>> vae = pyrovae.mlp_vae((1, 8, 8), hidden_dims=(16,))
    >>> x = pyrovae.data.load("digits").train.x
    >>> history = fit(vae, x, epochs=2, binarize=True, progress=False)
    >>> history.epochs.sizes["epoch"]
    2
    """
    as_module(pair)
    plan = _Plan(
        epochs=20 if epochs is None else checks.whole("epochs", epochs),
        batch_size=256 if batch_size is None else checks.whole("batch_size", batch_size),
        learning_rate=1e-3 if learning_rate is None else checks.positive("learning_rate", learning_rate),
        schedule=checks.choice("schedule", schedule, ("constant", "cosine")),
        objective=checks.choice("objective", objective, ("elbo", "iwae")),
        num_particles=checks.whole(
            "num_particles", (5 if objective == "iwae" else 1) if num_particles is None else num_particles
        ),
        binarize=_flag("binarize", binarize),
        beta=checks.positive("beta", beta, zero=True),
        warmup=checks.whole("warmup", warmup, least=0),
        patience=None if patience is None else checks.whole("patience", patience),
        seed=checks.whole("seed", seed, least=0),
    )
    target = checks.device(device)
    if plan.objective == "iwae" and (plan.beta != 1 or plan.warmup):
        raise ValueError("objective='iwae' has no KL term to weigh: leave beta at 1 and warmup at 0")
    if plan.objective == "iwae" and not pair.is_normalized:
        raise ValueError(f"objective='iwae' needs a p(x), and {type(pair).__name__} has none; take objective='elbo'")
    if plan.patience is not None and validation is None:
        raise ValueError("patience stops on the validation ELBO: give validation=items, or leave patience out")
    with torch.inference_mode(False), torch.enable_grad():  # whatever the caller has switched off
        return _fitted(pair, x, y, validation, plan, target, progress)


def _fitted(pair: Pair, x: Any, y: Any, validation: Any, plan: _Plan, target: torch.device, progress: bool) -> History:
    module = as_module(pair)
    source = _Source(pair, x, "x", plan.binarize)
    if y is not None:
        checks.labels(y, len(source))
        raise ValueError(f"{type(pair).__name__} takes no labels: leave y out")
    held_out = None if validation is None else _Source(pair, _items_of(validation), "validation", plan.binarize)
    for name, parameter in module.named_parameters():
        if not parameter.isfinite().all():
            raise ValueError(f"parameter {name!r} of the pair is not finite: build it anew or load a good state")
    home = dtype_and_device(pair)[1]
    try:
        module.to(target)
        with isolated_store(), kept_modes(module):
            loop = _Loop(pair, plan, source, held_out, target)
            rows, kept = loop.run(progress)
            active = loop.active_units()
    finally:
        for parameter in module.parameters():
            parameter.grad = None
            parameter.__dict__.pop("unconstrained", None)  # Pyro's weak reference, which does not pickle
        module.to(home)
    _warn(plan, rows, active, pair.latent_dim)
    config = {
        **vars(plan),
        "items": len(source),
        "validation_items": 0 if held_out is None else len(held_out),
        "optimizer": "Adam",
        "device": str(target),
        "dtype": str(dtype_and_device(pair)[0]),
        "latent_dim": pair.latent_dim,
        "active_units": active,
        "weights_epoch": kept,
        "stopped": f"weights of epoch {kept}" if kept < len(rows) - 1 else None,
        "torch": torch.__version__,
        "pyro": pyro.__version__,
    }
    return History(_dataset(rows), config)


@dataclass(frozen=True)
class _Plan:
    epochs: int
    batch_size: int
    learning_rate: float
    schedule: str
    objective: str
    num_particles: int
    binarize: bool
    beta: float
    warmup: int
    patience: int | None
    seed: int

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of step 0..steps-1."""
        if self.schedule == "constant":
            return self.learning_rate
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * step / steps))

    def weight(self, step: int, steps_per_epoch: int) -> float:
        """beta at a step: on a straight line from 0 that reaches the asked value with the warm-up's last step."""
        ramp = self.warmup * steps_per_epoch
        return self.beta if step + 1 >= ramp else self.beta * (step + 1) / ramp


class _WeighLatents(Messenger):
    """Multiply the log-density of every unobserved site by beta, in model and guide alike: the KL term's weight."""

    def __init__(self, beta: float) -> None:
        super().__init__()
        self.beta = beta

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"]:
            msg["scale"] = msg["scale"] * self.beta


def _loss(pair: Pair, x: Tensor, plan: _Plan, beta: float) -> Tensor:
    """The negative objective in nats per item of the batch, differentiable."""
    if plan.objective == "iwae":
        table = particles(pair, x, plan.num_particles).log_weight
        return math.log(plan.num_particles) - table.logsumexp(0).mean()
    elbo = Trace_ELBO(num_particles=plan.num_particles, vectorize_particles=plan.num_particles > 1, max_plate_nesting=1)
    model, guide = pair.model, pair.guide
    if beta != 1:
        model, guide = _WeighLatents(beta)(model), _WeighLatents(beta)(guide)
    return elbo.differentiable_loss(model, guide, x) / len(x)


class _Source:
    """Checked items in batches; a memory-mapped view is looked at once from end to end, and read as it is used."""

    def __init__(self, pair: Pair, x: Any, name: str, binarize: bool) -> None:
        self.dtype = dtype_and_device(pair)[0]
        self.x: Tensor | MappedArray
        least, most = math.inf, -math.inf
        support = constraints.unit_interval if binarize else None
        if isinstance(x, MappedArray) and len(x):
            self.x, step = x, EVALUATION_BATCH
        else:
            self.x = checked_items(pair, x, name=name, support=support).detach()
            step = len(self.x)
        for first in range(0, len(self.x), step):
            part = self.x[first : first + step]
            if isinstance(x, MappedArray):
                part = checked_items(pair, part, name=name, support=support, first=first)
            least, most = min(least, float(part.min())), max(most, float(part.max()))
        family = getattr(getattr(pair, "likelihood", None), "family", None)
        if getattr(family, "link", None) == "sigmoid" and (least < 0 or most > 1):
            warnings.warn(
                f"{name} reaches from {least:g} to {most:g}, and the likelihood's mean stays in [0, 1] "
                "(link='sigmoid'): scale it, or take Normal(link='identity')",
                stacklevel=4,
            )

    def __len__(self) -> int:
        return len(self.x)

    def batches(self, size: int, *, seed: int = 0, epoch: int = 0, shuffle: bool = True) -> Iterator[Tensor]:
        for batch in batches(self.x, size, seed=seed, epoch=epoch, shuffle=shuffle):
            yield batch.to(self.dtype)


class _Loop:
    """The epochs of one fit. `step` is the one place where parameters change."""

    def __init__(
        self, pair: Pair, plan: _Plan, source: _Source, held_out: _Source | None, device: torch.device
    ) -> None:
        self.pair, self.plan, self.source, self.held_out, self.device = pair, plan, source, held_out, device
        self.module = as_module(pair)
        self.steps_per_epoch = math.ceil(len(source) / plan.batch_size)
        self.trained = [p for p in self.module.parameters() if p.requires_grad]
        if not self.trained:
            raise ValueError(f"{type(pair).__name__} has no parameter with requires_grad: nothing to fit")
        self.good = [p.detach().clone() for p in self.trained]  # the weights of the last finite loss
        self.sound = [p.clone() for p in self.good]  # those at the start of the epoch
        self.optimizer = torch.optim.Adam(self.trained, lr=plan.learning_rate, fused=True)
        self.taken = 0

    def run(self, progress: bool) -> tuple[list[dict[str, float]], int]:
        """What each epoch was, and the epoch whose weights are in place."""
        from tqdm import tqdm

        rows: list[dict[str, float]] = []
        best, best_epoch, best_weights = -math.inf, -1, None
        with tqdm(range(self.plan.epochs), unit="epoch", disable=None if progress else True) as bar:
            for epoch in bar:
                row = self.epoch(epoch)
                rows.append(row)
                bar.set_postfix({k: f"{row[k]:.2f}" for k in ("loss", "validation_elbo") if k in row})
                if not math.isfinite(row.get("validation_elbo", 0.0)):
                    raise FloatingPointError(
                        f"the validation ELBO became {row['validation_elbo']} in epoch {epoch}; look at the validation "
                        "items, or lower learning_rate"
                    )
                if self.plan.patience is None or epoch + 1 < self.plan.warmup:
                    continue
                if row["validation_elbo"] > best:
                    best, best_epoch = row["validation_elbo"], epoch
                    best_weights = deepcopy(self.module.state_dict())
                elif epoch - best_epoch >= self.plan.patience:
                    break
        if best_weights is None:
            return rows, len(rows) - 1
        self.module.load_state_dict(best_weights)
        return rows, best_epoch

    def epoch(self, epoch: int) -> dict[str, float]:
        plan = self.plan
        self.module.train()
        total, start = 0.0, time.perf_counter()
        # an epoch's random numbers do not depend on those of the epochs before
        draws = torch.Generator(self.device).manual_seed(stream(plan.seed, "binarize", epoch))
        with forked(stream(plan.seed, "noise", epoch), self.device):
            for batch in self.source.batches(plan.batch_size, seed=plan.seed, epoch=epoch):
                x = batch.to(self.device)
                if plan.binarize:
                    x = torch.bernoulli(x, generator=draws)
                elif x.is_inference():  # which has no gradient to save it for
                    x = x.clone()
                total += self.step(x) * len(x)
        self.refuse_broken_weights()
        seconds = time.perf_counter() - start
        last = self.taken - 1
        row = {
            "loss": total / len(self.source),
            "beta": plan.weight(last, self.steps_per_epoch),
            "learning_rate": plan.rate(last, plan.epochs * self.steps_per_epoch),
            "seconds": seconds,
        }
        if self.held_out is not None:
            row["validation_elbo"] = self.validation_elbo()
        return row

    def step(self, x: Tensor) -> float:
        """One batch: loss, gradients, update; no update from a loss or a gradient that is not finite."""
        plan = self.plan
        for group in self.optimizer.param_groups:
            group["lr"] = plan.rate(self.taken, plan.epochs * self.steps_per_epoch)
        self.optimizer.zero_grad(set_to_none=True)
        # Pyro's checks cost 0.6 ms a step and see on the first what they would see on any
        with checking(self.taken == 0):
            loss = _loss(self.pair, x, plan, plan.weight(self.taken, self.steps_per_epoch))
        if not self.taken:
            self.refuse_foreign_parameters()
        value = loss.item()
        if not math.isfinite(value):
            broken = self.broken_terms(x)
            torch._foreach_copy_(self.trained_data(), self.good)
            raise FloatingPointError(f"the loss became {value} {self.place()}: {broken}; {ADVICE}")
        torch._foreach_copy_(self.good, self.trained_data())
        loss.backward()
        gradients = [p.grad for p in self.trained if p.grad is not None]
        if not torch.stack(torch._foreach_norm(gradients)).isfinite().all():
            grads = {name: p.grad for name, p in self.module.named_parameters() if p.grad is not None}
            named = [name for name, grad in grads.items() if not grad.norm().isfinite()]
            raise FloatingPointError(f"the gradient of {', '.join(named[:3])} is not finite {self.place()}; {ADVICE}")
        self.optimizer.step()
        self.taken += 1
        return value

    def refuse_broken_weights(self) -> None:
        """After an epoch: the loss that would show them may never be computed."""
        if all(p.isfinite().all() for p in self.trained):
            torch._foreach_copy_(self.sound, self.trained_data())
            return
        named = [name for name, p in self.module.named_parameters() if not p.isfinite().all()]
        # a weight at infinity may still give a finite loss
        last = all(p.isfinite().all() for p in self.good)
        torch._foreach_copy_(self.trained_data(), self.good if last else self.sound)
        advice = ADVICE if last else ADVICE.replace("of the last finite loss", "from the start of the epoch")
        raise FloatingPointError(f"an update before {self.place()[3:]} left {named[0]} not finite; {advice}")

    def trained_data(self) -> list[Tensor]:
        return [p.detach() for p in self.trained]

    def place(self) -> str:
        epoch, batch = divmod(self.taken, self.steps_per_epoch)
        return f"at step {self.taken} (epoch {epoch}, batch {batch})"

    def broken_terms(self, x: Tensor) -> str:
        """Which parts of the loss are not finite."""
        with torch.no_grad(), checking(False):
            table = particles(self.pair, x, 1)
        parts = {
            "log p(x | z)": table.log_likelihood,
            "log p(z)": table.log_prior,
            "log q(z | x)": table.log_guide,
        }
        bad = [name for name, part in parts.items() if not part.isfinite().all()]
        return f"{', '.join(bad) or 'a sum'} is not finite"

    def refuse_foreign_parameters(self) -> None:
        """A `pyro.param` that is no parameter of the module would never be trained."""
        store, owned = pyro.get_param_store(), {id(p) for p in self.module.parameters()}
        foreign = [name for name in store if id(store[name].unconstrained()) not in owned]
        if foreign:
            raise ValueError(
                f"pyro.param {foreign[0]!r} is not among the pair's parameters(), and fit trains those alone: make it "
                "an nn.Parameter of the module, or train with pyro.infer.SVI"
            )

    def validation_elbo(self) -> float:
        """At beta = 1, with the same binary items and noise each epoch: epochs differ by their weights alone."""
        assert self.held_out is not None
        self.module.eval()
        plan, total = self.plan, 0.0
        draws = torch.Generator(self.device).manual_seed(stream(plan.seed, "validation binarize"))
        key = stream(plan.seed, "validation noise")
        with torch.no_grad(), checking(False), forked(key, self.device):
            for batch in self.held_out.batches(EVALUATION_BATCH, shuffle=False):
                x = batch.to(self.device)
                x = torch.bernoulli(x, generator=draws) if plan.binarize else x
                total += float(particles(self.pair, x, 1).log_weight.sum())
        return total / len(self.held_out)

    def active_units(self) -> int | None:
        """How many dimensions of the posterior mean vary over the items; None for a point code."""
        encode = getattr(self.pair, "encode", None)
        if encode is None or not self.pair.is_normalized or len(self.source) < 2:
            return None
        self.module.eval()
        with torch.no_grad():
            some = islice(self.source.batches(EVALUATION_BATCH, shuffle=False), 10)
            parts = [encode(batch.to(self.device)) for batch in some]
        if not all(isinstance(part, Tensor) for part in parts):  # a pair's own encode may mean something else
            return None
        codes = torch.cat(parts)
        return int((codes.var(0) > ACTIVE_VARIANCE).sum())


def _items_of(validation: Any) -> Any:
    """The items of a split, of (items, labels), or the items themselves."""
    if isinstance(validation, tuple):
        if len(validation) != 2:
            raise ValueError(f"validation must be items or (items, labels), got a tuple of {len(validation)}")
        items, labels = validation
        if labels is not None:
            checks.labels(labels, len(items), name="validation labels", of="validation")
        return items
    return validation.x if hasattr(validation, "x") else validation


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return value


def _warn(plan: _Plan, rows: list[dict[str, float]], active: int | None, latent_dim: int) -> None:
    if len(rows) < plan.warmup:
        warnings.warn(
            f"training ended after {len(rows)} of {plan.warmup} warm-up epochs, at beta = {rows[-1]['beta']:.3g} "
            f"of {plan.beta:g}: raise epochs or lower warmup",
            stacklevel=4,
        )
    if active is not None and active < latent_dim:
        warnings.warn(
            f"posterior collapse: {active} of {latent_dim} latent units are active (variance of their posterior mean "
            f"over items above {ACTIVE_VARIANCE}); lower beta, use warmup, or lower latent_dim",
            PosteriorCollapseWarning,
            stacklevel=4,
        )


_UNITS = {
    "loss": ("negative objective at the epoch's beta", "nats per item"),
    "validation_elbo": ("validation ELBO at beta = 1", "nats per item"),
    "beta": ("weight of the KL term after the epoch", "1"),
    "learning_rate": ("learning rate of the epoch's last step", "1"),
    "seconds": ("time of the epoch's batches and steps", "s"),
}


def _dataset(rows: list[dict[str, float]]) -> xr.Dataset:
    import xarray as xr

    def column(name: str) -> tuple[str, list[float], dict[str, str]]:
        long_name, units = _UNITS[name]
        return ("epoch", [row[name] for row in rows], {"long_name": long_name, "units": units})

    return xr.Dataset({name: column(name) for name in rows[0]}, coords={"epoch": range(len(rows))})
