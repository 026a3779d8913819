"""Every statistic of a code space for one fitted pair with images: its codes, reconstructions and samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyrovae import checks
from pyrovae.data import Split
from pyrovae.evaluation.code_space.activity import active_units
from pyrovae.evaluation.code_space.aggregate import aggregate
from pyrovae.evaluation.code_space.codes import decoded, encoded, posterior_draws
from pyrovae.evaluation.code_space.crispness import crispness
from pyrovae.evaluation.code_space.holes import holes
from pyrovae.evaluation.code_space.judge import Judge
from pyrovae.evaluation.code_space.rate import rate_identity
from pyrovae.evaluation.code_space.reconstruction import reconstruction_error
from pyrovae.evaluation.code_space.sampling import control_images, sampling_laws
from pyrovae.evaluation.code_space.separation import separation
from pyrovae.evaluation.code_space.smoothness import fixed_pairs, smoothness
from pyrovae.evaluation.code_space.whitening import Whitening
from pyrovae.seeding import stream

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["code_space"]


@checks.allocating
def code_space(
    pair: Any, train: Split, test: Split, judge: Judge, *, num_codes: int = 4000, num_pairs: int = 500, seed: int = 0
) -> xr.Dataset:
    """What a pair's code space is like, measured: one data set of all statistics of this folder.

    `train` and `test` hold images (N, C, H, W) and labels; `judge` was trained on the training images alone. A plain
    name is the statistic of the codes (posterior means) and test reconstructions; `draws_` of one draw from q(z | x) an
    item; `samples_` of decoded draws from the Gaussian fitted to the training codes; `pixel_` of pixels in place of the
    judge's features. Dimensions: "law" (how codes were drawn), "label", "codes" (raw or whitened), "source". A pair
    without p(x) has no rate, and its aggregate is that of its codes; one whose q(z | x) is no diagonal Normal has no
    rate either. The null of the aggregate is the same for every `seed`.

    >>> import pyrovae
    >>> digits = pyrovae.data.load("digits")
    >>> judge = pyrovae.Judge.fit(digits.train.x, digits.train.y, max_iter=2)
    >>> ae = pyrovae.mlp_ae((1, 8, 8))
    >>> result = pyrovae.code_space(ae, digits.train, digits.test, judge, num_codes=50, num_pairs=5)
    >>> result.hole_fraction.sizes["law"]
    3
    """
    train_codes, test_codes = encoded(pair, train.x), encoded(pair, test.x)
    train_images, test_images = decoded(pair, train_codes), decoded(pair, test_codes)
    real = test.x[:]
    laws = sampling_laws(train_codes, num=num_codes, seed=seed)
    samples = {law: decoded(pair, codes) for law, codes in laws.items()}
    control = control_images(test_images, test.y, num=num_codes, seed=seed)
    pairs = fixed_pairs(len(real), num_pairs, seed=0)  # the same for every seed and pair
    whitening = Whitening.fit(train_codes)

    def hole_statistics(features: Any) -> xr.Dataset:
        return holes(
            {law: features(images) for law, images in samples.items()},
            features(train_images),
            features(test_images),
            control=features(control),
        )

    parts = {
        "": [
            separation(train_codes, train.y, test_codes, test.y, seed=seed),
            reconstruction_error(real, test_images, mean=train.x[:].mean(0)),
            crispness(test_images, real).drop_vars(["squared_error", "squared_error_items"]),
            smoothness(
                lambda codes: decoded(pair, codes),
                test_codes[pairs[:, 0]],
                test_codes[pairs[:, 1]],
                judge=judge,
                whitening=whitening,
                seed=seed,
            ),
            hole_statistics(judge.features),
            _prefixed("judge_", judge.accuracy(test_images, test.y)),
        ],
        "pixel_": [hole_statistics(lambda images: images.flatten(1))],
        "samples_": [crispness(samples["gaussian"], real, paired=False)],
    }
    if pair.is_normalized:
        train_draws, _, _ = posterior_draws(pair, train.x, stream(seed, "train draws"))
        test_draws, loc, scale = posterior_draws(pair, test.x, stream(seed, "test draws"))
        parts[""] += [
            aggregate(test_draws, train_codes=train_draws).rename(num_items="aggregate_items"),
            active_units(test_codes),
            *([] if scale is None else [rate_identity(loc, scale, test_draws)]),
        ]
        parts["draws_"] = [separation(train_draws, train.y, test_draws, test.y, seed=seed)]
    else:
        parts[""] += [aggregate(test_codes, train_codes=train_codes).rename(num_items="aggregate_items")]
    return _merged(parts)


def _merged(parts: dict[str, list[xr.Dataset]]) -> xr.Dataset:
    import xarray as xr

    found = []
    for prefix, datasets in parts.items():
        for dataset in datasets:
            small = dataset.drop_dims([d for d in ("item", "pair", "sample") if d in dataset.dims])
            found.append(_prefixed(prefix, small))
    return xr.merge(found, compat="no_conflicts", join="outer", combine_attrs="drop_conflicts")


def _prefixed(prefix: str, dataset: xr.Dataset) -> xr.Dataset:
    return dataset.rename({name: f"{prefix}{name}" for name in dataset.data_vars})
