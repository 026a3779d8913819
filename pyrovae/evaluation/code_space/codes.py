"""Codes of many items and decoded means of many codes, in batches; the prior and posterior distributions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyrovae import checks
from pyrovae.data import MappedArray
from pyrovae.models.batch import Batch, called_on
from pyrovae.models.items import checked_beside, require_columns
from pyrovae.models.missing import require_missing_taken
from pyrovae.models.pair import covariates_for, dtype_and_device, is_made_of_parts, require_code_alone
from pyrovae.models.particles import latent_law
from pyrovae.models.scopes import Workspace
from pyrovae.seeding import Noise

__all__ = ["decoded", "encoded", "posteriors", "prior_of", "reconstructed"]

BATCH = 1024


def encoded(pair: Any, x: Any, *, covariates: Any = None, exposure: Any = None, missing: Any = None) -> Tensor:
    """The codes of all items, computed in batches: shape (N, latent_dim), on the CPU.

    `x` is an array, a memory-mapped view or a split of a data set, which may carry the covariates that the pair needs.
    With `missing` True, or a mask, NaN is an entry that was not seen, of a pair that takes such.

    >>> import pyrovae
    >>> pyrovae.encoded(pyrovae.mlp_ae((1, 8, 8)), pyrovae.data.load("digits").test.x).shape
    torch.Size([360, 2])
    """
    _method_of(pair, "encode")
    takes = ("missing", "weight")
    given = checks.split_of(x, covariates=covariates, exposure=exposure, missing=missing, takes=takes)
    require_columns(pair, given.columns)
    some = given.missing is not None
    if some:
        require_missing_taken(pair)
    x = checks.with_missing(given.x, given.missing)
    if not isinstance(x, MappedArray):  # checked once and not per batch
        x = checks.checked_array(x, tuple(pair.event_shape), dtype=dtype_and_device(pair)[0], allow_nan=some)
    beside = checked_beside(pair, given.covariates, given.exposure, len(x))
    return _batched(pair, _method_of(pair, "encode"), Batch.of(x, **beside, missing=some))


def decoded(pair: Any, z: Tensor, *, covariates: Any = None, exposure: Any = None) -> Tensor:
    """The decoded means of all codes, computed in batches: shape (N, *event_shape), on the CPU.

    `covariates`, (N, D), and `exposure`, (N,), are those of the items that the codes are of, where the pair takes any;
    one row of covariates, (D,), or one number stands for all codes.

    >>> import torch
    >>> import pyrovae
    >>> pyrovae.decoded(pyrovae.mlp_ae((1, 8, 8)), torch.zeros(5, 2)).shape
    torch.Size([5, 1, 8, 8])
    """
    decode = _method_of(pair, "decode")
    z = checks.array(z, "z")
    if not z.ndim:
        raise ValueError("z must be codes of shape (N, latent_dim), got a single number")
    beside: dict[str, Tensor] = {}
    if covariates is not None or exposure is not None:
        beside = checked_beside(pair, covariates, exposure, len(z), spread=True)
    return _batched(pair, decode, Batch(z, **{name: value.cpu() for name, value in beside.items()}) if beside else z)


def reconstructed(pair: Any, x: Any, *, label: Any = None) -> Tensor:
    """Items as the pair gives them back, computed in batches: shape (N, *event_shape), on the CPU.

    It decodes their codes, or goes by the pair's own `reconstruct` where it decodes more than a code, as that of a
    `SemiSupervisedVAE` does: with `label` for all items, or with each one's likeliest where it is None.
    """
    given = checks.split_of(x)
    if hasattr(pair, "decode"):
        return decoded(pair, encoded(pair, given), **given.beside)
    function = _method_of(pair, "reconstruct")
    if not isinstance(items := given.x, MappedArray):
        items = checks.checked_array(items, tuple(pair.event_shape), dtype=dtype_and_device(pair)[0])
    return _batched(pair, function if label is None else lambda part: function(part, [label] * len(part)), items)


def _method_of(pair: Any, name: str) -> Any:
    """A pair's `encode` or `decode`, which a pair on Pyro alone may not have."""
    if not hasattr(pair, "event_shape"):  # text has a method `encode` too
        raise TypeError(f"pair must be a model/guide pair, as mlp_vae builds one, got {type(pair).__name__}")
    if not hasattr(pair, name):
        require_code_alone(pair, name)
        needs = {"encode": "encoded", "decode": "decoded", "reconstruct": "reconstructed"}[name]
        raise TypeError(f"{type(pair).__name__} has no {name}, as VAE and AE have, so that nothing can be {needs}")
    return getattr(pair, name)


def _batched(pair: Any, function: Any, x: Any) -> Tensor:
    checks.whole("the number of items", len(x))
    parts, space = [], Workspace(pair, checks=None)
    for i in range(0, len(x), BATCH):
        with space.turn():
            parts.append(called_on(function, x[i : i + BATCH]).detach().cpu())  # a view of a parameter has its gradient
    return torch.cat(parts)


def posteriors(pair: Any, x: Any, seed: int, **beside: Tensor) -> list[tuple[Any, Tensor]]:
    """q(z | x) of each batch of items with one draw per item, (n, latent_dim), on the pair's device.

    `beside` are the covariates and the exposure of the items, for a pair that takes any.
    """
    dtype, device = dtype_and_device(pair)
    drawn, space = [], Workspace(pair, noise=Noise(seed, device), checks=None)
    for i in range(0, len(x), BATCH):
        with space.turn():
            items = x[i : i + BATCH].to(device, dtype)
            given = {name: value[i : i + BATCH].to(device, dtype) for name, value in beside.items()}
            q = _posterior(pair, items, given)
            drawn.append((q, q.sample()))
    return drawn


def _posterior(pair: Any, items: Tensor, given: dict[str, Tensor]) -> Any:
    if not is_made_of_parts(pair, "guide"):
        return latent_law(pair.guide, items, **given)
    return pair.posterior(items, **covariates_for(pair.posterior, given.get("covariates")))


def prior_of(pair: Any, covariates: Tensor | None = None) -> Any:
    """p(z), the distribution of one code; with covariates (N, D) p(z | c), of N codes where it depends on these."""
    with Workspace(pair, noise=Noise(0), checks=None).turn():
        if not is_made_of_parts(pair, "model"):
            size = 1 if covariates is None else len(covariates)
            return latent_law(pair.model, size=size, **({} if covariates is None else {"covariates": covariates}))
        return pair.prior(**covariates_for(pair.prior, covariates))
