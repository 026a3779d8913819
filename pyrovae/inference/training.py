"""`fit`: the one door to every way of finding a pair's parameters."""

from __future__ import annotations

import os
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from pyrovae import checks
from pyrovae.inference import bayesian, discriminative, em, generative, svi
from pyrovae.inference.history import History
from pyrovae.inference.plan import Plan
from pyrovae.inference.snapshots import Snapshots
from pyrovae.models.bayesian import BayesianGaussianMixture
from pyrovae.models.classifiers import DiscriminativeClassifier, GenerativeClassifier
from pyrovae.models.components import GaussianComponents
from pyrovae.models.mixture import GaussianMixture
from pyrovae.models.pair import Pair, as_module

__all__ = ["fit"]


@checks.allocating
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
    method: Literal["svi", "em", "lbfgs", "nuts"] | None = None,
    unlabeled: Any = None,
    tol: float | None = None,
    max_iterations: int | None = None,
    num_restarts: int | None = None,
    num_chains: int | None = None,
    num_draws: int | None = None,
    num_warmup: int | None = None,
    compile: bool | Literal["auto"] = "auto",
    precision: Literal["float32", "bf16"] = "float32",
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    device: str | torch.device = "auto",
    progress: bool = True,
    seed: int = 0,
) -> History:
    """Train a pair in place on the items of `x`, by SVI, EM or L-BFGS; a second fit goes on from where it is.

    The loss of SVI is the negative ELBO, E_q[log q(z | x) - log p(z)] beta - E_q[log p(x | z)], by Pyro's Trace_ELBO,
    or with `objective="iwae"` the negative importance-weighted bound of `num_particles` (Burda et al. 2016, eq. 8), in
    nats per item, minimised by Adam; a discrete site that is marked for enumeration is summed out.

    A `GaussianMixture` is fitted by EM where no method is named: from k-means++ starts on standardised columns, and
    from its present parameters where a fit or a hand has set them, each until an iteration gains no more than `tol`
    nats per item, and the best is kept. A
    `GenerativeClassifier` has the density of each class fitted to that class's items, by the method that fits the
    density and with the arguments of that one, or in closed form where they are normal; unlabelled items then enter
    through p(x), by EM. A `DiscriminativeClassifier` is brought to its posterior's mode, by L-BFGS on all items where
    it is softmax regression, whose mode is the only one, and else by SVI. A `BayesianGaussianMixture` has its guide
    fitted by SVI on all items at once, 1,500 steps from 0.02 down a cosine where nothing else is asked, or its
    parameters drawn by NUTS, both from where EM ends.

    Args:
        pair: any model/guide pair; its parameters are changed in place, its device and dtype are as they were.
        x: shape (N, *event_shape), an array, a tensor, a data frame, a memory-mapped view or a split of a data set;
            cast to the pair's dtype, and refused where that does not hold it, as float32 seconds since 1970.
        y: labels, integers or names, (N,), of a classifier, which takes a split's own; refused by a pair that has no
            use for them.
        validation: items of the same shape, (items, labels), or a split: their ELBO, at beta = 1, is noted each epoch,
            or a classifier's log-loss.
        epochs, batch_size, learning_rate: 20, 256 and 1e-3 where None. No item is dropped from the last batch.
        schedule: "constant", or "cosine" from the learning rate to 0 over the whole run.
        num_particles: draws an item; 1 for the ELBO and 5 for the importance-weighted bound where None.
        binarize: draw binary items from grey ones, anew each epoch; the validation items once.
        beta: the weight of the KL term; raised from 0 linearly over the first `warmup` epochs.
        patience: stop after so many epochs without a better validation ELBO, and take the best weights back.
        method: "svi", "em" for a mixture, "lbfgs" for a discriminative classifier, "nuts" for a Bayesian mixture; None
            for the better one.
        tol, max_iterations, num_restarts: EM's; 1e-6 nats an item, 1,000 and 10 where None; the first two L-BFGS's too,
            `tol` there of the gradient, 1e-7. Neither takes any of SVI's.
        num_chains, num_draws, num_warmup: NUTS's; 4 chains of 1,000 draws after 500 where None. From 2,000 transitions
            on, warm-up and all chains counted, its potential is compiled, where there is a C++ compiler.
        compile: take each step of SVI, from loss to update, as one compiled graph: rounding differs, and nothing
            else. "auto" does where steps and shapes say that it saves more than half a minute, by a rule of constants
            in `pyrovae.graph.pays`, and runs eagerly, with a line in the log, without a C++ compiler or for a pair that
            cannot be one graph; True raises CompilerError or CaptureError then, with everything as it was. An epoch's
            smaller last batch runs its graph uncompiled. `History.config` has the choice.
        precision: "bf16" lets networks, the outermost parts that turn tensors into a tensor, compute in bfloat16 while
            they train; parameters, densities and validation stay in float32.
        checkpoint: a folder in which SVI leaves each epoch's state, the last two, each a saved state that is whole: a
            run that was killed goes on from the last of them with `resume=True`, bit for bit, with the same items and
            arguments, `epochs` the total. It starts afresh where there is none; a folder with a run is refused without
            `resume`. Nothing is unpickled. Items are compared whole, but for a memory map of over 256 MiB, of which
            65,536 rows at most, 256 MiB at most, spread evenly over it. Another number of threads, torch, processor or
            device rounds otherwise: a warning names it, and the run goes on.
        unlabeled: more items of a generative classifier with Gaussian densities, whose labels are not known.
        device: "auto" is a CUDA device where there is one; the pair comes back to its own device.
        progress: a bar where the output is a terminal.
        seed: fixes the order of the batches and all noise; the caller's generators, Pyro's parameter store and
            settings are left as they were.

    Raises ValueError or TypeError for what does not fit, before anything is changed, and FloatingPointError when the
    loss, a gradient or a weight is not finite, at the end of that epoch, with the weights of the last finite loss in
    place, or the validation ELBO is not. The parameters' `.grad` is cleared. Warns of a collapsed posterior
    (`PosteriorCollapseWarning`), of a run that ends before its warm-up does, of an EM that has not converged, and of
    variances that the floor holds up (`VarianceFloorWarning`), naming the columns. Inside
    `pyrovae.distributed()` processes share each batch.

    Pyro's handlers that the call stands inside of, as a `poutine.scale`, do not reach into it; a Messenger of your own
    class sees the sites of each step.

    Fits, estimators and draws may run in several threads, and each gives what it gives alone: they take turns, a step
    or a batch each, and none is faster for it. A model must not wait for another thread that calls this package. What
    other threads do meanwhile by plain torch or Pyro is not kept out of a turn, for the process has one generator and
    one stack of handlers: seed, and build networks by hand, before the threads start, and leave `pyro.infer.SVI` to one
    thread that no fit or estimator runs beside.

    >>> import pyrovae
    >>> vae = pyrovae.mlp_vae((1, 8, 8), hidden_dims=(16,))
    >>> x = pyrovae.data.load("digits").train.x
    >>> history = pyrovae.fit(vae, x, epochs=2, binarize=True, progress=False)
    >>> history.epochs.sizes["epoch"]
    2
    """
    module: Any = as_module(pair)
    chosen = _method(pair, method)
    x, of_split = checks.parts_of(x)
    x, validation, unlabeled = map(_without_gradients, (x, validation, checks.parts_of(unlabeled, "unlabeled")[0]))
    svis: dict[str, Any] = {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "schedule": schedule,
        "objective": objective,
        "num_particles": num_particles,
        "binarize": binarize,
        "beta": beta,
        "warmup": warmup,
        "patience": patience,
        "compile": compile,
        "precision": precision,
    }
    ems: dict[str, Any] = {"tol": tol, "max_iterations": max_iterations, "num_restarts": num_restarts}
    nutss: dict[str, Any] = {"num_chains": num_chains, "num_draws": num_draws, "num_warmup": num_warmup}
    folder: dict[str, Any] = {"checkpoint": checkpoint, "resume": resume}
    _refuse_foreign(chosen, {"SVI": svis | folder, "EM": ems, "NUTS": nutss})
    if not isinstance(resume, bool):
        raise TypeError(f"resume must be True or False, got {resume!r}")
    if resume and checkpoint is None:
        raise ValueError("resume=True goes on from a run's checkpoint: name its folder")
    seed, target = checks.seed(seed), checks.device(device)
    if unlabeled is not None and not isinstance(pair, GenerativeClassifier):
        raise ValueError(f"unlabeled items are for a GenerativeClassifier, and this is a {type(pair).__name__}")
    learns = isinstance(pair, GenerativeClassifier | DiscriminativeClassifier)
    if of_split is not None and learns:
        if y is not None:
            raise ValueError("x is a split with labels of its own: leave y out, or give x.x and y")
        y = of_split
    if y is not None and not learns:
        checks.labels(y, len(x))
        raise ValueError(f"{type(pair).__name__} takes no labels: leave y out")
    held_out = validation if learns else _items_of(validation)
    if isinstance(pair, GenerativeClassifier) and isinstance(pair.densities, GaussianComponents):
        loop = {} if unlabeled is None else {"tol", "max_iterations"}
        given = [name for name, value in (svis | ems).items() if not _is_neutral(name, value) and name not in loop]
        if given:
            raise ValueError(f"{given[0]} has no use here: normal classes are fitted in closed form; leave it out")
    if patience is not None and validation is None:
        raise ValueError(
            "patience stops on the validation ELBO, or a classifier's log-loss: give validation=items, or leave "
            "patience out"
        )
    if isinstance(pair, GenerativeClassifier) and checkpoint is not None:
        raise ValueError("checkpoint is for one run, and the densities of classes are fitted one by one: leave it out")
    snapshots = None if checkpoint is None else Snapshots(checkpoint, resume)
    with torch.inference_mode(False), torch.enable_grad():  # whatever the caller has switched off
        if isinstance(pair, GenerativeClassifier):
            each: dict[str, Any] = {k: v for k, v in (svis | ems).items() if not _is_neutral(k, v)}
            fit_one = partial(fit, **each, device=target, progress=progress)
            em_plan = em.Plan.asked(**ems, seed=seed)
            return generative.fit(pair, x, y, unlabeled, held_out, em_plan, target, progress, fit_one)
        if chosen == "lbfgs":
            most = 1000 if max_iterations is None else checks.whole("max_iterations", max_iterations)
            small = 1e-7 if tol is None else checks.positive("tol", tol)
            return discriminative.fit(module, x, y, held_out, tol=small, max_iterations=most, device=target)
        if chosen == "em":
            return em.run(module, x, held_out, em.Plan.asked(**ems, seed=seed), target, progress)
        if isinstance(pair, BayesianGaussianMixture):
            return bayesian.fit(module, x, held_out, chosen, svis, nutss, seed, target, progress, snapshots)
        return svi.run(pair, x, y, held_out, Plan.asked(pair, **svis, seed=seed), target, progress, snapshots)


NEUTRAL = {
    "schedule": "constant",
    "objective": "elbo",
    "binarize": False,
    "beta": 1.0,
    "warmup": 0,
    "compile": "auto",
    "precision": "float32",
    "resume": False,
}


def _method(pair: Pair, method: str | None) -> str:
    """The method that was named, or the first of those that the pair has."""
    known: tuple[str, ...] = ("svi",)
    if isinstance(pair, GaussianMixture):
        known = ("em", "svi")
    elif isinstance(pair, BayesianGaussianMixture):
        known = ("svi", "nuts")
    elif isinstance(pair, DiscriminativeClassifier):
        known = ("lbfgs", "svi") if pair.is_linear else ("svi", "lbfgs")
    elif isinstance(pair, GenerativeClassifier):
        if method is not None:
            raise ValueError(
                "a GenerativeClassifier has each density fitted by that one's own method: leave method out"
            )
        return "each"
    of = {"em": "GaussianMixture", "lbfgs": "DiscriminativeClassifier", "nuts": "BayesianGaussianMixture"}
    if method in of and method not in known:
        raise ValueError(
            f"method={method!r} is for a {of[method]}, and this is a {type(pair).__name__}: take {known[0]!r}"
        )
    return known[0] if method is None else checks.choice("method", method, known)


def _is_neutral(name: str, value: Any) -> bool:
    return value is None or value == NEUTRAL.get(name)


TAKES = {"svi": {"SVI"}, "em": {"EM"}, "lbfgs": set(), "nuts": {"NUTS"}, "each": {"SVI", "EM"}}
NAMES = {"svi": "SVI", "em": "EM", "lbfgs": "L-BFGS", "nuts": "NUTS", "each": "each density's own method"}


def _refuse_foreign(method: str, arguments: dict[str, dict[str, Any]]) -> None:
    """An argument of another method would be ignored without a word."""
    for whose, group in arguments.items():
        for name, value in group.items():
            shared = method == "lbfgs" and name in ("tol", "max_iterations")
            if whose not in TAKES[method] and not shared and not _is_neutral(name, value):
                raise ValueError(f"{name} is an argument of {whose}, and this fit is by {NAMES[method]}: leave it out")


def _items_of(validation: Any) -> Any:
    """The items of a split, of (items, labels), or the items themselves."""
    if validation is None:
        return None
    if isinstance(validation, tuple):
        if len(validation) != 2:
            raise ValueError(f"validation must be items or (items, labels), got a tuple of {len(validation)}")
        items, labels = validation
        if labels is not None:
            checks.labels(labels, len(items), name="validation labels", of="validation")
        return items
    return checks.parts_of(validation, "validation")[0]


def _without_gradients(x: Any) -> Any:
    """`x`, apart from a graph that it may be part of: a fit is no function of its items."""
    if isinstance(x, Tensor):
        return x.detach()
    if isinstance(x, list | tuple) and any(isinstance(one, Tensor) for one in x):
        return type(x)(_without_gradients(one) for one in x)
    items, labels = checks.parts_of(x)
    return (_without_gradients(items), labels) if labels is not None else x if items is x else _without_gradients(items)
