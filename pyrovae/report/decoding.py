"""What the explorer shows at a code: means, medians or categories, and what a code is decoded with."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrovae.data import Split
from pyrovae.evaluation.code_space.codes import encoded
from pyrovae.models.means import mean_of
from pyrovae.models.pair import columns_of, dtype_and_device, entries_of
from pyrovae.models.parts.categorical import Categorical
from pyrovae.models.parts.discretized_logistic import DiscretizedLogistic
from pyrovae.models.parts.student_t import StudentT
from pyrovae.models.scopes import Workspace
from pyrovae.models.semi_supervised import SemiSupervisedVAE
from pyrovae.report.chosen import beside_of
from pyrovae.report.families import has_mean, num_categories
from pyrovae.report.network.packing import as_text
from pyrovae.seeding import Noise

__all__ = ["Decoding", "decoding_of", "first_covariates"]

Option = tuple[str, list[float]]
MOST_SUMMED = 2**16  # masses of levels that a page sums for one code
BELOW_ONE = 0.999  # by which a probability of 1 is not the next category
MOST_OPTIONS = 20  # values of what lies beside a code that a page lists


@dataclass(frozen=True)
class Decoding:
    """A function of codes and of what lies beside them, (N, latent_dim + B), with the codes of the items shown.

    `beside`, (N, B), is what the items' codes are decoded with: their covariates and their exposure, or their label as
    indicators; B is 0 where there is nothing. `options` are values of it that a reader can choose, each with its name.
    With `categories` C the function gives their probabilities, (N, *event_shape, C), of which the page shows the most
    probable; `words` say what is shown where it is no mean.
    """

    pair: Any
    codes: Tensor
    function: Callable[[Tensor], Tensor]
    beside: np.ndarray
    options: list[Option]
    categories: int = 0
    words: str = ""
    as_steps: Callable[[Tensor], Tensor] | None = None  # the same function in operations that a page has
    is_before: str = ""  # why the page does not run the function and shows codes that were decoded before

    @property
    def width(self) -> int:
        """The number of inputs, those beside the code among them."""
        return self.codes.shape[1] + self.beside.shape[1]

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """The function at rows (N, width), flat, in float64."""
        dtype, device = dtype_and_device(self.pair)
        with Workspace(self.pair, noise=Noise(0, device), checks=None).turn(), torch.no_grad():
            values = self.function(torch.as_tensor(rows).to(device, dtype))
        array: np.ndarray = values.detach().cpu().flatten(1).double().numpy()
        return array

    def with_beside(self, codes: np.ndarray, seed: int) -> np.ndarray:
        """Codes with what lies beside them drawn from that of the items and the options."""
        if not self.beside.shape[1]:
            return codes
        known = np.concatenate([self.beside, np.array([row for _, row in self.options], np.float32)])
        rows = known[np.random.default_rng([seed, 3]).integers(len(known), size=len(codes))]
        return np.concatenate([codes, rows], 1).astype(np.float32)

    def at_first(self, codes: np.ndarray) -> np.ndarray:
        """Codes beside the first option."""
        if not self.beside.shape[1]:
            return codes
        return np.concatenate([codes, np.tile(np.array(self.options[0][1]), (len(codes), 1))], 1)

    def shown(self, values: np.ndarray) -> np.ndarray:
        """What the page shows of the function's values (N, ...): of probabilities the most probable category."""
        if not self.categories:
            return values
        most: np.ndarray = values.reshape(len(values), -1, self.categories).argmax(-1).astype(np.float64)
        return most

    def text(self) -> dict[str, Any] | None:
        """What lies beside the codes as the page takes it."""
        if not self.beside.shape[1]:
            return None
        options = [{"name": name, "row": row} for name, row in self.options]
        return {"size": self.beside.shape[1], "values": as_text(self.beside, "f4"), "options": options}


def decoding_of(pair: Any, items: Split) -> Decoding:
    """What a page shows of a pair at the codes of these items, and at any other code."""
    beside = beside_of(pair, items)
    x = items.x[:]
    codes = encoded(pair, replace(items, y=None)) if columns_of(pair) is not None else encoded(pair, x, **beside)
    size = codes.shape[1]
    rows, names, options = _beside(pair, x, beside)
    categories = num_categories(pair)

    def parts(z: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        columns = z[..., size:]
        given = {}
        if "covariates" in names:
            given["covariates"] = columns[..., : columns.shape[-1] - ("exposure" in names)]
        if "exposure" in names:
            given["exposure"] = columns[..., -1]
        return z[..., :size], given

    def law(z: Tensor) -> Any:
        code, given = parts(z)
        return pair.given(z[..., size:], code) if "label" in names else pair.likelihood(code, **given)

    def probabilities(z: Tensor) -> Tensor:
        p = law(z)
        table: Tensor = entries_of(pair).probabilities(getattr(p, "base_dist", p))
        return table

    def mean(z: Tensor) -> Tensor:
        if "label" in names:
            return mean_of(law(z))
        code, given = parts(z)
        value: Tensor = pair.decode(code, **given)
        return value

    def median(z: Tensor) -> Tensor:
        p = law(z)
        location: Tensor = getattr(p, "base_dist", p).loc
        return location

    def expected(z: Tensor) -> Tensor:
        table = probabilities(z)
        return (table * torch.arange(categories, dtype=table.dtype, device=table.device)).sum(-1)

    def row(z: Tensor) -> Tensor:
        """A code and the probability of the most probable category in one number, as 2.75 for 75 % of category 2."""
        code, given = parts(z)
        made: Tensor = pair.decode(code, **given).clone()
        p = law(z)
        tables = entries_of(pair).by_column(getattr(p, "base_dist", p))
        for place, column in enumerate(columns_of(pair) or ()):
            if column.name in tables:
                probability, most = tables[column.name].max(-1)
                made[..., place] = most + BELOW_ONE * probability
        return made

    if hasattr(entries_of(pair), "by_column"):
        why = "rows have categories, of which the most probable is shown"
        return Decoding(pair, codes, row, rows, options, is_before=why)
    if categories and isinstance(entries_of(pair), Categorical):
        words = "shown is the most probable category"
        return Decoding(pair, codes, probabilities, rows, options, categories, words)
    if categories:
        return Decoding(pair, codes, expected, rows, options, words="shown is the expected category")
    if isinstance(entries_of(pair), StudentT) and not has_mean(pair):
        return Decoding(pair, codes, median, rows, options, words="shown is the median, for there is no mean")

    def mean_over_levels(z: Tensor) -> Tensor:
        p = law(z)
        p = getattr(p, "base_dist", p)
        levels = torch.arange(1, p.levels, dtype=p.loc.dtype, device=p.loc.device)
        return torch.sigmoid((p.loc[..., None] - levels + 0.5) / p.scale[..., None]).sum(-1)

    # a mean that is the location wherever it exists is masked where it does not
    as_steps = median if isinstance(entries_of(pair), StudentT) else None
    if isinstance(entries_of(pair), DiscretizedLogistic):
        numbers = math.prod(pair.event_shape) * entries_of(pair).levels
        as_steps = mean_over_levels if numbers <= MOST_SUMMED else None
    return Decoding(pair, codes, mean, rows, options, as_steps=as_steps)


def first_covariates(covariates: Any) -> tuple[str, list[float]]:
    """The covariates that the page of a pair starts with, by name and value, of those of its items (N, D)."""
    return _options([np.asarray(torch.as_tensor(covariates), np.float32)], ["covariates"])[0]


def _beside(pair: Any, x: Tensor, beside: dict[str, Any]) -> tuple[np.ndarray, list[str], list[Option]]:
    """What lies beside the items' codes, (N, B), the names of its parts, and the values that a reader can choose."""
    if isinstance(pair, SemiSupervisedVAE):
        labels = pair.predict_log_proba(x).argmax(-1).cpu().numpy()
        one_hot = np.eye(pair.num_classes, dtype=np.float32)
        names = [f"label {name}" for name in pair.names.tolist()]
        return one_hot[labels], ["label"], [*zip(names, one_hot.tolist(), strict=True)][:MOST_OPTIONS]
    columns, words = [], []
    if "covariates" in beside:
        covariates = np.asarray(torch.as_tensor(beside["covariates"]), np.float32)
        columns, words = [covariates], ["covariates"]
    if "exposure" in beside:
        columns.append(np.asarray(torch.as_tensor(beside["exposure"]), np.float32)[:, None])
        words.append("exposure")
    if not columns:
        return np.zeros((len(x), 0), np.float32), [], []
    return np.concatenate(columns, 1), words, _options(columns, words)


def _options(columns: list[np.ndarray], words: list[str]) -> list[Option]:
    """The distinct covariates of the items where they are few, else their mean, each at an exposure of 1."""
    ending, told = ([1.0], "exposure 1") if "exposure" in words else ([], "")
    if "covariates" not in words:
        return [(told, ending)]
    distinct = np.unique(columns[0], axis=0)
    if len(distinct) > MOST_OPTIONS:
        named = [("mean covariates", columns[0].mean(0))]
    else:
        is_one_hot = bool(((distinct == 0) | (distinct == 1)).all() and (distinct.sum(1) == 1).all())
        distinct = distinct[::-1] if is_one_hot else distinct  # the first category first
        named = [
            (f"covariate {int(row.argmax())}" if is_one_hot else f"c = {', '.join(f'{v:g}' for v in row)}", row)
            for row in distinct
        ]
    return [(f"{name}, {told}" if told else name, [*map(float, row), *ending]) for name, row in named]
