"""The rows of literature.py that are VAEs of binary images: trained as far as is asked for, judged by test images."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from literature_table import Figure, Outcome, Row
from stored import Store
from torch import Tensor

import pyrovae

SEED_OF_TRAINING, SEED_OF_TEST = 0, 1  # of the pixels that are drawn once


@dataclass(frozen=True)
class ImageRow:
    """A published negative log-likelihood of test images by importance sampling, and how its VAE is trained.

    Args:
        source: paper or repository, with the table.
        protocol: what is published, in a sentence.
        differences: where this run differs from it.
        published: the figure by the number of importance samples; None for one that is reported without a counterpart.
        passes: over the training images, of the whole protocol.
        factor: of the learning rate in pass 0, 1, ...
        options: of `pyrovae.fit`.
        allowed: nats within which a whole run counts as a reproduction; None where the data are not the published ones.
        validation: the last so many of the training images, whose ELBO chooses the pass; 0 for the last pass.
        is_static: whether pixels are drawn once, rather than anew in each pass.
    """

    name: str
    source: str
    protocol: str
    differences: str
    published: Mapping[int, float | None]
    passes: int
    factor: Callable[[int], float]
    options: Mapping[str, Any]
    network: Mapping[str, Any]
    allowed: float | None = None
    validation: int = 0
    is_static: bool = False
    data: str = "mnist"
    seed: int = 0

    def items(self, root: str | None) -> tuple[Tensor, Tensor | None]:
        """The images that the training sees, and those by which it chooses."""
        x = pyrovae.data.load(self.data, root=root).train.x[:]
        if self.is_static:
            x = pyrovae.data.binarize(x, seed=SEED_OF_TRAINING)
        rest = len(x) - self.validation
        return x[:rest], x[rest:] if self.validation else None

    def test_items(self, root: str | None) -> Tensor:
        """The test images, binarised once."""
        return pyrovae.data.binarize(pyrovae.data.load(self.data, root=root).test.x[:], seed=SEED_OF_TEST)

    def fitted(self, root: str | None, folder: Path, passes: int) -> tuple[pyrovae.VAE, pyrovae.History]:
        """The VAE after so many passes, or the best of them; a run in the folder is gone on with."""
        x, validation = self.items(root)
        steps_in_a_pass = -(-len(x) // self.options["batch_size"])
        torch.manual_seed(self.seed)
        vae = pyrovae.mlp_vae(tuple(x.shape[1:]), **self.network)
        history = pyrovae.fit(
            vae,
            x,
            validation=validation,
            epochs=passes,
            patience=None if validation is None else self.passes,  # which takes the best weights and never stops
            schedule=lambda step, steps: self.factor(step // steps_in_a_pass),
            binarize=not self.is_static,
            checkpoint=folder / "run",
            resume=True,
            seed=self.seed,
            **self.options,
        )
        return vae, history

    def measure(self, root: str | None, out: Path, passes: int | None = None, images: int | None = None) -> Outcome:
        """Train, or go on, to so many passes; then, and not before, look at the test images."""
        folder = out / self.name
        folder.mkdir(parents=True, exist_ok=True)
        done = min(passes or self.passes, self.passes)
        store = Store(folder / "results.json")

        def train() -> dict[str, Any]:
            vae, history = self.fitted(root, folder, done)
            pyrovae.save(folder / f"after-{done}", vae)
            best = history.config["weights_epoch"]
            loss = float(history.epochs.loss[-1])
            return {"training_seconds": float(history.epochs.seconds.sum()), "best": best, "loss": loss}

        def evaluate(particles: int) -> dict[str, Any]:
            vae, x = pyrovae.load(folder / f"after-{done}"), self.test_items(root)[:images]
            estimate = pyrovae.iwae(vae, x, num_particles=particles)
            unreliable = int(estimate.pointwise.unreliable.sum()) if "unreliable" in estimate.pointwise else 0
            return {"ours": -estimate.mean, "se": estimate.se, "se_items": estimate.se_items, "unreliable": unreliable}

        run = store.get(f"{done} passes", train)
        figures, of_images = [], "" if images is None else f" of {images:,} images"
        for particles, published in self.published.items():
            found = store.get(f"{done} passes, IWAE({particles}){of_images}", partial(evaluate, particles))
            figures.append(
                Figure(
                    f"-log p(x), IWAE({particles:,}){of_images}",
                    published,
                    found["ours"],
                    found["se"],
                    found["se_items"],
                    self.allowed if done == self.passes and images is None else None,
                )
            )
        chosen = f", pass {run['best'] + 1} by validation" if self.validation else ""
        return Outcome(figures, f"{done:,} of {self.passes:,} passes{chosen}", run["training_seconds"])


def by_milestones(epoch: int) -> float:
    """The factor of torch's MultiStepLR of pythae's script: 10^(-1/5) at each of its milestones."""
    return 10 ** (-bisect_right((200, 350, 500, 750, 1000), epoch) / 5)


def by_stages(epoch: int) -> float:
    """The factor of Burda et al.: stage i = 0, ..., 7 has 3^i passes at 10^(-i / 7) of the first rate."""
    stage = next(i for i in range(8) if epoch < (3 ** (i + 1) - 1) // 2)
    return 10 ** (-stage / 7)


PYTHAE = ImageRow(
    name="pythae-vae",
    source="pythae (Chadebec, Vincent and Allassonniere 2022), examples/scripts/reproducibility/vae.py and its README",
    protocol="static MNIST of Larochelle, 50,000 images; 784-400-40, ReLU; Adam, batch 100, 1e-4 times 10^(-1/5) after "
    "200 and 350 of 500 passes; the pass with the best ELBO of 10,000 validation images; 200 importance samples",
    differences="the pixels are drawn by pyrovae.data.binarize, seed 0 for training and validation and 1 for the test, "
    "since the published ones are files of their own: on these pixels pythae 0.1.2 itself, run to the end of that "
    "script, gives 92.732 +- 0.005; the loss has one draw of log q(z | x) - log p(z) where pythae has the divergence "
    "in closed form",
    published={200: 89.78, 5000: None},
    passes=500,
    factor=by_milestones,
    options={"batch_size": 100, "learning_rate": 1e-4},
    network={"latent_dim": 40, "hidden_dims": (400,), "activation": "relu"},
    validation=10_000,
    is_static=True,
)


def burda(name: str, figure: float, **objective: Any) -> ImageRow:
    """A row of Burda et al. for one objective."""
    return ImageRow(
        name=name,
        source="Burda, Grosse and Salakhutdinov 2016, table 1, one stochastic layer",
        protocol="MNIST, 60,000 images, pixels drawn anew in each pass; 784-200-200-50, tanh; Adam, epsilon 1e-4, "
        "batch 20, 3^i passes at 1e-3 x 10^(-i/7), i = 0, ..., 7; no validation; 5,000 importance samples",
        differences="the first weights are torch's own, where the paper has those of Glorot and Bengio",
        published={5000: figure},
        passes=(3**8 - 1) // 2,
        factor=by_stages,
        options={
            "batch_size": 20,
            "learning_rate": 1e-3,
            "optimizer": partial(torch.optim.Adam, eps=1e-4),
            **objective,
        },
        network={"latent_dim": 50, "hidden_dims": (200, 200), "activation": "tanh"},
        allowed=1.0,  # a public reproduction is 0.99 off at one particle
    )


ROWS: list[Row] = [
    PYTHAE,
    burda("burda-vae-1", 86.76),
    burda("burda-iwae-5", 85.54, objective="iwae", num_particles=5),
    burda("burda-iwae-50", 84.78, objective="iwae", num_particles=50),
]
