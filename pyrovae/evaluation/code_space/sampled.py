"""Distances of codes to a distribution that is represented by draws, for priors without closed forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from pyrovae.evaluation.code_space.arrays import draws_of

__all__ = ["Sampled"]

REFERENCE = 50_000  # draws that stand for the distribution
IN_PAIRS = 8_000  # the number of them used for distances between pairs


class Sampled:
    """A distribution of codes, represented by a large sample, with distances to samples of `count` codes.

    The distances are those of `aggregate`, with the sample in place of N(0, I). They have the
    sampling error of 50,000 draws, and so have their null distributions.
    """

    def __init__(self, prior: Any, count: int, directions: np.ndarray, seed: int) -> None:
        self.prior, self.count, self.directions, self.seed = prior, count, directions, seed
        each = max(1, REFERENCE // count)  # the number of draws that one code is matched with
        sample = draws_of(prior, (each * count, directions.shape[1]), seed, "reference")
        self.columns = np.sort(sample, axis=0)
        projected = np.sort(directions @ sample.T, axis=1)
        self.quantiles = projected.reshape(len(directions), count, each).mean(-1)
        self.second_moments = np.square(projected).mean(1)
        self.some = torch.from_numpy(sample[:IN_PAIRS])
        self.between = torch.pdist(self.some).mean()

    def sliced_w2(self, codes: np.ndarray) -> float:
        """Root of the mean over directions of W2^2 between the projections of codes and sample, each exact."""
        projected = np.sort(self.directions @ codes.T, axis=1)
        squared = np.square(projected).mean(1) + self.second_moments - 2 * (projected * self.quantiles).mean(1)
        return float(np.sqrt(max(0.0, float(squared.mean()))))

    def ks(self, codes: np.ndarray) -> np.ndarray:
        """The largest difference between the distribution functions of codes and sample, per dimension."""
        steps = np.arange(len(codes) + 1) / len(codes)
        largest = []
        for column, sample in zip(np.sort(codes, axis=0).T, self.columns.T, strict=True):
            below = np.searchsorted(sample, column, side="right") / len(sample)
            largest.append(max(np.max(steps[1:] - below), np.max(below - steps[:-1])))
        return np.array(largest)

    def energy_distance(self, codes: np.ndarray) -> float:
        """2 E|z - g| - E|z - z'| - E|g - g'| with g from the sample, over pairs of different codes and draws."""
        z = torch.from_numpy(codes)
        across = torch.cat([torch.cdist(part, self.some).mean(1) for part in z.split(1024)]).mean()
        return float(2 * across - torch.pdist(z).mean() - self.between)

    def null(self, num_null: int) -> tuple[np.ndarray, np.ndarray]:
        """`sliced_w2` and the largest `ks` of samples of `count` further draws, each of shape (num_null,)."""
        size, distances, largest = (self.count, self.directions.shape[1]), [], []
        many = draws_of(self.prior, (num_null * self.count, size[1]), self.seed, "null")
        for sample in many.reshape(num_null, *size):
            distances.append(self.sliced_w2(sample))
            largest.append(self.ks(sample).max())
        return np.array(distances), np.array(largest)
