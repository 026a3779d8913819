"""The code plane of fitted pairs, which decodes the point under the pointer in the page itself."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from string import Template
from typing import Any

import numpy as np
import torch

from pyrovae import checks
from pyrovae.data import Dataset
from pyrovae.models.pair import covariate_dim_of
from pyrovae.models.parts.covariates import GivenCovariates
from pyrovae.models.parts.flow import FlowPosterior
from pyrovae.models.parts.full_normal import FullNormal
from pyrovae.models.parts.zuko_flow import ZukoFlow
from pyrovae.models.semi_supervised import SemiSupervisedVAE
from pyrovae.report.assets import asset
from pyrovae.report.chosen import are_binarized
from pyrovae.report.decoders import NUM_CODES, Decoder, decoder_of
from pyrovae.report.decoding import Decoding, decoding_of
from pyrovae.report.entry import Entry, require_entries
from pyrovae.report.network import Untranslatable
from pyrovae.report.planes import Plane, plane_of
from pyrovae.report.shown_items import Layout, chosen_items, items_text

__all__ = ["DATA", "SCRIPTS", "explorer"]

DATA = "<!-- what the explorer holds -->"  # what follows it in a fragment stands at the end of the page
SCRIPTS = (  # in the order in which they need each other
    "explorer/numbers.js",
    "explorer/elementwise.js",
    "explorer/operations.js",
    "explorer/decoders.js",
    "explorer/pictures.js",
    "explorer/marks.js",
    "explorer/contours.js",
    "explorer/scales.js",
    "explorer/plane.js",
    "explorer/explorer.js",
)


def explorer(entries: Sequence[Entry], data: Dataset, *, seed: int = 0) -> str:
    """The fragment of the explorer, for `page`: the test items' codes, their pictures, and each entry's decoder.

    An entry has a plane where its pair has codes, `encode` and `decode`, and items of the data set's shape, and where
    `decode` takes the codes of the plane; the others are left out, and the fragment says so. Its decoder runs in the
    page, where the page can run it: otherwise the plane shows the nearest of a grid of codes that were decoded here,
    and says why. The error that the page states is the largest difference of an entry of a decoded item from `decode`,
    over 10,000 codes. At most 10,000 test items are shown, drawn by `seed`. Where no entry has a plane, the fragment is
    empty.

    >>> import pyrovae
    >>> from pyrovae.report import Entry, explorer, page
    >>> digits = pyrovae.data.load("digits")
    >>> pair = pyrovae.mlp_vae(digits.event_shape, hidden_dims=(8,))
    >>> text = page("Digits", [], explorer([Entry("VAE", pair)], digits))
    >>> "within" in text
    True
    """
    checks.seed(seed)
    require_entries(entries, data)
    reasons = {id(entry): _lacks(entry.pair, data) for entry in entries}
    with_codes = [entry for entry in entries if not reasons[id(entry)]]
    if not with_codes:
        return ""
    index = chosen_items(data, data.event_shape, seed)
    split = data.test[torch.from_numpy(index)]
    x = split.x[:]
    values = x.flatten(1).numpy()
    layout = Layout.of(data.event_shape, values, data.columns)
    shown, texts, decoders = [], [], []
    for entry in with_codes:
        try:
            decoding = decoding_of(entry.pair, split)
            plane = plane_of(entry.pair, decoding.codes, seed)
            decoder = decoder_of(decoding, plane, layout, seed)
        except Untranslatable as reason:
            reasons[id(entry)] = f"it has {reason}"
            continue
        except Exception as error:  # a fault of the pair, or of this package: the rest of the page stands
            reasons[id(entry)] = f"it failed with {type(error).__name__}: {' '.join(str(error).split())[:200]}"
            continue
        shown.append(entry)
        decoders.append(decoder)
        words = {"name": entry.name, "words": _words(entry.pair, plane, decoding, decoder)}
        texts.append({**words, **plane.text(), "beside": decoding.text(), "decoder": decoder.text})
    if not shown:
        return ""
    held = {"items": items_text(data, index, values, layout), "entries": texts, "first": 0}
    fragment = Template(asset("explorer.html")).substitute(
        how=html.escape(_how(data, index, [entry.name for entry in shown if are_binarized(entry.pair, x)])),
        left_out=_left_out([(entry.name, reasons[id(entry)]) for entry in entries if reasons[id(entry)]]),
        exactness=_exactness(shown, decoders, layout),
    )
    text = json.dumps(held, allow_nan=False).replace("<", "\\u003c")
    return f'{fragment}{DATA}<script type="application/json" id="explorer-data">{text}</script>'


def _lacks(pair: Any, data: Dataset) -> str:
    """Why a pair has no code plane; empty where it has one."""
    if not getattr(pair, "latent_dim", 0):
        return "it has no code"
    if covariate_dim_of(pair) and data.test.covariates is None:
        return "its decoder is given covariates beside the code, and these items carry none"
    needed = ("encode", "given") if isinstance(pair, SemiSupervisedVAE) else ("encode", "decode")
    missing = [name for name in needed if not hasattr(pair, name)]
    if missing:
        return f"it has no {' and no '.join(missing)}"
    if tuple(pair.event_shape) != tuple(data.event_shape):
        return f"its items have shape {tuple(pair.event_shape)}, and those of the data {tuple(data.event_shape)}"
    return ""


def _how(data: Dataset, index: np.ndarray, binarized: Sequence[str]) -> str:
    total, count = len(data.test), len(index)
    which = f"{total:,} test items" if count == total else f"{count:,} of the {total:,} test items"
    colour = ", coloured by its label" if data.test.y is not None else ""
    grey = ""
    if binarized:
        grey = f" Codes are of the items as they are, with all their grey values, of {' and '.join(binarized)} too."
    return (
        f"Each point is the code of one of the {which} of {data.name}{colour}. Move over a plane: the picture beside "
        "it is what the decoder makes of the code under the pointer. Choose a point to see that item and its "
        f"reconstruction.{grey}"
    )


def _words(pair: Any, plane: Plane, decoding: Decoding, decoder: Decoder) -> str:
    parts = [f"code of {plane.latent_dim} dimension{'s' if plane.latent_dim > 1 else ''}"]
    if decoder.error is None:
        with_first = f" with {decoding.options[0][0]}" if decoding.options else ""
        parts.append(
            f"its decoder does not run in this page ({decoder.why}): pictures are of the nearest of "
            f"{_grid_words(decoder)} codes decoded before{with_first}"
        )
    else:
        what = "probabilities" if decoding.categories else ""
        parts.append(f"decoded in this page,{f' {what}' if what else ''} within {decoder.error:g} of Python")
    parts += [decoding.words] if decoding.words else []
    parts += [words] if (words := _words_of_points(pair)) else []
    if plane.prior is None and pair.is_normalized:
        why = "depends on the covariates" if plane.draws is None else "is no normal one, and has no lines here"
        parts.append(f"its prior {why}")
    return "; ".join(parts)


def _words_of_points(pair: Any) -> str:
    """What a point is of an item's q(z | x), where that is more than a mean and a scale for each axis."""
    posterior = getattr(pair, "posterior", None)
    if isinstance(posterior, GivenCovariates):
        posterior = posterior.posterior
    if isinstance(posterior, FullNormal):
        return "a point is the mean of q(z | x), a normal distribution with correlations, which are not drawn"
    if isinstance(posterior, FlowPosterior | ZukoFlow):
        return "a point is the mean of q(z | x), of 512 draws; its shape, that of a flow, is not drawn"
    return ""


def _grid_words(decoder: Decoder) -> str:
    count = decoder.text["count"]
    return " × ".join([str(count)] * len(decoder.text["directions"]))


def _left_out(names: Sequence[tuple[str, str]]) -> str:
    if not names:
        return ""
    words = "; ".join(f"{name} ({why})" for name, why in names)
    return f'<p class="note">Without a plane: {html.escape(words)}.</p>'


def _exactness(shown: Sequence[Entry], decoders: Sequence[Decoder], layout: Layout) -> str:
    """What the reader should know of the page's arithmetic."""
    lines = []
    errors = [f"{e.name} {d.error:g}" for e, d in zip(shown, decoders, strict=True) if d.error is not None]
    if errors:
        lines.append(
            "A decoder runs in this page with the fitted weights in float16 and arithmetic in float32. The largest "
            f"difference of any entry of a decoded item from Python’s, over {NUM_CODES:,} codes (of items, drawn from "
            f"the prior where there is one, and spread over the plane): {', '.join(errors)}."
        )
    if layout.image:
        lines.append(
            f"Images are drawn in 256 levels from {layout.low:g} to {layout.high:g}. Under a reconstruction stands the "
            "root mean square of its difference from the item, over all entries."
        )
    elif layout.columns is not None:
        lines.append(
            "The row of a code is what the decoder makes of it: the mean of a number, on a line from the "
            "smallest to the largest value of the items shown, and the most probable category with its probability. "
            "The upright mark, and what stands in parentheses, is the chosen item’s; an entry that is missing says so."
        )
    else:
        lines.append(
            "Each line of a picture goes from the smallest to the largest value of the items shown. The dot is the "
            "decoded value, and the upright mark that of the chosen item."
        )
    return "\n".join(f"<p>{html.escape(line)}</p>" for line in lines)
