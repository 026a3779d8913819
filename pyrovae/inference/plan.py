"""What is asked of a run by SVI: the arguments of `fit`, checked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from pyrovae import checks
from pyrovae.models.pair import Pair, dtype_and_device

__all__ = ["Plan"]


@dataclass(frozen=True)
class Plan:
    """What is asked of a run: the arguments of `fit`."""

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
    compile: bool | str
    precision: str
    seed: int

    @classmethod
    def asked(
        cls,
        pair: Pair,
        *,
        epochs: Any,
        batch_size: Any,
        learning_rate: Any,
        schedule: Any,
        objective: Any,
        num_particles: Any,
        binarize: Any,
        beta: Any,
        warmup: Any,
        patience: Any,
        compile: Any,
        precision: Any,
        seed: int,
    ) -> Plan:
        """Checked, with defaults for None."""
        if not isinstance(binarize, bool):
            raise TypeError(f"binarize must be True or False, got {binarize!r}")
        plan = cls(
            epochs=20 if epochs is None else checks.whole("epochs", epochs),
            batch_size=256 if batch_size is None else checks.whole("batch_size", batch_size),
            learning_rate=1e-3 if learning_rate is None else checks.positive("learning_rate", learning_rate),
            schedule=checks.choice("schedule", schedule, ("constant", "cosine")),
            objective=checks.choice("objective", objective, ("elbo", "iwae")),
            num_particles=checks.whole(
                "num_particles", (5 if objective == "iwae" else 1) if num_particles is None else num_particles
            ),
            binarize=binarize,
            beta=checks.positive("beta", beta, zero=True),
            warmup=checks.whole("warmup", warmup, least=0),
            patience=None if patience is None else checks.whole("patience", patience),
            compile=compile if isinstance(compile, bool) else checks.choice("compile", compile, ("auto",)),
            precision=checks.choice("precision", precision, ("float32", "bf16")),
            seed=seed,
        )
        if plan.objective == "iwae" and (plan.beta != 1 or plan.warmup):
            raise ValueError("objective='iwae' has no KL term to weigh: leave beta at 1 and warmup at 0")
        if plan.precision == "bf16" and (dtype := dtype_and_device(pair)[0]) != torch.float32:
            raise ValueError(
                f"precision='bf16' is for a pair in float32, and this one is in {dtype}: take pair.float()"
            )
        if plan.objective == "iwae" and not pair.is_normalized:
            raise ValueError(
                f"objective='iwae' needs a p(x), and {type(pair).__name__} has none; take objective='elbo'"
            )
        return plan

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of step 0..steps-1."""
        if self.schedule == "constant":
            return self.learning_rate
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * step / steps))

    def weight(self, step: int, steps_per_epoch: int) -> float:
        """beta at a step: on a straight line from 0 that reaches the asked value with the warm-up's last step."""
        ramp = self.warmup * steps_per_epoch
        return self.beta if step + 1 >= ramp else self.beta * (step + 1) / ramp
