"""The tables of tables.py: small ones that Python packages ship, with the kinds of their columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

import pyrovae

ROWS = 2000  # of randhie, which has 20,190
COINSURANCE = {0.0: "0 %", 3.258096: "25 %", 3.931826: "50 %", 4.564348: "95 %", 4.61512: "100 %"}


@dataclass(frozen=True)
class Source:
    """A table by its name, whether all of its columns are real, and rows without a missing entry for imputation."""

    name: str
    table: Any  # pyrovae.data.Table
    families: dict[str, str]  # where they are not those of the kinds

    @property
    def is_real(self) -> bool:
        return all(column.kind == "real" for column in self.table.columns)

    @property
    def numeric(self) -> Tensor:
        """Which columns are numbers rather than codes, (D,)."""
        return torch.tensor([column.categories is None for column in self.table.columns])

    def complete(self) -> Tensor:
        """The rows in which all entries are seen, in double precision."""
        x = self.table.x[:].double()
        return x[~x.isnan().any(1)]


def breast() -> Source:
    from sklearn.datasets import load_breast_cancer

    frame = load_breast_cancer(as_frame=True).data
    return Source("breast", pyrovae.data.table(frame, dict.fromkeys(frame.columns, "real")), {})


def wine() -> Source:
    from sklearn.datasets import load_wine

    frame = load_wine(as_frame=True).data
    return Source("wine", pyrovae.data.table(frame, dict.fromkeys(frame.columns, "real")), {})


def penguins() -> Source:
    """Species, island, four sizes, sex and year; the sizes are above 0, also where they are whole numbers."""
    from palmerpenguins import load_penguins

    frame = load_penguins()
    kinds: dict[str, Any] = {name: "positive" for name in frame.columns if name.endswith(("_mm", "_g"))}
    kinds["year"] = ("ordinal", sorted(frame["year"].unique().tolist()))
    return Source("penguins", pyrovae.data.table(frame, kinds), {})


def randhie() -> Source:
    """People of the RAND health insurance experiment: counts of visits and of diseases, and what they pay.

    Left out are columns of numbers of which most are one value, and no density: those of money.
    """
    import pandas as pd
    from statsmodels.datasets import randhie as rand

    whole = rand.load_pandas().data
    own = whole.iloc[np.sort(np.random.default_rng(0).permutation(len(whole))[:ROWS])]
    near = [min(COINSURANCE, key=lambda value: abs(value - each)) for each in own["lncoins"]]
    health = np.select([own["hlthp"] > 0, own["hlthf"] > 0, own["hlthg"] > 0], ["poor", "fair", "good"], "excellent")
    frame = pd.DataFrame(
        {
            "visits": own["mdvis"].astype(int).to_numpy(),
            "diseases": own["disea"].round().astype(int).to_numpy(),
            "coinsurance": [COINSURANCE[each] for each in near],
            "own_deductible": own["idp"].astype(int).to_numpy(),
            "incentive": (own["lpi"] > 0).astype(int).to_numpy(),
            "limited": (own["physlm"] >= 0.5).astype(int).to_numpy(),
            "health": health,
        }
    )
    kinds = {
        "visits": "count",
        "diseases": "count",
        "coinsurance": ("ordinal", list(COINSURANCE.values())),
        "health": ("ordinal", ["poor", "fair", "good", "excellent"]),
    }
    return Source("randhie", pyrovae.data.table(frame, kinds), {"count": "negative_binomial"})


SOURCES: dict[str, Callable[[], Source]] = {
    "breast": breast,
    "wine": wine,
    "penguins": penguins,
    "randhie": randhie,
}


def sources(names: list[str]) -> list[Source]:
    """The tables that are there; of others it is said which package they need."""
    found = []
    for name in names:
        try:
            found.append(SOURCES[name]())
        except ImportError as error:
            print(f"{name}: left out, since {error.name} is not installed (pip install {error.name})")
    return found


def hidden(shape: tuple[int, int], share: float, seed: int) -> Tensor:
    """Entries that are missing completely at random: a share of all of them, True there."""
    mask = np.zeros(shape, dtype=bool)
    order = np.random.default_rng(seed).permutation(mask.size)
    mask.flat[order[: int(share * mask.size)]] = True
    return torch.from_numpy(mask)
