"""What share of a run's time do its checkpoints take, and how much work can a crash cost?

    python analysis/checkpoint_cost.py                  # 60 epochs of 16 and of 300 items, and an hour by a clock
    python analysis/checkpoint_cost.py --root DIR       # MNIST too, as long as --seconds

Each run is timed as a whole, and the writing of its states within it; printed are the seconds of the run, how many
states were written, the share of the time that they took, and the longest time between two of them, which is what a
crash costs at most. The second number of a run of less than a minute is that of its end alone, which is always
written. In the run of an hour each step moves a clock by 0.9 s, and nothing waits.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from pathlib import Path

import torch

import pyrovae
from pyrovae.callbacks import Callback
from pyrovae.inference.svi import pace
from pyrovae.inference.svi.loop import Loop
from pyrovae.inference.svi.resume import Resume


class Until(Callback):
    """Ends a run after so many seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def begin(self, run: object) -> None:
        self.start = time.monotonic()

    def epoch(self, run: object, row: dict[str, float]) -> None:
        if time.monotonic() - self.start >= self.seconds:
            run.stop("long enough")  # type: ignore[attr-defined]


def measured(label: str, x: torch.Tensor, *, step: float = 0.0, **options: object) -> None:
    """Fit with a folder, and print what its states cost; with `step` by a clock that each step moves on."""
    ahead, spent, times = [0.0], [0.0], list[float]()
    take, write = Loop.step, Resume.write

    def now() -> float:
        return time.monotonic() + ahead[0]

    def stepped(loop: Loop, *batch: object) -> torch.Tensor:
        ahead[0] += step
        return take(loop, *batch)

    def written(resume: Resume, place: tuple[int, int]) -> None:
        start = now()
        times.append(start)
        write(resume, place)
        spent[0] += now() - start

    torch.manual_seed(0)
    vae = pyrovae.mlp_vae(tuple(x.shape[1:]), 10, hidden_dims=(400, 400) if x[0].numel() == 784 else (128,))
    pace.clock, Loop.step, Resume.write = now, stepped, written
    try:
        with tempfile.TemporaryDirectory() as folder:
            start = now()
            pyrovae.fit(vae, x, binarize=True, progress=False, compile=False, checkpoint=Path(folder, "run"), **options)
            end = now()
    finally:
        pace.clock, Loop.step, Resume.write = time.monotonic, take, write
    gaps = [b - a for a, b in zip([start, *times], times, strict=False)]
    print(
        f"{label:24} {end - start:8.1f} s, {len(times):4} states, {spent[0] / len(times):6.3f} s each, "
        f"{100 * spent[0] / (end - start):6.2f} % of the time, {max(gaps):6.1f} s at most between two"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="where MNIST lies")
    parser.add_argument("--seconds", type=float, default=120.0, help="of training on MNIST")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    digits = pyrovae.data.load("digits").train.x
    measured("60 epochs of 16 items", digits[:16], epochs=60)
    measured("60 epochs of 300 items", digits[:300], epochs=60)
    measured("an epoch of an hour", digits.repeat(3, 1, 1, 1)[:4_000], epochs=1, batch_size=1, step=0.9)
    if given.root is not None:
        x = pyrovae.data.load("mnist", root=given.root).train.x
        measured("MNIST", x, epochs=10_000, callbacks=[Until(given.seconds)])


if __name__ == "__main__":
    main()
