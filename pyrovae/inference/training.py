"""`fit`, which finds the parameters of a pair by any method."""

from __future__ import annotations

import inspect
import os
import time
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pyrovae import checks
from pyrovae.data.indexed import as_rows, labels_of
from pyrovae.inference import bayesian, bayesian_vae, discriminative, em, linear_em, per_class, semi_supervised  # noqa: F401  # which state the methods of their pairs
from pyrovae.inference.history import History
from pyrovae.inference.interrupted import holding_signals
from pyrovae.inference.method import Method, Task, chosen, every_method, is_same_value, options_of
from pyrovae.inference.snapshots import Snapshots
from pyrovae.models.items import checked_beside, require_columns, warn_of_codes
from pyrovae.models.pair import Pair, as_module, covariate_dim_of, is_frozen, takes_labels

__all__ = ["fit"]


@checks.allocating
@holding_signals
def fit(
    pair: Pair,
    x: Any,
    y: Any = None,
    *,
    method: str | Method | None = None,
    validation: Any = None,
    unlabeled: Any = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    checkpoint_every: int | None = None,
    device: str | torch.device = "auto",
    progress: bool = True,
    seed: int = 0,
    covariates: Any = None,
    exposure: Any = None,
    weight: Any = None,
    missing: Any = None,
    **options: Any,
) -> History:
    """Fit a pair in place to the items of `x`; a second fit goes on from where it is.

    `options` are those of the method, by name: `fit(pair, x, epochs=50)`. The method can be given with its options as
    well, `fit(pair, x, method=pyrovae.methods.SVI(epochs=50))`. None stands for an option that is left out.

    Args:
        pair: any model/guide pair; its parameters are changed in place, its device and dtype are as they were.
        x: shape (N, *event_shape), an array, a tensor, a data frame, a memory-mapped view or a split of a data set;
            cast to the pair's dtype, and refused where that does not hold it, as float32 seconds since 1970.
        y: labels, integers or names, (N,), of a classifier, which takes a split's own; refused by a pair that has no
            use for them.
        validation: items of the same shape, (items, labels), or a split: their ELBO, at beta = 1, is noted each epoch,
            or a classifier's log-loss.
        method: "svi", "em", "lbfgs", "nuts", "closed_form" or "semi_supervised_svi", or an object of
            `pyrovae.methods`, as `EM(tol=1e-4)`; None for the pair's default.
        checkpoint: a folder in which SVI, semi-supervised too, leaves the last two states, within an epoch too, each a
            saved state that is whole: a run that was killed goes on from the last of them with `resume=True`, bit for
            bit, with the same items and arguments, `epochs` the total. One is written when it and those before take
            under 1 % of the run's time, after five minutes at the latest, and at the end. It starts afresh where there
            is none; a folder with a run is refused without `resume`. Nothing is unpickled. Items are compared whole,
            but for a memory map of over 256 MiB, of which 65,536 rows at most, 256 MiB at most, spread evenly over it.
            Another number of threads, torch, processor or device rounds otherwise: a warning names it, and the run goes
            on.
        checkpoint_every: a number of batches, counted over all epochs, after each of which a state is written too.
        unlabeled: more items of a generative classifier with Gaussian densities, or of a `SemiSupervisedVAE`, whose
            labels are not known.
        device: "auto" is a CUDA device where there is one; the pair comes back to its own device.
        progress: a bar in a terminal or a notebook, and none in a log file.
        seed: fixes the order of the batches and all noise; the caller's generators, Pyro's parameter store and
            settings are left as they were.
        options: those of the method, below.

    Items may be given something beside: `covariates`, (N, covariate_dim), of a pair p(x | c), and `exposure`, (N,), by
    which the means of counts are multiplied. `weight`, (N,), says how many times each item counts: a weight of 3 is
    three copies of the item, 0 its absence, and the loss is a mean over the sum of the weights. `missing` True says
    that NaN is an entry that was not seen, there and in `validation`; a mask of the shape of `x`, True where one is
    missing, says which they are. What is maximised is then the likelihood of the seen entries, or its bound, which is
    right where entries are missing at random: whether one is missing depends on no value that was not seen. A
    `data.Split` carries all of these, and the keywords stand for those of `x`; each batch takes the rows of its items.
    Validation that needs covariates, an exposure or weights is a `Split`.

    SVI (any pair, and the default where nothing else is said; `pyrovae.methods.SVI`) minimises the negative ELBO,
    E_q[log q(z | x) - log p(z)] beta - E_q[log p(x | z)], in nats per item, by Adam or another optimizer of torch's or
    Pyro's. Its options are epochs, batch_size, learning_rate, optimizer, clip_norm, schedule, callbacks, objective,
    num_particles, binarize, beta, warmup, free_bits, patience, compile and precision. For a `BayesianGaussianMixture`
    it fits the guide of the parameters to all items at once, in 1,500 steps from 0.02 down a cosine unless epochs or
    learning_rate say otherwise, from where EM ends.

    EM (a `GaussianMixture` or a `ColumnMixture`; `pyrovae.methods.EM`) climbs the likelihood from k-means++ starts on
    standardised columns, and from the present parameters where a fit or a hand has set them, each until an iteration
    gains no more than `tol` nats per item; the best is kept. Its options are tol, max_iterations and num_restarts. Of a
    linear pair, as `linear_vae` builds, `method="em"` finds the maximum of the likelihood, and sets the guide to the
    exact posterior (`pyrovae.methods.LinearEM`); its options are tol and max_iterations.

    L-BFGS (a `DiscriminativeClassifier`, the default where it is softmax regression; `pyrovae.methods.LBFGS`) finds the
    mode of the weights' posterior on all items. Its options are tol, of the gradient, and max_iterations.

    NUTS (a `BayesianGaussianMixture`; `pyrovae.methods.NUTS`) draws the parameters from where EM ends. Its options are
    num_chains, num_draws and num_warmup.

    The closed form (a `GenerativeClassifier` of normal densities; `pyrovae.methods.ClosedForm`) takes each class's
    moments; unlabelled items then enter through p(x), by EM, with options tol and max_iterations. Other densities of a
    `GenerativeClassifier` are fitted to the items of their class, each by its own method and with that one's options.

    Semi-supervised SVI (a `SemiSupervisedVAE`; `pyrovae.methods.SemiSupervisedSVI`) sums out the labels of unlabelled
    items. Its options are epochs, batch_size, labeled_batch_size, learning_rate, alpha, warmup, weight_decay, schedule,
    callbacks, binarize, patience and compile.

    Raises ValueError or TypeError for what does not fit, before anything is changed, and FloatingPointError when the
    loss, a gradient or a weight is not finite, which is seen within about ten seconds and at the end of the epoch, with
    the weights of the last finite loss in place, or the validation ELBO is not. The parameters' `.grad` is cleared.
    Warns of a collapsed posterior (`PosteriorCollapseWarning`), of a run that ends before its warm-up does, of an EM
    that has not converged, and of variances that the floor holds up (`VarianceFloorWarning`), naming the columns, and
    with entries missing of covariances that go on towards singular ones (`SingularDriftWarning`). Inside
    `pyrovae.distributed()` processes share each batch.

    Ctrl-C and SIGTERM wait until the batch at hand has ended, of EM an iteration. A state is then written, where there
    is a `checkpoint`, and the pair has the weights of that batch, or of the best start of EM so far. What is raised,
    KeyboardInterrupt or, where the program has no handler of SIGTERM, `SystemExit(143)`, has the `History` so far as
    its `.history`; a handler of the program's own is called there instead, and the fit goes on where it returns. NUTS
    and L-BFGS leave the pair as it was. A second Ctrl-C leaves at once, within a step. Handlers are set in the main
    thread alone and given back at the end (`pyrovae.interruption.held`).

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
    began = time.perf_counter()
    as_module(pair)
    if is_frozen(pair):
        raise ValueError(
            f"pair is frozen, and fit trains nothing of it: fit the {type(pair).__name__} that it was made from, and "
            "call frozen() on that"
        )
    way = chosen(pair, method, options)
    given, data = _gathered(x, covariates=covariates, exposure=exposure, weight=weight, missing=missing), x
    x, of_split = given.x, given.y
    _require_taken(pair, way, given, "x")
    if missing is True and validation is not None:
        validation = _also_missing(validation)
    if not isinstance(validation, tuple | list):  # a pair of items and labels, or rows
        _require_taken(pair, way, _gathered(validation, name="validation"), "validation")
    more = _gathered(unlabeled, name="unlabeled")
    _require_taken(pair, way, more, "unlabeled")
    x, validation = _without_gradients(x), _without_gradients(validation)
    unlabeled = _without_gradients(unlabeled if more.carried else more.x)
    if not isinstance(resume, bool):
        raise TypeError(f"resume must be True or False, got {resume!r}")
    asked = {"checkpoint": checkpoint is not None, "resume": resume, "checkpoint_every": checkpoint_every is not None}
    if any(asked.values()) and not way.keeps_checkpoints:
        way.refuse_checkpoint(next(name for name, is_given in asked.items() if is_given))
    if resume and checkpoint is None:
        raise ValueError("resume=True goes on from a run's checkpoint: name its folder")
    every = None if checkpoint_every is None else checks.whole("checkpoint_every", checkpoint_every)
    if every is not None and checkpoint is None:
        raise ValueError(f"checkpoint_every={every} is a number of batches between two checkpoints: name their folder")
    seed, target = checks.seed(seed), checks.device(device)
    if unlabeled is not None and not way.takes_unlabeled:
        raise ValueError(
            "unlabeled items are for a GenerativeClassifier or a SemiSupervisedVAE, and this is a "
            f"{type(pair).__name__}"
        )
    learns = takes_labels(pair)
    if of_split is not None and learns:
        if y is not None:
            raise ValueError("x is a split with labels of its own: leave y out, or give x.x and y")
        y = of_split
    if y is None and learns:
        y = labels_of(data)
    if y is not None and not learns:
        checks.labels(y, len(x))
        raise ValueError(f"{type(pair).__name__} takes no labels: leave y out")
    held_out = validation if learns else _items_of(validation)
    snapshots = None if checkpoint is None else Snapshots(checkpoint, resume, every)
    if given.carried:
        x = checks.Gathered(x, None, **given.carried, columns=given.columns)
    warn_of_codes(pair, given.columns)
    task = Task(pair, x, y, held_out, unlabeled, target, progress, seed, snapshots)
    with torch.inference_mode(False), torch.enable_grad():  # whatever the caller has switched off
        history = way.run(task)
    if not isinstance(history, History):
        raise TypeError(f"{type(way).__name__}.run must return a History, as History.from_rows makes, got {history!r}")
    return replace(history, config={**history.config, "seconds": time.perf_counter() - began})


def _signature() -> inspect.Signature:
    """The arguments of `fit` with the options of every method in place of `**options`."""
    own = list(inspect.signature(fit).parameters.values())[:-1]
    taken = {parameter.name for parameter in own}  # an option of such a name is given by the method alone
    defaults: dict[str, Any] = {}
    for method in every_method():
        if not method.is_shown:
            continue
        for name, value in options_of(method).items():
            if name not in taken:
                agree = is_same_value(defaults.setdefault(name, value), value)
                defaults[name] = value if agree else None
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=value) for name, value in defaults.items()
    ]
    return inspect.Signature([*own, *options], return_annotation="History")


fit.__signature__ = _signature()  # type: ignore[attr-defined]  # for help() and completion


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
    given = _gathered(validation, name="validation")
    return checks.Gathered(given.x, None, **given.carried) if given.carried else given.x


def _gathered(x: Any, **given: Any) -> checks.Gathered:
    """The items with all that lies beside them; whether the method takes it is looked at next."""
    found = checks.split_of(x, takes=("weight", "missing"), **given)
    return replace(found, x=as_rows(found.x, given.get("name", "x")))


def _also_missing(validation: Any) -> Any:
    """Validation items, NaN in which is an entry that was not seen as it is in x, unless they say so themselves."""
    if isinstance(validation, tuple | list):
        return validation
    given = _gathered(validation, name="validation")
    return validation if given.missing is not None else replace(given, missing=True)


def _require_taken(pair: Pair, way: Method, given: checks.Gathered, name: str) -> None:
    """Refuse what lies beside the items for a pair that takes nothing of it, or by a method that reads none."""
    require_columns(pair, given.columns, name)
    if given.x is not None and (given.beside or covariate_dim_of(pair)):
        present = checks.without_absent(replace(given, x=range(len(given)), missing=None), name)
        checked_beside(pair, present.covariates, present.exposure, len(given), name=name)
    if given.beside and not way.takes_beside:
        raise ValueError(f"{way.title} takes no {' and no '.join(given.beside)}: leave them out, or take method='svi'")
    of = "" if name == "x" else f" of {name}"
    if given.weight is not None:
        checks.weights(given.weight, len(given), name=name)
        if not way.takes_weight:
            raise ValueError(f"weight{of} came, and {way.title} weighs no items: repeat an item as often as it counts")
    if given.missing is not None and not way.takes_missing:
        raise ValueError(f"{name} comes with missing entries, and {way.title} takes whole items: fill or drop them")


def _without_gradients(x: Any) -> Any:
    """`x` detached from any graph: a fit is no differentiable function of its items."""
    if isinstance(x, Tensor):
        return x.detach()
    if isinstance(x, list | tuple) and any(isinstance(one, Tensor) for one in x):
        return type(x)(_without_gradients(one) for one in x)
    items, labels = checks.parts_of(x)
    given = _gathered(x)
    if given.carried:
        return checks.Gathered(_without_gradients(items), labels, **given.carried)
    if labels is not None:
        return _without_gradients(items), labels
    return x if items is x else _without_gradients(items)
