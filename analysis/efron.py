"""What does it cost to model p(y | x) alone, where the classes are normal with one covariance? Efron's curve, measured.

    python analysis/efron.py                        # 4,000 data sets at each of four distances: some minutes
    python analysis/efron.py --sets 500 --distances 2

Two classes of equal weight, N(-D/2 e_1, I) and N(D/2 e_1, I) in 5 dimensions, 4,000 labels drawn from their mixture.
On each data set linear discriminant analysis (`gaussian_classifier`, the maximum of p(x, y)) and unpenalised logistic
regression (`DiscriminativeClassifier(prior_scale=None)`, the maximum of p(y | x)). Both rules are linear, so their
error rates are known in closed form, without a test set. Printed: the ratio of the mean excess error rates over the
Bayes rate Phi(-D/2), LDA's over logistic regression's, with its standard error over data sets, beside the asymptotic
relative efficiency of Efron (1975).
"""

from __future__ import annotations

import argparse
import math
import time
import warnings

import numpy as np
import torch
from scipy.special import ndtr

import pyrovae

EFRON = {0.5: 1.000, 1: 0.995, 1.5: 0.968, 2: 0.899, 2.5: 0.786, 3: 0.641, 3.5: 0.486, 4: 0.343}


def drawn(rng: np.random.Generator, distance: float, n: int, features: int) -> tuple[np.ndarray, np.ndarray]:
    """Items and labels from the mixture of the two classes."""
    y = rng.integers(0, 2, size=n)
    x = rng.normal(size=(n, features))
    x[:, 0] += distance * (y - 0.5)
    return x, y


def error_rate(classifier: torch.nn.Module, distance: float, features: int) -> float:
    """Of a linear rule w x + b > 0, read off its log odds at the origin and at the unit vectors."""
    at = torch.cat([torch.zeros(1, features), torch.eye(features)]).double()
    with torch.no_grad():
        odds = classifier.predict_log_proba(at)
    odds = (odds[:, 1] - odds[:, 0]).numpy()
    b, w = odds[0], odds[1:] - odds[0]
    shift, length = w[0] * distance / 2, math.sqrt(w @ w)
    return 0.5 * float(ndtr(-(b + shift) / length) + ndtr((b - shift) / length))


def excess(distance: float, sets: int, *, n: int = 4000, features: int = 5, seed: int = 0) -> tuple[np.ndarray, int]:
    """Error rates over the Bayes rate of LDA and logistic regression, (sets, 2), and how many sets were separable."""
    rows, separable = [], 0
    for number in range(sets):
        x, y = drawn(np.random.default_rng([seed, number, round(10 * distance)]), distance, n, features)
        lda = pyrovae.gaussian_classifier((features,), 2).double()
        logistic = pyrovae.DiscriminativeClassifier((features,), 2, prior_scale=None).double()
        with torch.no_grad():  # from one point, whatever the global generator has drawn
            for parameter in logistic.parameters():
                parameter.zero_()
        pyrovae.fit(lda, x, y)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pyrovae.SeparableWarning)
            separable += pyrovae.fit(logistic, x, y).config["separable"]
        rows.append([error_rate(one, distance, features) for one in (lda, logistic)])
    return np.array(rows) - ndtr(-distance / 2), separable


def ratio(table: np.ndarray) -> tuple[float, float]:
    """Of the columns' means, with its standard error over rows (delta method)."""
    means = table.mean(0)
    value = means[0] / means[1]
    return float(value), float((table[:, 0] - value * table[:, 1]).std(ddof=1) / means[1] / math.sqrt(len(table)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=4000, help="data sets at each distance")
    parser.add_argument("--distances", type=float, nargs="*", default=[1, 2, 3, 4], choices=sorted(EFRON))
    parser.add_argument("--items", type=int, default=4000, help="labels in a data set")
    options = parser.parse_args()
    torch.set_num_threads(1)  # the arrays are small
    print("distance  Bayes error  excess, LDA  logistic  ratio            Efron  within 3 se + 0.01  separable")
    for distance in options.distances:
        start = time.perf_counter()
        table, separable = excess(distance, options.sets, n=options.items)
        value, error = ratio(table)
        lda, logistic = table.mean(0)
        holds = "yes" if abs(value - EFRON[distance]) <= 3 * error + 0.01 else "NO"
        rates = f"{distance:8.1f}  {ndtr(-distance / 2):11.5f}  {lda:11.2e}  {logistic:8.2e}  {value:.3f} ± {error:.3f}"
        rest = f"{separable} of {options.sets}  ({time.perf_counter() - start:.0f} s)"
        print(f"{rates}  {EFRON[distance]:8.3f}  {holds:18s}  {rest}", flush=True)


if __name__ == "__main__":
    main()
