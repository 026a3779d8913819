"""The code plane of a pair: directions in its code with the range that is shown, and the lines of its prior."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from pyrovae.evaluation.code_space.codes import prior_of
from pyrovae.models.means import is_diagonal_normal
from pyrovae.models.pair import covariate_dim_of, dtype_and_device
from pyrovae.models.scopes import Workspace
from pyrovae.report.network.packing import as_text
from pyrovae.seeding import Noise

__all__ = ["Direction", "Plane", "plane_of"]

MOST_COMPONENTS = 10
MOST_AXES = 64
SHARES = (0.5, 0.9, 0.99)  # of the prior, that its lines hold; the page's own are the same
DRAWS = 20_000
FARTHEST = 4.7535  # coordinate that the scale of the normal distribution function ends at: its share is 1e-6
ALMOST_ONE = 0.9  # cosine of two directions that span no plane; the page's own is the same
SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


@dataclass(frozen=True)
class Direction:
    """A direction in the code, and the range of the coordinate along it that is shown."""

    name: str
    vector: np.ndarray
    low: float
    high: float

    def text(self) -> dict[str, Any]:
        vector = [float(v) for v in self.vector]
        return {"name": self.name, "vector": vector, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Plane:
    """The plane of a pair's codes (N, latent_dim), which two directions it starts with, and draws from its prior."""

    codes: np.ndarray
    directions: list[Direction]
    prior: dict[str, Any] | None
    draws: np.ndarray | None

    @property
    def latent_dim(self) -> int:
        return self.codes.shape[1]

    @property
    def centre(self) -> np.ndarray:
        return self.codes.mean(0)

    def text(self) -> dict[str, Any]:
        return {
            "latentDim": self.latent_dim,
            "codes": as_text(self.codes, "f4"),
            "directions": [direction.text() for direction in self.directions],
            "start": [0, 1] if self.latent_dim > 1 else [0],
            "centre": [float(v) for v in self.centre.astype(np.float32)],
            "prior": self.prior,
        }

    def spread_codes(self, count: int, seed: int) -> np.ndarray:
        """Codes as a reader may point at them: those of items, draws from the prior, and places all over the plane.

        Two fifths of `count` are items' codes, and the places over the plane have two coordinates anywhere that the
        page lets a pointer go, its corners among them, and the rest those of an item. A pair without a prior has more
        of the latter.
        """
        rng = np.random.default_rng(seed)
        parts = [self.codes[rng.permutation(len(self.codes))[: 2 * count // 5]]]
        if self.draws is not None:
            parts.append(self.draws[: 3 * count // 10])
        rest = count - sum(map(len, parts))
        moved = self.codes[rng.integers(len(self.codes), size=rest)].astype(np.float64)
        pair = [0, 1][: self.latent_dim]
        for turn, start in enumerate(range(0, rest, 100)):
            rows = slice(start, min(start + 100, rest))
            if self.latent_dim > 2:
                pair = self._two_directions(rng)
            on_normal_scale = turn % 2 == 1
            ends = [(-FARTHEST, FARTHEST)] * len(pair) if on_normal_scale else self.shown_ranges(pair)
            shares = rng.uniform(0, 1, (rows.stop - rows.start, len(pair)))
            corners = np.array([*np.ndindex(*[2] * len(pair))], float)[: len(shares)]
            shares[: len(corners)] = corners
            places = [low + (high - low) * share for (low, high), share in zip(ends, shares.T, strict=True)]
            moved[rows] = self._moved(moved[rows], [self.directions[i].vector for i in pair], places)
        return np.concatenate([*parts, moved]).astype(np.float32)

    def _two_directions(self, rng: np.random.Generator) -> list[int]:
        """Two directions that span a plane: the page shows none of two that are nearly one, as PC 1 and z1 may be."""
        first = int(rng.integers(len(self.directions)))
        along = [abs(float(each.vector @ self.directions[first].vector)) for each in self.directions]
        return [first, int(rng.choice([i for i, share in enumerate(along) if share <= ALMOST_ONE]))]

    def shown_ranges(self, chosen: list[int]) -> list[tuple[float, float]]:
        """The ends of the axes of these directions on the page, which has one scale for two that are nearly alike."""
        ends = [(self.directions[i].low, self.directions[i].high) for i in chosen]
        spans = [high - low for low, high in ends]
        if max(spans) > 2 * min(spans):
            return ends
        rooms = [(max(spans) - span) / 2 for span in spans]
        return [(low - room, high + room) for (low, high), room in zip(ends, rooms, strict=True)]

    @staticmethod
    def _moved(codes: np.ndarray, vectors: list[np.ndarray], places: list[np.ndarray]) -> np.ndarray:
        """Codes moved within the span of unit vectors to where their coordinates along these are `places`."""
        basis = np.stack(vectors)
        away = np.stack(places, 1) - codes @ basis.T
        moved: np.ndarray = codes + away @ np.linalg.pinv(basis @ basis.T) @ basis
        return moved


def plane_of(pair: Any, codes: Tensor, seed: int) -> Plane:
    """The plane of a pair with codes (N, latent_dim) of the items that are shown."""
    array = codes.numpy().astype(np.float32)
    law = _prior(pair)
    draws = None if law is None else _draws(pair, law, seed)
    directions = []
    for name, vector in _directions(array.astype(np.float64)):
        low, high = np.quantile(array @ vector, [0.001, 0.999])
        if draws is not None:
            prior_low, prior_high = np.quantile(draws @ vector, [0.001, 0.999])
            low, high = min(low, prior_low), max(high, prior_high)
        room = 0.06 * (high - low) or max(1.0, abs(low))
        directions.append(Direction(name, vector, float(low - room), float(high + room)))
    lines = None if law is None or draws is None else _lines(pair, law, draws, directions)
    return Plane(array, directions, lines, draws)


def _directions(codes: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Unit vectors with their names: principal components where the code has more than two dimensions, then axes."""
    size = codes.shape[1]
    if size == 1:
        return [("z", np.ones(1))]
    axes = [(f"z{i + 1}".translate(SUBSCRIPTS), row) for i, row in enumerate(np.eye(size)[:MOST_AXES])]
    if size == 2:
        return axes
    # not centred: a coordinate is that of the code itself, and that of N(0, I) is N(0, 1) in any direction
    _, vectors = np.linalg.eigh(np.cov(codes.T))
    components = vectors.T[::-1][:MOST_COMPONENTS]
    signs = np.sign(components[np.arange(len(components)), np.abs(components).argmax(1)])
    named = [(f"PC {i + 1}", row) for i, row in enumerate(components * signs[:, None])]
    return named + axes


def _prior(pair: Any) -> Any:
    """p(z), or None where the pair has none."""
    depends = covariate_dim_of(getattr(pair, "prior", None))
    return prior_of(pair) if pair.is_normalized and not depends else None


def _draws(pair: Any, law: Any, seed: int) -> np.ndarray:
    with Workspace(pair, noise=Noise(seed, dtype_and_device(pair)[1]), checks=None).turn():
        batch = law.sample((DRAWS,)).reshape(DRAWS, -1)
    array: np.ndarray = batch.cpu().numpy().astype(np.float32)
    return array


def _lines(pair: Any, law: Any, draws: np.ndarray, directions: list[Direction]) -> dict[str, Any] | None:
    """The lines of p(z) as the page takes them: a normal's moments, or log-densities on a grid of the plane."""
    moments = _moments(law)
    size = draws.shape[1]
    if moments is not None and size > 1:
        mean, covariance = moments
        return {"kind": "normal", "mean": mean.tolist(), "covariance": covariance.tolist()}
    if size > 2:  # the plane's own density is an integral over the other dimensions
        return None
    shown = directions[:size]
    count = 201 if size == 1 else 121
    axes = [np.linspace(d.low, d.high, count) for d in shown]
    across = np.meshgrid(*axes)  # rows are the second code, upwards
    grid = np.stack([part.reshape(-1) for part in across], 1)
    inside = _log_prob(pair, law, draws)
    text = {
        "count": count,
        "low": [d.low for d in shown],
        "high": [d.high for d in shown],
        "values": as_text(np.maximum(_log_prob(pair, law, grid), -1e30), "f4"),
    }
    # the smallest region that holds a share is where the density is above a quantile of it at draws
    levels = [float(np.quantile(inside, 1 - share)) for share in SHARES]
    return {"kind": "grid", "grid": text, "levels": levels}


def _moments(law: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """The mean and the covariance of a normal distribution of one code; None for any other."""
    with torch.no_grad():
        if is_diagonal_normal(law):
            mean, covariance = law.mean, torch.diag_embed(law.variance)
        elif isinstance(law, MultivariateNormal):
            mean, covariance = law.mean, law.covariance_matrix
        else:
            return None
    size = law.event_shape[0]
    return mean.reshape(size).double().cpu().numpy(), covariance.reshape(size, size).double().cpu().numpy()


def _log_prob(pair: Any, law: Any, codes: np.ndarray) -> np.ndarray:
    dtype, device = dtype_and_device(pair)
    with Workspace(pair, noise=Noise(0, device), checks=None).turn():
        value = law.log_prob(torch.as_tensor(codes).to(device, dtype))
    array: np.ndarray = value.reshape(len(codes)).double().cpu().numpy()
    return array
