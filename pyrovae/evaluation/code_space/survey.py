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
from pyrovae.models.items import checked_beside
from pyrovae.models.means import is_diagonal_normal, is_standard_normal, mean_of
from pyrovae.models.pair import covariate_dim_of, require_code_alone, takes_beside
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
    covariates: Any = None,
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
    decoded at an exposure of 1.

    A pair given covariates has one code space for each value of these. `covariates`, a row of shape
    (D,), is the value at which codes are decoded to look for holes and to walk; "prior" is then
    p(z | covariates). Items come with covariates of their own, with which they are encoded and
    reconstructed, and the control is made of these reconstructions. If the prior depends on the
    covariates, the rate is the mean KL from each item's own prior, the raw aggregate is compared with
    draws of p(z | c) at the covariates of all test items, and mutual information and KL of all codes
    are left out, since there is no one prior of all codes.

    Raises TypeError for a pair without `encode` and `decode`; ValueError where a pair with covariates
    is given no row of them, or items without them, and for a row that the pair does not take.

    >>> import pyrovae
    >>> digits = pyrovae.data.load("digits")
    >>> judge = pyrovae.Judge.fit(digits.train.x, digits.train.y, max_iter=2)
    >>> ae = pyrovae.mlp_ae((1, 8, 8))
    >>> result = pyrovae.code_space(ae, digits.train, digits.test, judge, num_codes=50, num_pairs=5)
    >>> result.hole_fraction.sizes["law"]
    3
    """
    require_code_alone(pair, "code_space")
    for name, part in (("train", train), ("test", test)):
        checks.having(name, part, "x", "y", what="a split, as data.load gives two of")
    if judge is not None:
        checks.having("judge", judge, "features", "accuracy", what="a Judge, or None")
    if absent := [name for name in ("encode", "decode") if not hasattr(pair, name)]:
        raise TypeError(f"code_space needs a pair with encode and decode, and {type(pair).__name__} has no {absent[0]}")
    row = _row(pair, covariates)
    of_train, of_test = _beside(pair, train, "train"), _beside(pair, test, "test")
    prior = _Priors(pair, of_test.get("covariates"), row)
    train_codes, test_codes = encoded(pair, train.x, **of_train), encoded(pair, test.x, **of_test)
    train_images, test_images = decoded(pair, train_codes, **row), decoded(pair, test_codes, **row)
    real = test.x[:]
    # real items stand beside what is decoded with their own covariates and exposure, other codes at one value of these
    reconstructions = decoded(pair, test_codes, **of_test) if of_test else test_images
    drawn = sampling_laws(train_codes, prior=prior.of_samples, num=num_codes, seed=seed)
    samples = {law: decoded(pair, codes, **row) for law, codes in drawn.items()}
    is_labelled = train.y is not None and test.y is not None
    is_of_images = real.ndim >= 3 and min(real.shape[-2:]) >= 3
    control = None
    if is_labelled:  # what is decoded at one value of the covariates may be of one class
        of_classes = test_images
        if row:
            at_own = {"covariates": of_test["covariates"]}
            of_classes = decoded(pair, test_codes, **at_own) if "exposure" in of_test else reconstructions
        control = control_images(of_classes, test.y, num=num_codes, seed=seed)
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
                lambda codes: decoded(pair, codes, **row),
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
        train_laws = posteriors(pair, train.x, stream(seed, "train draws"), **of_train)
        test_laws = posteriors(pair, test.x, stream(seed, "test draws"), **of_test)
        train_draws, test_draws = _codes(train_laws), _codes(test_laws)
        rate, without_rate = _rate(pair, test_laws, prior, seed)
        left_out += [without_rate] if without_rate else []
        parts[""] += [
            aggregate(test_draws, train_codes=train_draws, prior=prior.of_all).rename(num_items="aggregate_items"),
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


def _row(pair: Any, covariates: Any) -> dict[str, Tensor]:
    """The covariates, (D,), that codes are decoded with, as a keyword; nothing for a pair that is given none."""
    size = covariate_dim_of(pair)
    if size and covariates is None:
        raise ValueError(
            f"covariates are needed: a pair given {size} of them has one code space for each value. Give covariates=c, "
            f"a row of {size}, with which codes are decoded; items are encoded with their own"
        )
    if size and (shape := tuple(checks.array(covariates, "covariates").shape)) != (size,):
        raise ValueError(
            f"covariates must be one row, shape ({size},), with which codes are decoded, got {shape}; those of the "
            "items come with train and test"
        )
    return {name: value[0] for name, value in checked_beside(pair, covariates, None, 1, spread=True).items()}


def _beside(pair: Any, split: Split, name: str) -> dict[str, Tensor]:
    """The covariates and the exposure of the items, as far as the pair takes them."""
    takes = takes_beside(pair)
    given = {each: getattr(split, each, None) if takes[each] else None for each in ("covariates", "exposure")}
    return checked_beside(pair, given["covariates"], given["exposure"], len(split.x), name=name)


class _Priors:
    """The priors of one survey, each None where it is N(0, I), which has closed forms, or where there is no p(x).

    Attributes:
        of_all: the distribution of all codes under the model: p(z), or the mean of p(z | c) over the items.
        of_samples: p(z), or p(z | c) at the one value with which codes are decoded.
    """

    def __init__(self, pair: Any, covariates: Tensor | None, row: dict[str, Tensor]) -> None:
        self.pair, self.covariates = pair, covariates
        self.of_all = self.of_samples = None
        self.is_each_items_own = False
        if not pair.is_normalized:
            return
        self.law = prior_of(pair, covariates)
        if covariates is not None and self.law.batch_shape:
            self.is_each_items_own = _differs_between_items(self.law)
            if not self.is_each_items_own:
                self.law = prior_of(pair, covariates[:1])
        at_row = prior_of(pair, row["covariates"][None]) if row else self.law
        self.of_samples = None if is_standard_normal(at_row) else at_row
        if not is_standard_normal(self.law):
            self.of_all = _OverItems(self.law) if self.is_each_items_own else self.law

    def of_batches(self, sizes: list[int]) -> list[Any]:
        """p(z), or p(z | c) of the items of each batch."""
        if not self.is_each_items_own or self.covariates is None:
            return [self.law] * len(sizes)
        return [prior_of(self.pair, c) for c in self.covariates.split(sizes)]


def _differs_between_items(law: Any) -> bool:
    """Whether distributions of codes, one for each item, are not all the same, by their density at two codes."""
    with torch.no_grad():
        for at in (0.0, 1.0):
            value = law.log_prob(torch.full(law.event_shape, at, device=law.mean.device, dtype=law.mean.dtype))
            if not bool((value == value[0]).all()):
                return True
    return False


class _OverItems:
    """The mean over N items of one distribution each, to draw from: a draw of each of them in every N draws."""

    def __init__(self, law: Any) -> None:
        self.law = law

    def sample(self, shape: tuple[int]) -> Tensor:
        items = self.law.batch_shape[0]
        rounds = -(-shape[0] // items)
        parts = [self.law.sample()[torch.randperm(items)] for _ in range(rounds)]
        return torch.cat(parts)[: shape[0]]


def _rate(pair: Any, drawn: list[tuple[Any, Tensor]], prior: _Priors, seed: int) -> tuple[list[xr.Dataset], str]:
    """The rate and its two parts under the prior, and which of them are left out, with the reason."""
    if any(is_point(q) for q, _ in drawn):
        return [], f"{OF_RATE}: q(z | x) is a point, and its rate is infinite"
    if prior.of_all is None and all(is_diagonal_normal(q) for q, _ in drawn):
        loc = torch.cat([mean_of(q).cpu() for q, _ in drawn])
        scale = torch.cat([q.stddev.cpu() for q, _ in drawn])
        return [rate_identity(loc, scale, _codes(drawn))], ""
    space = Workspace(pair, checks=None)
    priors = prior.of_batches([len(z) for _, z in drawn])
    rate = rate_of_posteriors(drawn, priors, turn=space.turn, seed=seed)
    if prior.is_each_items_own:
        kept = ["rate", *(name for name in rate.data_vars if str(name).startswith("rate_"))]
        return [rate[kept]], "mutual_information, kl_aggregate: each item has a prior of its own, by its covariates"
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
