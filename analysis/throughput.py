"""How many images a second, against the bare matrix products, the same by hand, Pyro's SVI, pythae and NumPyro?

    python analysis/throughput.py --root DIR           # the perceptron, W1, 6 minutes on two cores
    python analysis/throughput.py --root DIR --work W2 # the convolutions

`DIR` holds MNIST in torchvision's layout. W1: 784-400-20-400-784, softplus, Bernoulli on logits, batches of 256, Adam
1e-3. W2: the post's convolutions, a code of two dimensions, Normal(0.626), batches of 128, Adam 5e-4. Each contender
lives in a process of its own and they take turns, --rounds times --steps batches; ratios are taken within a round,
and medians and ranges over rounds are printed: the machine is shared. First step and peak memory are told apart. Each
also trains one epoch of --items images from the same first weights; its mean loss says that all do the same work.
pythae and NumPyro run where they are installed (the extra `bench`). With `--device cuda` the limit is one CUDA graph,
the step by hand is recorded as one too, and memory is the device's.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

NEEDS = {"pythae": "pythae", "NumPyro, jit": "numpyro"}
TIE = 0.15


def worker(pipe: Any, work_name: str, name: str, device: str, root: str, items: int, threads: int) -> None:
    """One contender: a first step, then rounds and an epoch as they are asked for."""
    import logging
    import warnings

    import torch
    from throughput_contenders import CONTENDERS, W1, W2

    import pyrovae

    warnings.simplefilter("ignore")
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    torch.set_num_threads(threads)
    work = {"W1": W1, "W2": W2}[work_name]
    x = pyrovae.data.load("mnist", root=root).train.x[: items // work.batch * work.batch]  # JitTrace_ELBO has one shape
    x = (x if work.convolves else (x > 0.5).float()).to(device)
    start = CONTENDERS[work_name][name]
    run = start(work, device)
    begun = time.perf_counter()
    run(x[: work.batch])
    pipe.send(time.perf_counter() - begun)
    while (asked := pipe.recv()) is not None:
        if asked == "epoch":
            pipe.send(start(work, device)(x)[1])
        else:
            seconds, _ = run(x[: asked * work.batch])
            pipe.send(asked * work.batch / seconds)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 2**10
    pipe.send((peak if device == "cpu" else torch.cuda.max_memory_allocated()) / 2**30)


def measured(options: argparse.Namespace, names: list[str]) -> dict[str, dict[str, Any]]:
    """Images a second in each round, first step in seconds, loss of an epoch in nats and peak memory in GiB."""
    context = multiprocessing.get_context("spawn")
    pipes, found = {}, {}
    for name in names:
        pipes[name], end = context.Pipe()
        arguments = (options.work, name, options.device, options.root, options.items, options.threads)
        context.Process(target=worker, args=(end, *arguments), daemon=True).start()
        end.close()  # so that one that fails is not waited for
        found[name] = {"first": pipes[name].recv(), "speed": []}
        print(f"{name:26s} first step {found[name]['first']:6.2f} s", flush=True)
    for number in range(options.rounds + 1):
        for name in names:
            pipes[name].send(options.steps)
            speed = pipes[name].recv()
            if number:  # the first one warms up
                found[name]["speed"].append(speed)
    for name in names:
        pipes[name].send("epoch")
        found[name]["loss"] = pipes[name].recv()
        pipes[name].send(None)
        found[name]["memory"] = pipes[name].recv()
    return found


def table(found: dict[str, dict[str, Any]]) -> str:
    """A row each: its speed, and its ratios to the one by hand, to its limit and to fit's compiled step."""
    others = ("by hand", "limit, float32", "limit, bfloat16", "fit, compiled")
    speed = {name: np.array(one["speed"]) for name, one in found.items()}
    lines = ["| | images/s | " + " | ".join(f"/ {o}" for o in others) + " | first step, s | epoch's loss, nats | GiB |"]
    lines.append("|---" * (len(others) + 5) + "|")
    for name, one in found.items():
        cells = [name, f"{np.median(speed[name]):,.0f}"]
        for other in others:
            ratio = speed[name] / speed[other]
            cells.append(f"{np.median(ratio):.2f} ({ratio.min():.2f} to {ratio.max():.2f})")
        cells += [f"{one['first']:.1f}", f"{one['loss']:.2f}", f"{one['memory']:.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def runs_here(name: str, device: str) -> bool:
    """NumPyro is asked on the host alone, where JAX is from a plain installation."""
    on_host = device == "cpu"
    return (name not in NEEDS or bool(find_spec(NEEDS[name]))) and ("CUDA" if on_host else "NumPyro") not in name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True)
    parser.add_argument("--work", choices=("W1", "W2"), default="W1")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=40, help="batches a round")
    parser.add_argument("--items", type=int, default=60_000)
    parser.add_argument("--out", type=Path, default=Path("throughput"))
    options = parser.parse_args()
    from throughput_contenders import CONTENDERS

    from pyrovae import plotting

    names = [name for name in CONTENDERS[options.work] if runs_here(name, options.device)]
    print(f"{options.work} on {options.device}, {options.threads} threads", flush=True)
    found = measured(options, names)
    print(table(found))
    options.out.mkdir(parents=True, exist_ok=True)
    ratios = np.array([np.array(found[name]["speed"]) / np.array(found["by hand"]["speed"]) for name in names])
    ax = plotting.interval_plot(
        names,
        np.median(ratios, axis=1),
        ratios.min(1),
        ratios.max(1),
        reference=1.0,
        margins=TIE,
        normalize=False,
        xlabel="images a second over those by hand; shaded: a tie",
        title=f"{options.work}: median and range of {options.rounds} rounds",
    )
    ax.figure.savefig(options.out / f"throughput-{options.work}.png", dpi=150)


if __name__ == "__main__":
    main()
