"""What may watch a fit by SVI, and stop it: a protocol of three calls, a progress bar, a CSV file, TensorBoard."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from time import monotonic
from typing import Any

from pyrovae import checks

__all__ = ["CSVLog", "Callback", "ProgressBar", "Run", "TensorBoard", "checked_callbacks", "is_stateful", "saved_state"]

SCORES = ("loss", "validation_elbo", "validation_log_loss")  # which the bar shows
FIRST, BETWEEN = 2.0, 0.5  # s of an epoch before the bar shows its batch, and between two such


@dataclass
class Run:
    """A fit as its callbacks see it.

    Attributes:
        pair: the pair that is fitted, on the device of the fit, its present weights in place.
        epochs: the total that was asked for.
        config: the options by name, as `History.config` has them.
        rows: the epochs so far, those before a resume too: "loss", its weight or its terms as the method has them,
            "learning_rate", "seconds" and what the validation gave, in the units of `History.epochs`.
        is_first: whether this process speaks for all; the others of `pyrovae.distributed()` write nothing.
        resume: whether `resume=True` was asked for, so that what an earlier process wrote is this run's own.
        stopped: why a callback has stopped the run; None where none has.
        label: the class whose density is fitted, where a classifier's are fitted one by one, each a run with a begin
            and an end of its own; else None.
        labels: all classes of that classifier, in the order in which their densities are fitted; else empty.
    """

    pair: Any
    epochs: int
    config: Mapping[str, Any]
    is_first: bool = True
    resume: bool = False
    rows: list[dict[str, float]] = field(default_factory=list)
    stopped: str | None = None
    label: Any = None
    labels: tuple[Any, ...] = ()

    def stop(self, why: str) -> None:
        """End the run after this epoch, or in `begin` before the next; `History.config["stopped"]` says why."""
        self.stopped = str(why)


class Callback:
    """Three calls of a fit by SVI, `fit(..., callbacks=[mine])`: a subclass has those that it needs.

    They are called between the steps, in the order in which the callbacks are given, and under several processes in
    each of them. What `begin` and `epoch` raise ends the fit; what `end` raises is a warning, since the fit is done, or
    a note on the error that broke the run. A callback that needs more than `run.rows` to go on with a run has
    `state_dict()` too, which gives a dictionary of what JSON holds (numbers, words, lists; a tensor as `.tolist()`),
    and `load_state_dict(state)`: its state is in each checkpoint, and is given back before `begin`. Under several
    processes it is the first one's.

    >>> import pyrovae
    >>> from pyrovae.callbacks import Callback
    >>> class Below(Callback):
    ...     def __init__(self, loss):
    ...         self.loss = loss
    ...     def epoch(self, run, row):
    ...         if row["loss"] < self.loss:
    ...             run.stop(f"the loss is below {self.loss}")
    >>> x = pyrovae.data.load("digits").train.x
    >>> vae = pyrovae.mlp_vae((1, 8, 8), hidden_dims=(16,))
    >>> history = pyrovae.fit(vae, x, epochs=50, binarize=True, callbacks=[Below(42.0)], progress=False)
    >>> history.epochs.sizes["epoch"] < 50, history.config["stopped"]
    (True, 'the loss is below 42.0')
    """

    def begin(self, run: Run) -> None:
        """Before the first epoch, or before the next one of a run that goes on."""

    def epoch(self, run: Run, row: dict[str, float]) -> None:
        """After each epoch, the last of `run.rows`, and before its checkpoint is written."""

    def end(self, run: Run) -> None:
        """After the last epoch, the best weights in place; also where the run broke off by an error."""


class ProgressBar(Callback):
    """A bar with the loss and the validation's score, in a terminal or a notebook: what `progress=True` shows.

    Within an epoch that takes long it shows the batch, and until the first one is done how long all of them will take.
    """

    _bar: Any = None

    def begin(self, run: Run) -> None:
        from pyrovae.progress import progress_bar

        words = None if run.label is None else f"class {run.label!r}"
        self._bar = progress_bar(show=run.is_first, desc=words, initial=len(run.rows), total=run.epochs, unit="epoch")
        self._scores, self._left = list[str](), run.epochs - len(run.rows)
        self._began = self._shown = monotonic()

    def batch(self, done: int, of: int) -> None:
        """Within an epoch, after `done` of its batches."""
        if self._bar is None:
            return
        now = monotonic()
        if now - self._shown < (FIRST if self._shown == self._began else BETWEEN) or done >= of:
            return
        self._shown = now
        words = [*self._scores, f"batch {done:,} of {of:,}"]
        if not self._scores:  # tqdm knows no speed yet
            words.append(f"about {self._bar.format_interval((now - self._began) * (self._left * of / done - 1))} left")
        self._bar.set_postfix_str(", ".join(words))

    def epoch(self, run: Run, row: dict[str, float]) -> None:
        self._scores = [f"{name}={row[name]:.2f}" for name in SCORES if name in row]
        self._bar.set_postfix_str(", ".join(self._scores), refresh=False)
        self._bar.update()
        self._began = self._shown = monotonic()

    def end(self, run: Run) -> None:
        self._bar.close()


class CSVLog(Callback):
    """A CSV file with a line for each epoch: "epoch" and what `History.epochs` has, every digit of it.

    A file that is there is refused, unless the run is resumed: then it holds the run's epochs and no others. Where the
    densities of a classifier are fitted one by one, a first column, "class", says whose epoch it is, and a class that
    has no validation items has an empty place there. Raises FileExistsError, and OSError where it cannot be written.

    >>> import tempfile
    >>> from pathlib import Path
    >>> import pyrovae
    >>> from pyrovae.callbacks import CSVLog
    >>> folder = tempfile.TemporaryDirectory()
    >>> file = Path(folder.name, "run.csv")
    >>> x = pyrovae.data.load("digits").train.x
    >>> vae = pyrovae.mlp_vae((1, 8, 8), hidden_dims=(16,))
    >>> history = pyrovae.fit(vae, x, epochs=2, binarize=True, callbacks=[CSVLog(file)], progress=False)
    >>> file.read_text().splitlines()[0]
    'epoch,loss,beta,learning_rate,seconds'
    >>> folder.cleanup()
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path: Path = checks.path("path", path)
        self._labels: tuple[Any, ...] = ()  # the classes of the classifier that is written
        self._begun: list[Any] = []  # those of them that the file has
        self._lines: list[dict[str, str]] = []

    def begin(self, run: Run) -> None:
        if not run.is_first:
            return
        if self._begun and run.labels == self._labels and run.label not in self._begun:
            self._begun.append(run.label)  # the next class of the same fit
            return
        if self.path.exists() and not run.resume:
            raise FileExistsError(f"{self.path} is there already: name another file for CSVLog, or remove it")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._labels, self._begun = run.labels, [] if run.label is None else [run.label]
        self._lines = [_line(run, number, row) for number, row in enumerate(run.rows)]
        self._write_all()

    def epoch(self, run: Run, row: dict[str, float]) -> None:
        if not run.is_first:
            return
        line = _line(run, len(run.rows) - 1, row)
        columns = self._columns()
        self._lines.append(line)
        if columns and line.keys() <= set(columns):
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, columns).writerow(line)
        else:
            self._write_all()

    def _columns(self) -> list[str]:
        return list(dict.fromkeys(name for line in self._lines for name in line))

    def _write_all(self) -> None:
        columns = self._columns()
        with self.path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            if columns:
                writer.writeheader()
            writer.writerows(self._lines)


def _line(run: Run, number: int, row: Mapping[str, float]) -> dict[str, str]:
    """An epoch as CSV has it, every digit of it."""
    whose = {} if run.label is None else {"class": str(run.label)}
    return {**whose, "epoch": str(number)} | {name: repr(value) for name, value in row.items()}


class TensorBoard(Callback):
    """Curves for TensorBoard: each number of an epoch by its name, against the epoch.

    Where the densities of a classifier are fitted one by one, its class is in the name: "loss/class 3".
    Raises ImportError where the package is not installed: `pip install 'pyrovae[tensorboard]'`.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder: Path = checks.path("folder", folder)
        if find_spec("tensorboard") is None:
            raise ImportError("TensorBoard needs the package tensorboard: pip install 'pyrovae[tensorboard]'")

    def begin(self, run: Run) -> None:
        self._writer: Any = None
        if run.is_first:
            from torch.utils.tensorboard import SummaryWriter

            # what a process that was killed wrote of later epochs is not this run's
            self._writer = SummaryWriter(str(self.folder), purge_step=len(run.rows) if run.rows else None)

    def epoch(self, run: Run, row: dict[str, float]) -> None:
        if self._writer is not None:
            whose = "" if run.label is None else f"/class {run.label}"
            for name, value in row.items():
                self._writer.add_scalar(f"{name}{whose}", value, len(run.rows) - 1)
            self._writer.flush()

    def end(self, run: Run) -> None:
        if self._writer is not None:
            self._writer.close()


def checked_callbacks(callbacks: Any) -> tuple[Any, ...]:
    """The callbacks as a tuple, each with the three calls, and both of a state's or neither."""
    if isinstance(callbacks, str) or not isinstance(callbacks, list | tuple):
        raise TypeError(f"callbacks must be a list of callbacks, got {callbacks!r}: give [callback]")
    for callback in callbacks:
        if isinstance(callback, type):
            raise TypeError(f"a callback is an object: give {callback.__name__}(...), not the class")
        lacking = [name for name in ("begin", "epoch", "end") if not callable(getattr(callback, name, None))]
        if lacking:
            raise TypeError(
                f"{type(callback).__name__} has no {' and no '.join(lacking)}: a callback is a "
                "pyrovae.callbacks.Callback, or has begin(run), epoch(run, row) and end(run)"
            )
        is_stateful(callback)
    return tuple(callbacks)


def is_stateful(callback: Any) -> bool:
    """Whether it has a state to be kept; TypeError where it could be saved and not loaded, or the other way."""
    has = [callable(getattr(callback, name, None)) for name in ("state_dict", "load_state_dict")]
    if any(has) and not all(has):
        raise TypeError(f"{type(callback).__name__} must have both state_dict() and load_state_dict(state), or neither")
    return all(has)


def saved_state(callback: Any) -> dict[str, Any]:
    """Its state, as JSON gives it back; TypeError where JSON does not hold it."""
    state = callback.state_dict()
    try:
        copied: dict[str, Any] = json.loads(json.dumps(state))
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{type(callback).__name__}.state_dict() must be a dictionary of what JSON holds ({error}): give numbers, "
            "words and lists, a tensor as .tolist()"
        ) from None
    if not isinstance(copied, dict):
        raise TypeError(f"{type(callback).__name__}.state_dict() must be a dictionary, got {state!r}")
    return copied
