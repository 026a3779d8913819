"""All statistics of the code space of one fitted pair: of its codes, reconstructions and samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyrovae import checks
from pyrovae.data import Split
from pyrovae.evaluation.code_space.activity import active_units
from pyrovae.evaluation.code_space.aggregate import aggregate
from pyrovae.evaluation.code_space.codes import decoded, encoded, posteriors, prior_of
from pyrovae.evaluation.code_space.crispness import crispness
from pyrovae.evaluation.code_space.holes import holes
from pyrovae.evaluation.code_space.judge import Judge
from pyrovae.evaluation.code_space.rate import rate_identity, rate_of_posteriors
from pyrovae.evaluation.code_space.reconstruction import reconstruction_error
from pyrovae.evaluation.code_space.sampling import control_images, sampling_laws
from pyrovae.evaluation.code_space.separation import separation
from pyrovae.evaluation.code_space.smoothness import fixed_pairs, smoothness
from pyrovae.evaluation.code_space.whitening import Whitening
from pyrovae.models.means import is_diagonal_normal, is_standard_normal, mean_of
from pyrovae.models.pair import covariate_dim_of, takes_exposure
from pyrovae.models.particles import is_point
from pyrovae.models.scopes import Workspace
from pyrovae.seeding import stream

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["code_space"]

OF_RATE = "rate, mutual_information, kl_aggregate"


@checks.allocating
def code_space(
    pair: Any,
    train: Split,
    test: Split,
    judge: Judge | None = None,
    *,
    num_codes: int = 4000,
    num_pairs: int = 500,
    seed: int = 0,
) -> xr.Dataset:
    """All statistics of the code space of one fitted pair, in one Dataset.

    `train` and `test` contain items and, where there are any, labels; `judge` must have been trained
    on the training items alone. A variable without a prefix is a statistic of the codes (posterior means)
    and of the test reconstructions. The prefix `draws_` marks statistics of one draw of q(z | x) per
    item, `samples_` those of decoded draws from the Gaussian fitted to the training codes, and
    `pixel_` those of pixels in place of the judge's features. The dimensions are "law" (the
    distribution of the codes), "label", "codes" (raw or whitened) and "source". The null
    distribution of the aggregate does not depend on `seed`.

    The rate is E_q[log q(z | x) - log p(z)] under the pair's own prior, from which the codes "prior"
    are drawn and with which the raw aggregate is compared. Prior and posterior may be of any family:
    if the rate has no closed form it is estimated from draws, with `rate_monte_carlo_se`.

    Statistics that do not exist are left out, and the attribute "left_out" names them. Without a judge,
    holes are found by pixels alone. Without labels there is no separation, no control and no accuracy
    of the judge. Items that are no images of at least 3 by 3 pixels have no crispness. A pair without
    p(x) has no rate, and its aggregate compares its codes with N(0, I). A pair whose q(z | x) is a
    point has no rate either. A pair whose q(z | x) has a density at its own draws alone has no
    mutual information. Counts with an exposure are reconstructed at their own, and other codes are
    decoded at an exposure of 1. Raises TypeError for a pair without `encode` and `decode`; ValueError
    for a pair with covariates.

    >>> import pyrovae
    >>> digits = pyrovae.data.load("digits")
    >>> judge = pyrovae.Judge.fit(digits.train.x, digits.train.y, max_iter=2)
    >>> ae = pyrovae.mlp_ae((1, 8, 8))
    >>> result = pyrovae.code_space(ae, digits.train, digits.test, judge, num_codes=50, num_pairs=5)
    >>> result.hole_fraction.sizes["law"]
    3
    """
    if absent := [name for name in ("encode", "decode") if not hasattr(pair, name)]:
        raise TypeError(f"code_space needs a pair with encode and decode, and {type(pair).__name__} has no {absent[0]}")
    if covariate_dim_of(pair):
        raise ValueError(
            "code_space moves in one code space and decodes codes alone, and a pair with covariates decodes a code and "
            "covariates together: there is one space for each value of these"
        )
    prior = prior_of(pair) if pair.is_normalized else None
    if prior is not None and is_standard_normal(prior):
        prior = None  # N(0, I), with closed forms
    train_codes, test_codes = encoded(pair, train.x), encoded(pair, test.x)
    train_images, test_images = decoded(pair, train_codes), decoded(pair, test_codes)
    real = test.x[:]
    # beside real counts stand their means at the items' own exposures; elsewhere codes are decoded at an exposure of 1
    exposure = test.exposure if takes_exposure(pair) else None
    reconstructions = test_images if exposure is None else decoded(pair, test_codes, exposure=exposure)
    drawn = sampling_laws(train_codes, prior=prior, num=num_codes, seed=seed)
    samples = {law: decoded(pair, codes) for law, codes in drawn.items()}
    is_labelled = train.y is not None and test.y is not None
    is_of_images = real.ndim >= 3 and min(real.shape[-2:]) >= 3
    control = control_images(test_images, test.y, num=num_codes, seed=seed) if is_labelled else None
    pairs = fixed_pairs(len(real), num_pairs, seed=0)  # the same for every seed and pair
    whitening = Whitening.fit(train_codes)

    def hole_statistics(features: Any) -> xr.Dataset:
        return holes(
            {law: features(images) for law, images in samples.items()},
            features(train_images),
            features(test_images),
            control=None if control is None else features(control),
        )

    left_out = []
    of_labels, of_images, of_judge, of_samples = [], [], [], []
    if is_labelled:
        of_labels = [separation(train_codes, train.y, test_codes, test.y, seed=seed)]
    else:
        left_out += ["separation, control_fraction: the items have no labels"]
    if is_of_images:
        of_images = [crispness(reconstructions, real).drop_vars(["squared_error", "squared_error_items"])]
        of_samples = [crispness(samples["gaussian"], real, paired=False)]
    else:
        left_out += ["crispness: the items are no images of at least 3 by 3 pixels"]
    if judge is None:
        left_out += ["hole_fraction by features, label_switches: no judge was given"]
    else:
        of_judge = [hole_statistics(judge.features)]
        if is_labelled:
            of_judge += [_prefixed("judge_", judge.accuracy(reconstructions, test.y))]
    parts = {
        "": [
            *of_labels,
            reconstruction_error(real, reconstructions, mean=train.x[:].mean(0)),
            *of_images,
            smoothness(
                lambda codes: decoded(pair, codes),
                test_codes[pairs[:, 0]],
                test_codes[pairs[:, 1]],
                judge=judge,
                whitening=whitening,
                seed=seed,
            ),
            *of_judge,
        ],
        "pixel_": [hole_statistics(lambda images: images.flatten(1))],
        "samples_": of_samples,
    }
    if pair.is_normalized:
        of_train = posteriors(pair, train.x, stream(seed, "train draws"))
        of_test = posteriors(pair, test.x, stream(seed, "test draws"))
        train_draws, test_draws = _codes(of_train), _codes(of_test)
        rate, without_rate = _rate(pair, of_test, prior, seed)
        left_out += [without_rate] if without_rate else []
        parts[""] += [
            aggregate(test_draws, train_codes=train_draws, prior=prior).rename(num_items="aggregate_items"),
            active_units(test_codes),
            *rate,
        ]
        if is_labelled:
            parts["draws_"] = [separation(train_draws, train.y, test_draws, test.y, seed=seed)]
    else:
        left_out += [f"{OF_RATE}, active_units, draws_: the pair has no p(x)"]
        parts[""] += [aggregate(test_codes, train_codes=train_codes).rename(num_items="aggregate_items")]
    result = _merged(parts)
    return result.assign_attrs(left_out="; ".join(left_out)) if left_out else result


def _codes(drawn: list[tuple[Any, Tensor]]) -> Tensor:
    return torch.cat([z.cpu() for _, z in drawn])


def _rate(pair: Any, drawn: list[tuple[Any, Tensor]], prior: Any, seed: int) -> tuple[list[xr.Dataset], str]:
    """The rate and its two parts under `prior` (None is N(0, I)), and which of them are left out, with the reason."""
    if any(is_point(q) for q, _ in drawn):
        return [], f"{OF_RATE}: q(z | x) is a point, and its rate is infinite"
    if prior is None and all(is_diagonal_normal(q) for q, _ in drawn):
        loc = torch.cat([mean_of(q).cpu() for q, _ in drawn])
        scale = torch.cat([q.stddev.cpu() for q, _ in drawn])
        return [rate_identity(loc, scale, _codes(drawn))], ""
    space = Workspace(pair, checks=None)
    rate = rate_of_posteriors(drawn, prior_of(pair), turn=space.turn, seed=seed)
    if "mutual_information" in rate:
        return [rate], ""
    return [rate], "mutual_information, kl_aggregate: q(z | x) has a density at its own draws alone"


def _merged(parts: dict[str, list[xr.Dataset]]) -> xr.Dataset:
    import xarray as xr

    summaries = []
    for prefix, datasets in parts.items():
        for dataset in datasets:
            summary = dataset.drop_dims([d for d in ("item", "pair", "sample") if d in dataset.dims])
            summaries.append(_prefixed(prefix, summary))
    return xr.merge(summaries, compat="no_conflicts", join="outer", combine_attrs="drop_conflicts")


def _prefixed(prefix: str, dataset: xr.Dataset) -> xr.Dataset:
    return dataset.rename({name: f"{prefix}{name}" for name in dataset.data_vars})
