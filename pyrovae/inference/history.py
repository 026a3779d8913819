"""`History`: the record of a fit, epoch by epoch, and its configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pyrovae import checks
from pyrovae.labelled import labelled
from pyrovae.summary import HasSummary, Rows

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["History", "curves", "joined"]


@dataclass(frozen=True, eq=False, repr=False)  # a Dataset has no one truth value
class History(HasSummary):
    """The record of a fit: `epochs`, an xarray.Dataset over "epoch", and `config`, its options and environment.

    Variables: `loss`, nats per item, the objective's own (at that epoch's beta); `validation_elbo`, nats per item,
    at beta = 1 (for an autoencoder E log p(x | z), which bounds nothing); `beta`; `learning_rate`; `seconds`, that
    epoch's batches and steps alone, where the property `seconds` is of the whole call. An epoch of EM or L-BFGS is an
    iteration, `loss` in EM is -log p(x) after it, and `validation_elbo` is log p(x) itself. A classifier has
    `validation_log_loss` in its place, -log p(y | x); where its densities were fitted one by one, all variables are
    over "label" too.
    """

    epochs: xr.Dataset
    config: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checks.having("epochs", self.epochs, "data_vars", "dims", what="a dataset of curves over epochs")

    @classmethod
    def from_rows(cls, rows: list[dict[str, float]], config: dict[str, Any]) -> History:
        """A history of one row of numbers per epoch, each with "loss" in nats per item.

        >>> from pyrovae import History
        >>> float(History.from_rows([{"loss": 3.0}, {"loss": 2.0}], {"method": "mine"}).epochs.loss[-1])
        2.0
        """
        return cls(curves(rows), config)

    def __str__(self) -> str:
        if "label" in self.epochs.dims:
            curves_of_classes = [curve.dropna("epoch") for curve in self.epochs.loss]
            last = [float(curve[-1]) for curve in curves_of_classes if len(curve)]
            text = f"{len(curves_of_classes)} classes one by one"
            if not last:
                return f"{text}, none of them fitted"
            return f"{text}, loss {min(last):.3f} to {max(last):.3f} nats per item{self._time()}"
        count = self.epochs.sizes["epoch"]
        if not count:
            return "0 epochs" + (f" ({self.config['stopped']})" if self.config.get("stopped") else "")
        kept = self.config.get("weights_epoch", count - 1)
        unit = {"em": "iterations of EM", "lbfgs": "iterations of L-BFGS", "closed form": "step in closed form"}.get(
            self.config.get("method", ""), "epochs"
        )
        if count == 1:
            unit = unit.replace("epochs", "epoch").replace("iterations", "iteration")
        text = f"{count} {unit}, loss {float(self.epochs.loss[kept]):.3f} nats per item"
        if "validation_elbo" in self.epochs:
            text += f", validation {self.validated} {float(self.epochs.validation_elbo[kept]):.3f}"
        if "validation_log_loss" in self.epochs:
            text += f", validation log-loss {float(self.epochs.validation_log_loss[kept]):.3f}"
        text += self._time()
        if self.config.get("active_units") is not None:
            text += f", {self.config['active_units']} of {self.config['latent_dim']} units active"
        return text + (f" ({self.config['stopped']})" if self.config.get("stopped") else "")

    @property
    def seconds(self) -> float | None:
        """Seconds that the call of `fit` took: all its starts, compilation and validation, and not the steps alone.

        Those of the steps that a resumed run had done before are added. None where no call was timed.

        >>> from pyrovae import History
        >>> History.from_rows([{"loss": 2.0, "seconds": 1.0}], {"seconds": 4.0}).seconds
        4.0
        """
        waited = self.config.get("seconds")
        before = self.config.get("resumed_after")
        if waited is None or before is None or "seconds" not in self.epochs:
            return waited
        return float(waited) + float(self.epochs.seconds[: before + 1].sum())

    def _time(self) -> str:
        """The time of the call, as the end of a line; where no call was timed, that of its steps."""
        if self.seconds is not None:
            return f", {self.seconds:.1f} s"
        return f", {float(self.epochs.seconds.sum()):.1f} s of steps" if "seconds" in self.epochs else ""

    @property
    def validated(self) -> str:
        """What the variable "validation_elbo" is: the ELBO, or "log p(x)" of a mixture, "E log p(x | z)" of an AE.

        >>> from pyrovae import History
        >>> History.from_rows([{"loss": 2.0}], {"method": "em"}).validated
        'log p(x)'
        """
        if self.config.get("classes"):  # each fitted by itself
            names = {History(self.epochs, config).validated for config in self.config["classes"].values()}
            return names.pop() if len(names) == 1 else "ELBO or log p(x)"
        if self.config.get("is_normalized", True):
            return "log p(x)" if self.config.get("method") == "em" else "ELBO"
        return "E log p(x | z)"  # which bounds nothing

    def _summary_rows(self) -> Rows:
        if "label" in self.epochs.dims:
            return {"fit": lambda: str(self)}
        kept = self.config.get("weights_epoch")

        def course(name: str) -> str:
            curve = self.epochs[name].values
            end = len(curve) - 1 if kept is None else kept
            return f"{curve[0]:.3f} to {curve[end]:.3f} nats per item"

        return {
            "method": lambda: self.config.get("method"),
            "epochs": lambda: self.epochs.sizes["epoch"],
            "loss": lambda: course("loss"),
            f"validation {self.validated}": lambda: course("validation_elbo"),
            "validation log-loss": lambda: course("validation_log_loss"),
            "weights kept": lambda: None if kept is None else f"of epoch {kept + 1}",
            "units active": lambda: f"{self.config['active_units']} of {self.config['latent_dim']}",
            "time": lambda: f"{self._time().removeprefix(', ')} on {self.config['device']}" if self._time() else None,
            "seed": lambda: self.config.get("seed"),
            "stopped": lambda: self.config.get("stopped"),
        }

    def levelled_off(self, *, within: float = 0.2) -> tuple[bool, float]:
        """Whether the last fifth's best validation ELBO is less than `within` nats above that of the fifth before.

        Also returned: that rise, in nats per item per epoch. Raises ValueError without validation or under 10 epochs.

        >>> import xarray as xr
        >>> from pyrovae import History
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
        within = checks.number("within", within)
        rise = float(curve[-fifth:].max() - curve[-2 * fifth : -fifth].max())
        return rise < within, rise / fifth


_UNITS = {
    "loss": ("negative objective at the epoch's beta", "nats per item"),
    "validation_elbo": ("validation ELBO at beta = 1", "nats per item"),
    "validation_log_loss": ("-log p(y | x) of the validation items", "nats per item"),
    "labeled_loss": ("L(x, y) of the items with a label", "nats per item"),
    "unlabeled_loss": ("U(x) of the items without a label", "nats per item"),
    "cross_entropy": ("-log q(y | x) of the items with a label", "nats per item"),
    "beta": ("weight of the KL term after the epoch", "1"),
    "learning_rate": ("learning rate of the epoch's last step", "1"),
    "seconds": ("time of the epoch's batches and steps", "s"),
}


def curves(rows: list[dict[str, float]]) -> xr.Dataset:
    names = list(rows[0]) if rows else ["loss"]
    columns = {name: ([row[name] for row in rows], *_UNITS.get(name, (name, "")), "epoch") for name in names}
    return labelled(columns, {"epoch": range(len(rows))})


def joined(histories: dict[Any, History]) -> History:
    """The fits of several classes as one history, over "label"; after the end of a shorter one it is NaN."""
    import xarray as xr

    names = xr.Variable("label", list(histories))
    parts = [history.epochs for history in histories.values()]
    config = {"method": "each class alone", "classes": {name: history.config for name, history in histories.items()}}
    return History(xr.concat(parts, names, join="outer", combine_attrs="drop_conflicts"), config)
