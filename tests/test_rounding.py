"""Whether a dtype holds what came: against NumPy's own rounding, whatever the chunks, and silent on ordinary data."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from pyrovae import checks, rounding


def lost(x: torch.Tensor, dtype: torch.dtype = torch.float32) -> list[int]:
    columns = rounding.lost_columns(x.__getitem__, len(x), dtype, rounding.largest(x))
    return [column.column for column in columns]


def by_numpy(x: np.ndarray) -> list[int]:
    """The rule written out: a column is lost where rounding moves an entry by over 1e-3 of what its sd may be."""
    error = np.abs(x - x.astype(np.float32).astype(np.float64)).max(0)
    sd = x.std(0) * math.sqrt((len(x) - 1) / chi2.ppf(1e-6, len(x) - 1))
    return np.nonzero(error > 1e-3 * sd)[0].tolist()


@pytest.mark.parametrize("count", [3, 10, 2500])
def test_the_rule_is_what_it_says(count: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, 40)) * 0.1 + 10.0 ** np.linspace(-2, 8, 40)
    wanted = by_numpy(x)
    assert 0 < len(wanted) < 40  # both answers come up
    assert lost(torch.from_numpy(x)) == wanted


def test_chunks_and_the_sample_of_rows_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.from_numpy(np.sort(np.random.default_rng(1).normal(size=(300, 30)), 0) + 10.0 ** np.linspace(0, 6, 30))
    whole = rounding.lost_columns(x.__getitem__, 300, torch.float32, rounding.largest(x))
    monkeypatch.setattr(rounding, "CHUNK", 60)
    monkeypatch.setattr(rounding, "SAMPLE", 7)
    parts = rounding.lost_columns(x.__getitem__, 300, torch.float32, rounding.largest(x))
    assert [c.column for c in parts] == [c.column for c in whole] != []
    for one, other in zip(parts, whole, strict=True):
        assert one.error == other.error
        assert (one.mean, one.sd) == pytest.approx((other.mean, other.sd), rel=1e-9)


def test_integers_are_compared_as_integers() -> None:
    far = 2**62 + 7 * torch.arange(50)
    x = torch.stack([far, torch.arange(50), -far, far - far.min()], 1)
    found = rounding.lost_columns(x.__getitem__, 50, torch.float64, rounding.largest(x))
    assert [column.column for column in found] == [0, 2]
    error = max(abs(int(v) - int(float(v))) for v in far.tolist())  # of Python's unbounded integers
    assert found[0].error == error > 0
    assert found[0].sd == pytest.approx(7 * np.arange(50).std(), rel=1e-12)
    assert lost(torch.tensor([[2**63 - 1], [-(2**63)]] * 50)) == []  # a range that int64 itself cannot subtract
    assert lost(torch.arange(2**24 - 99, 2**24)[:, None]) == []  # float32 holds these to the last


def test_what_has_no_spread_is_held() -> None:
    x = 4.5e6 + 0.1 * torch.randn(100, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert lost(x) == [0]
    assert lost(x[:1]) == lost(x[:1].expand(100, 1)) == []
    tenth = torch.tensor([[0.1], [0.3 - 0.2]], dtype=torch.float64).repeat(50, 1)  # 0.1, but for rounding
    assert len(tenth.unique()) == 2
    assert lost(tenth) == []
    missing = torch.where(torch.arange(100)[:, None] % 2 == 0, x, torch.nan)
    assert lost(missing) == [0]
    assert lost(torch.cat([missing[:1], torch.full((9, 1), torch.nan, dtype=torch.float64)])) == []


@pytest.mark.parametrize("count", [2, 3, 6])
def test_a_few_items_that_are_close_by_chance_are_held(count: int) -> None:
    # normal columns of mean 1,000 sd: at odds of 1e-6 each a false alarm in 1.2e-2 of seeds, and the seed is fixed
    assert lost(1000 + torch.from_numpy(np.random.default_rng(2).normal(size=(count, 4000)))) == []


def test_ordinary_data_is_cast_in_silence_and_bit_for_bit() -> None:
    rng = np.random.default_rng(3)
    tables = {
        "pixels": np.where(rng.random((400, 60)) < 0.01, rng.random((400, 60)), 0.0),  # rarely lit, in float64
        "standardised": rng.normal(size=(400, 60)),
        "decimals": np.round(rng.normal(20, 5, size=(400, 60)), 1),
        "units": rng.normal(1, 0.2, size=(400, 60)) * 10.0 ** np.linspace(-12, 12, 60),
        "heavy tails": rng.standard_cauchy((400, 60)),
        "years": rng.integers(1900, 2026, (400, 60)),
        "counts": rng.poisson(1e8, (400, 60)),
        "seconds of a year": 1.7e9 + 3e7 * rng.random((400, 60)),
        "one row": rng.normal(1e9, 1.0, size=(1, 60)),
    }
    for what, table in tables.items():
        cast = checks.checked_array(table, (60,), dtype=torch.float32)
        assert np.array_equal(cast.numpy(), table.astype(np.float32)), what
    x = torch.randn(10, 3, dtype=torch.float32)
    assert checks.checked_cast(x, torch.float32) is x
    in_float64 = np.random.default_rng(4).random((50, 9))
    assert checks.checked_array(in_float64, (9,), dtype=torch.bfloat16).dtype == torch.bfloat16
