"""How do images per second and memory grow with the batch, the width, the code, the data and the processes?

    python analysis/scaling.py --root DIR    # W1 of throughput.py, one factor at a time; 5 minutes on two cores

Each setting is `fit` in fresh processes, under torchrun where there are several: the first epoch warms up, and the
median of the others counts. Eager steps; --compile for compiled ones. Printed are images a second, peak memory of the
first process, and the exponent of each factor: the slope of the logarithms. Then, on paper and from the speed that was
measured, what 64 machines would do, and where the sum of the gradients would bind.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

BASE = {"batch": 256, "width": 400, "code": 20, "items": 15_360, "processes": 1, "threads": 2, "mapped": False}
FACTORS = {
    "batch": (64, 128, 256, 512, 1024),
    "width": (100, 200, 400, 800, 1600),
    "code": (2, 8, 32, 128),
    "items": (7_680, 15_360, 30_720, 59_904),
}
APART = {
    "1 process, 1 thread": {"threads": 1},
    "1 process, 2 threads": {},
    "2 processes, 1 thread each": {"processes": 2, "threads": 1},
    "memory-mapped bytes, read ahead": {"mapped": True, "items": 59_904},
    "the same in memory": {"items": 59_904},
}
LATENCY = 30e-6  # s a hop of a ring
NETWORKS = {"10 Gbit/s": 1.25e9, "100 Gbit/s": 12.5e9}  # bytes a second


def once(setting: dict[str, Any], root: str, file: Path, compile: bool) -> None:
    """One setting, in each of its processes; the first writes what it saw."""
    import torch

    import pyrovae

    torch.set_num_threads(setting["threads"])
    with pyrovae.distributed() as ranks, tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        vae = pyrovae.mlp_vae((1, 28, 28), setting["code"], hidden_dims=(setting["width"],))
        x = pyrovae.data.load("mnist", root=root).train.x[: setting["items"]].round()
        if setting["mapped"]:
            path = Path(folder) / "x.npy"
            np.save(path, (255 * x).byte().numpy())
            x = pyrovae.data.MappedArray(np.load(path, mmap_mode="r"))
        options = {"batch_size": setting["batch"], "compile": compile, "progress": False, "device": "cpu"}
        history = pyrovae.fit(vae, x, epochs=4, **options)
        seconds = np.median(history.epochs.seconds.values[1:])
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        size = sum(p.numel() for p in vae.parameters())
        if ranks.is_first:
            found = {"speed": setting["items"] / seconds, "memory": memory, "parameters": size}
            file.write_text(json.dumps(found), encoding="utf-8")


def measured(changes: dict[str, Any], root: str, compile: bool) -> dict[str, float]:
    """The setting that differs from the first one by `changes`."""
    setting = BASE | changes
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "found.json"
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(setting["processes"])]
        own = [__file__, "--root", root, "--once", json.dumps(setting), "--file", str(file)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(setting["threads"])}
        command = [sys.executable, "-W", "ignore", *launch, *own, *(["--compile"] if compile else [])]
        done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            raise SystemExit(done.stderr[-2000:])
        found: dict[str, float] = json.loads(file.read_text(encoding="utf-8"))
    return found


def on_paper(speed: float, parameters: float, machines: int = 64) -> None:
    """A ring sums 4 bytes a parameter in 2 (M - 1) hops of a share 1 / M; each machine keeps its batch of 256."""
    step = BASE["batch"] / speed
    print(f"\non paper, {machines} machines, 256 images each a step of {1e3 * step:.1f} ms, {parameters:,} parameters:")
    for name, bandwidth in NETWORKS.items():
        hops = 2 * (machines - 1)
        summed = hops * (4 * parameters / machines / bandwidth + LATENCY)
        binds = step - hops * LATENCY
        limit = binds * bandwidth / (8 * (machines - 1) / machines) if binds > 0 else 0.0
        print(
            f"{name}: the sum takes {1e3 * summed:.1f} ms, {machines * BASE['batch'] / (step + summed):,.0f} images/s, "
            f"{step / (step + summed):.2f} of {machines} times one; it takes as long as a step of this length from "
            f"{limit:,.0f} parameters on"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--once", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once:
        once(options.once, options.root, options.file, options.compile)
        return
    for factor, values in FACTORS.items():
        found = [measured({factor: value}, options.root, options.compile) for value in values]
        speed, memory = (np.array([one[name] for one in found]) for name in ("speed", "memory"))
        slopes = [np.polyfit(np.log(values), np.log(column), 1)[0] for column in (speed, memory)]
        cells = [f"{v:,}: {s:,.0f}, {m:.2f} GiB" for v, s, m in zip(values, speed, memory, strict=True)]
        print(f"{factor} | {' | '.join(cells)} | exponents {slopes[0]:.2f} and {slopes[1]:.2f}", flush=True)
    for name, changes in APART.items():
        one = measured(changes, options.root, options.compile)
        print(f"{name}: {one['speed']:,.0f} images/s, {one['memory']:.2f} GiB", flush=True)
        if not changes:
            base = one
    on_paper(base["speed"], base["parameters"])


if __name__ == "__main__":
    main()
