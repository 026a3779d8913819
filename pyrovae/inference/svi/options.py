"""The options of stochastic variational inference, and the plan that a run makes of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from pyrovae import checks
from pyrovae.inference.callbacks import Callback, checked_callbacks
from pyrovae.inference.history import History
from pyrovae.inference.method import Method, Task, register_methods
from pyrovae.inference.svi.optimizer import DefaultRate, OptimizerChoice
from pyrovae.inference.svi.plan import options_in_words, require_score
from pyrovae.inference.svi.run import run
from pyrovae.inference.svi.schedule import checked_schedule
from pyrovae.models.pair import Pair, as_module, dtype_and_device

__all__ = ["SVI", "Plan"]


@dataclass(frozen=True)
class SVI(Method):
    """Stochastic variational inference: the negative ELBO is lowered step by step, a batch in each.

    The loss is E_q[log q(z | x) - log p(z)] beta - E_q[log p(x | z)], by Pyro's Trace_ELBO, in nats per item, or with
    `objective="iwae"` the negative importance-weighted bound of `num_particles` (Burda et al. 2016, eq. 8). For the
    ELBO a discrete site that is marked for enumeration is summed out. Draws without a gradient through their value have
    score functions: Pyro's for the ELBO, and for the bound those of Mnih and Rezende (2016, eq. 10).

    Args:
        epochs: passes over the items. No item is dropped from the last batch.
        batch_size: items in a step; "all" takes all of them at once.
        learning_rate: the optimiser's, where it does not state its own lr. Both are an error, unless they are equal or
            nobody states this one.
        optimizer: "adam", "adamw", "sgd" or "clippedadam" with their default options; a class of torch's or a
            functools.partial of one, `partial(torch.optim.AdamW, weight_decay=0.1)`; Pyro's own,
            `pyro.optim.AdamW({"weight_decay": 0.1})`; or torch's object over the pair's trained parameters and no
            others, whose groups may have options of their own and which takes no step itself. Each fit begins with a
            new one. Those four can be compiled, and what `pyrovae.compile.optimizers.register_rule` adds; others run
            eagerly.
        clip_norm: all gradients of a step are multiplied by min(1, clip_norm / (norm + 1e-6)), where norm is the square
            root of the sum of their entries' squares, in float32 at least, over all parameters (and after the sum over
            processes), as by `torch.nn.utils.clip_grad_norm_`. None leaves them as they are.
        callbacks: objects that are told of the run's begin, epochs and end, and may stop it: `pyrovae.callbacks`.
        schedule: "constant"; "cosine", from the learning rate to 0 over the whole run; "plateau", a tenth of the rate
            after more than 10 epochs without a validation ELBO (a classifier's log-loss; the training loss, where there
            is no validation) that is better by over 1e-4 nats per item, from the end of the warm-up on; or a function
            `schedule(step, steps)` of the step, 0 to steps - 1, which gives the factor of the learning rate in it, a
            finite number above 0. All of up to 1,000,000 steps are looked at before the first, and of more a million at
            most, spread evenly: a factor out of range in between raises ValueError at its step, with the weights before
            it in place. A run that is resumed takes a function that gives the same factors for the steps so far, and
            refuses another.
        objective: "elbo" or "iwae".
        num_particles: draws per item; None takes 1 for the ELBO and 5 for the importance-weighted bound.
        binarize: draw binary items from grey ones, anew in each epoch; the validation items once.
        beta: the weight of the KL term; raised from 0 linearly over the first `warmup` epochs.
        warmup: epochs over which beta is raised.
        free_bits: a floor in nats under the KL term of each dimension of the code, averaged over the batch: its term is
            sum_j max(free_bits, KL_j) in place of sum_j KL_j, with KL_j estimated at the guide's draws, so that a
            dimension is not given up before the decoder has found a use for it (Kingma et al. 2016, appendix C.8).
            Where q(z | x) or p(z) has dependent dimensions, as a full covariance, a flow or a mixture has, the floor is
            one for the whole code, free_bits times latent_dim; `History.config["free_bits_of"]` says which. The
            history's loss has the floor in it; the validation ELBO has not. For pairs whose one latent site is
            "latent", with reparameterised draws, in one process. 0 is no floor.
        patience: stop after so many epochs without a better validation ELBO, and take the best weights back.
        compile: take each step, from loss to update, as one compiled graph: rounding differs, and nothing else.
            "auto" does so where steps and shapes say that it saves more than half a minute
            (`pyrovae.compile.function.pays`), and runs eagerly, with a line in the log, without a C++ compiler or for a
            pair or an optimiser that cannot be one graph. True raises CompilerError or CaptureError then, with
            everything as it was.
        precision: "bf16" lets networks, the outermost parts that turn tensors into a tensor, compute in bfloat16 while
            they train; parameters, densities and validation stay in float32.

    Raises ValueError or TypeError for an option that is not one of these.

    >>> from pyrovae.methods import SVI
    >>> SVI(epochs=50, optimizer="adamw", clip_norm=10.0).epochs
    50
    """

    name: ClassVar[str] = "svi"
    title: ClassVar[str] = "SVI"
    keeps_checkpoints: ClassVar[bool] = True
    takes_beside: ClassVar[bool] = True
    takes_weight: ClassVar[bool] = True
    takes_missing: ClassVar[bool] = True

    epochs: int = 20
    batch_size: int | Literal["all"] = 256
    learning_rate: float = DefaultRate(1e-3)
    optimizer: Any = "adam"
    clip_norm: float | None = None
    schedule: Literal["constant", "cosine", "plateau"] | Callable[[int, int], float] = "constant"
    callbacks: Sequence[Callback] = ()
    objective: Literal["elbo", "iwae"] = "elbo"
    num_particles: int | None = None
    binarize: bool = False
    beta: float = 1.0
    warmup: int = 0
    free_bits: float = 0.0
    patience: int | None = None
    compile: bool | Literal["auto"] = "auto"
    precision: Literal["float32", "bf16"] = "float32"

    def __post_init__(self) -> None:
        if not isinstance(self.binarize, bool):
            raise TypeError(f"binarize must be True or False, got {self.binarize!r}")
        compiled = self.compile if isinstance(self.compile, bool) else checks.choice("compile", self.compile, ("auto",))
        checked = {
            "epochs": checks.whole("epochs", self.epochs),
            "batch_size": _checked_batch_size(self.batch_size),
            "learning_rate": checks.positive("learning_rate", self.learning_rate),
            "clip_norm": None if self.clip_norm is None else checks.positive("clip_norm", self.clip_norm),
            "schedule": checked_schedule(self.schedule),
            "callbacks": checked_callbacks(self.callbacks),
            "objective": checks.choice("objective", self.objective, ("elbo", "iwae")),
            "num_particles": None if self.num_particles is None else checks.whole("num_particles", self.num_particles),
            "beta": checks.positive("beta", self.beta, zero=True),
            "warmup": checks.whole("warmup", self.warmup, least=0),
            "free_bits": checks.positive("free_bits", self.free_bits, zero=True, most=checks.LARGEST),
            "patience": None if self.patience is None else checks.whole("patience", self.patience),
            "compile": compiled,
            "precision": checks.choice("precision", self.precision, ("float32", "bf16")),
        }
        if isinstance(self.learning_rate, DefaultRate):
            checked["learning_rate"] = self.learning_rate
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        self.optimizer_choice()
        if self.objective == "iwae" and (self.beta != 1 or self.warmup):
            raise ValueError("objective='iwae' has no KL term to weigh: leave beta at 1 and warmup at 0")
        if self.objective == "iwae" and self.free_bits:
            raise ValueError("objective='iwae' has no KL term to put a floor under: leave free_bits at 0")

    def optimizer_choice(self) -> OptimizerChoice:
        """The optimiser with its options and learning rate; ValueError or TypeError for what is none."""
        return OptimizerChoice.of(self.optimizer, self.learning_rate)

    def run(self, task: Task) -> History:
        """Train the pair in place, from where its parameters, or a checkpoint, are."""
        require_score(self.patience, task)
        return run(task, self.plan(task.pair, task.x, task.seed))

    def plan(self, pair: Pair, x: Any, seed: int) -> Plan:
        """The options as a run of this pair on these items takes them."""
        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(SVI)}
        choice = self.optimizer_choice()
        choice.groups({name: p for name, p in as_module(pair).named_parameters() if p.requires_grad})
        options |= {"optimizer": choice, "learning_rate": choice.learning_rate}
        if self.batch_size == "all":
            options["batch_size"] = len(x)
        if self.num_particles is None:
            options["num_particles"] = 5 if self.objective == "iwae" else 1
        if self.precision == "bf16" and (dtype := dtype_and_device(pair)[0]) != torch.float32:
            raise ValueError(
                f"precision='bf16' is for a pair in float32, and this one is in {dtype}: take pair.float()"
            )
        if self.objective == "iwae" and not pair.is_normalized:
            raise ValueError(
                f"objective='iwae' needs a p(x), and {type(pair).__name__} has none; take objective='elbo'"
            )
        return Plan(**options, seed=seed)


def _checked_batch_size(size: Any) -> int | Literal["all"]:
    if isinstance(size, str) and size == "all":
        return "all"
    if size is None or isinstance(size, str):
        raise ValueError(f'batch_size must be an integer of at least 1, or "all", got {size!r}')
    return checks.whole("batch_size", size)


ADAM = OptimizerChoice.of("adam", SVI.learning_rate)


@dataclass(frozen=True)
class Plan(SVI):
    """The options of one run: those that depend on the pair and the items are filled in."""

    batch_size: int = 256
    num_particles: int = 1
    optimizer: OptimizerChoice = ADAM
    seed: int = 0

    def in_words(self) -> dict[str, Any]:
        """The options by name, with objects in words, as histories and checkpoints have them."""
        return options_in_words(self)

    def weight(self, step: int, steps_per_epoch: int) -> float:
        """beta at a step: on a straight line from 0 that reaches the asked value with the warm-up's last step."""
        ramp = self.warmup * steps_per_epoch
        return self.beta if step + 1 >= ramp else self.beta * (step + 1) / ramp


register_methods(object, SVI())
