"""Softplus, and the log-probability of binary events, at about the speed of an exponential on every CPU.

They go over blocks that stay in the cache, in float32 and where nothing looks on: `is_plain` says where. Elsewhere they
are torch's. A compiled graph has its own way to the same end, `pyrovae.compile.elementary`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn
from torch.autograd import forward_ad

from pyrovae.arithmetic import ATANH

__all__ = ["BernoulliEntries", "Softplus", "is_plain"]

BLOCK = 2**18  # elements that a thread works on at a time, 1 MB: fewer, and the threads wait for one another
LEAST = 2**14  # elements, below which the calls of torch cost more than its log1p
FACTORS = 112  # of at least 1/2 each: a product of so many is no subnormal number in float32


def is_plain(*tensors: Tensor, dtype: torch.dtype = torch.float32) -> bool:
    """Whether tensors are ordinary ones of `dtype` on a CPU, and nothing traces or transforms what is done to them."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # first: torch.compile reads no further
        return False
    if torch._C._len_torch_dispatch_stack() or torch._C._functorch.peek_interpreter_stack() is not None:
        return False
    if forward_ad._current_level >= 0:
        return False
    return all(type(x) is Tensor and x.dtype == dtype and x.device.type == "cpu" for x in tensors)


class Softplus(nn.Softplus):
    """log(1 + exp(x)), as torch.nn.Softplus with beta = 1, to within three units of the last place.

    >>> import torch
    >>> from pyrovae.models.elementary import Softplus
    >>> Softplus()(torch.zeros(2))
    tensor([0.6931, 0.6931])
    """

    def __init__(self) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return nn.functional.softplus(x)
        return _softplus(x)


@torch.jit.unused
def _softplus(x: Tensor) -> Tensor:
    if not is_plain(x) or x.numel() < LEAST or not x.is_contiguous():
        return nn.functional.softplus(x)
    value: Tensor = _Softplus.apply(x)
    return value


class _Softplus(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        out = torch.empty_like(x)
        block = BLOCK * torch.get_num_threads()
        s, square = x.new_empty(2, min(block, x.numel()))
        coefficients = [x.new_tensor(one) for one in ATANH]
        for given, result in zip(x.view(-1).split(block), out.view(-1).split(block), strict=True):
            if len(given) < len(s):
                s, square = s[: len(given)], square[: len(given)]
            torch.abs(given, out=s).neg_().exp_()  # u = exp(-|x|)
            s.div_(torch.add(s, 2.0, out=square))
            torch.mul(s, s, out=square)
            torch.add(coefficients[-2], square, alpha=ATANH[-1], out=result)
            for coefficient in coefficients[-3::-1]:
                torch.addcmul(coefficient, result, square, out=result)
            torch.addcmul(torch.clamp(given, min=0.0, out=square), result, s, out=result)
        return out

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return outer[0] * x.sigmoid()


class BernoulliEntries(dist.Bernoulli):
    """Independent Bernoulli entries, whose events are `BernoulliEvent`."""

    def to_event(self, reinterpreted_batch_ndims: int | None = None) -> TorchDistribution:
        event: TorchDistribution = super().to_event(reinterpreted_batch_ndims)
        return event if event is self else BernoulliEvent(self, len(event.event_shape))


class BernoulliEvent(dist.Independent):
    """Independent Bernoulli entries as one event, whose log p(x) takes one logarithm for a hundred of them.

    With logits l, log p(x) = sum_j (x_j - [l_j > 0]) l_j + log s(|l_j|), s being the logistic function: the factors
    s(|l_j|) lie between 1/2 and 1, so that a hundred of them are multiplied before their logarithm is taken.
    """

    base_dist: TorchDistribution

    def log_prob(self, value: Tensor) -> Tensor:
        logits, size = self.base_dist.logits, self.reinterpreted_batch_ndims
        result: Tensor
        wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
        if not is_plain(logits, value, dtype=wide) or logits.numel() < LEAST:
            result = super().log_prob(value)
            return result
        batch, event = logits.shape[:-size], logits.shape[-size:]
        lead = value.shape[: max(0, value.ndim - size)]
        is_one_table = lead[:-1].numel() == 1 and all(rows in (1, batch[-1]) for rows in lead[-1:] if batch)
        if value.shape[len(lead) :] != event or len(lead) > len(batch) or not is_one_table:
            result = super().log_prob(value)
            return result
        if self.base_dist._validate_args:
            self.base_dist._validate_sample(value)
        rows, features = batch[-1] if batch else 1, event.numel()
        items = value.reshape(-1, features).expand(rows, features)
        result = _LogProb.apply(logits.reshape(-1, rows, features), items)
        return result.reshape(batch)


class _LogProb(torch.autograd.Function):
    """log p of items (n, D) at logits (k, n, D): (k, n)."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(logits, x)
        out = logits.new_empty(logits.shape[:2])
        for draws, rows in _blocks(*logits.shape):
            _log_prob(logits[draws, rows], x[rows], out[draws, rows])
        return out

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, Tensor | None]:
        logits, x = ctx.saved_tensors
        slope = outer[0][..., None]
        of_logits = slope * (x - logits.sigmoid()) if ctx.needs_input_grad[0] else None
        return of_logits, (slope * logits).sum(0) if ctx.needs_input_grad[1] else None


def _blocks(draws: int, rows: int, features: int) -> Iterator[tuple[slice, slice]]:
    """Slices of draws and of rows that together hold about `BLOCK` elements for each thread."""
    block = BLOCK * torch.get_num_threads()
    each = max(1, min(rows, block // features))
    together = max(1, block // (rows * features))
    for first in range(0, draws, together):
        for start in range(0, rows, each):
            yield slice(first, first + together), slice(start, start + each)


def _log_prob(logits: Tensor, x: Tensor, out: Tensor) -> None:
    work = torch.abs(logits).sigmoid_()
    whole = logits.shape[-1] // FACTORS * FACTORS
    torch.sum(work[..., :whole].unflatten(-1, (-1, FACTORS)).prod(-1).log_(), -1, out=out)
    if whole < logits.shape[-1]:
        out += work[..., whole:].prod(-1).log_()
    # x l - max(l, 0) entry by entry: the two sums apart would be large, and all but alike where the logits are right
    torch.sub(x, torch.gt(logits, 0.0, out=work), out=work)
    out += work.mul_(logits).sum(-1)
