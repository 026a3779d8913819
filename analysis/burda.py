"""MNIST by the protocol of Burda, Grosse and Salakhutdinov (2016, section 5), as far as --stages goes.

    python analysis/burda.py --root data --stages 5     # 121 of 3,280 epochs; about 15 minutes on two cores

One stochastic layer of 50 units, two hidden layers of 200 tanh units on each side; pixels drawn anew each epoch from
their grey values; Adam with epsilon 1e-4 in batches of 20; stage i of 8 takes 3^i passes at 1e-3 x 10^(-i / 7). Trained
by Pyro's own Trace_ELBO in a loop of one's own: nothing of `pyrovae.fit` is used. The negative log-likelihood is
IWAE(5000) on the 10,000 test images, binarised once, after the last stage asked for. Published: 86.76 after all 8. The
weights after each stage stay in --out; --evaluate FOLDER only takes the figure of such a folder.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import pyro
import torch
from pyro.infer import Trace_ELBO
from tqdm import tqdm

import pyrovae
from pyrovae import data

BATCH, STAGES = 20, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default=None, help="folder of MNIST, in torchvision's layout")
    parser.add_argument("--stages", type=int, default=STAGES, choices=range(1, STAGES + 1), help="of 8")
    parser.add_argument("--particles", type=int, default=5000)
    parser.add_argument("--out", type=Path, default=Path("out/burda"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--evaluate", type=Path, default=None)
    options = parser.parse_args()
    mnist = data.load("mnist", root=options.root)
    if options.evaluate:
        report(pyrovae.load(options.evaluate).to(options.device), mnist, options)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    pyro.enable_validation(False)
    vae = pyrovae.mlp_vae(mnist.event_shape, 50, hidden_dims=(200, 200), activation="tanh").to(options.device)
    optimizer = torch.optim.Adam(vae.parameters(), eps=1e-4, fused=True)
    epoch = 0
    for stage in range(options.stages):
        rate, start = 1e-3 * 10 ** (-stage / 7), time.perf_counter()
        optimizer.param_groups[0]["lr"] = rate
        for _ in tqdm(range(3**stage), desc=f"stage {stage + 1} of {STAGES}", unit="epoch", disable=None):
            loss = epoch_loss(vae, data.binarize(mnist.train.x[:], seed=epoch + 1).to(options.device), optimizer)
            epoch += 1
        seconds = time.perf_counter() - start
        pyrovae.save(options.out / f"stage{stage + 1}", vae)
        words = f"rate {rate:.2g}, train loss {loss:.2f} nats, {seconds:.0f} s"
        print(f"stage {stage + 1}: epoch {epoch}, {words}", flush=True)
    print(f"{epoch} of 3,280 epochs")
    report(vae, mnist, options)


def report(vae: pyrovae.VAE, mnist: data.Dataset, options: argparse.Namespace) -> None:
    test, start = data.binarize(mnist.test.x[:], seed=0), time.perf_counter()
    for estimate in (pyrovae.elbo(vae, test), pyrovae.iwae(vae, test, num_particles=options.particles)):
        print(estimate.named(data="MNIST test", binarization="sampled, seed 0"), flush=True)
    heavy = int((estimate.pointwise.pareto_k > 0.7).sum())
    print(f"Pareto k over 0.7 in {heavy} items; {time.perf_counter() - start:.0f} s")


def epoch_loss(vae: pyrovae.VAE, x: torch.Tensor, optimizer: torch.optim.Optimizer) -> float:
    """One pass over the items in a new order: the mean loss in nats per item."""
    bound, total = Trace_ELBO(), 0.0
    for batch in x[torch.randperm(len(x)).to(x.device)].split(BATCH):
        optimizer.zero_grad()
        loss = bound.differentiable_loss(vae.model, vae.guide, batch) / len(batch)
        loss.backward()
        optimizer.step()
        total += loss.item() * len(batch)
    return total / len(x)


if __name__ == "__main__":
    main()
