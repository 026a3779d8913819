"""Tensors that are no dense arrays of numbers in memory are named, wherever they come in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import pyrovae
from pyrovae import checks

X = torch.arange(24.0).reshape(6, 4) / 24


def inference_tensor() -> torch.Tensor:
    with torch.inference_mode():
        return X.clone()


KINDS: dict[str, tuple[Callable[[], torch.Tensor], str]] = {
    "meta": (lambda: torch.empty(6, 4, device="meta"), "which has a shape and no values"),
    "quantized": (lambda: torch.quantize_per_tensor(X, 0.1, 0, torch.quint8), "dequantize"),
    "nested": (lambda: torch.nested.nested_tensor([X, X[:2]]), "a nested tensor"),
    "jagged": (lambda: torch.nested.nested_tensor([X, X[:2]], layout=torch.jagged), "a nested tensor"),
    "sparse": (X.to_sparse, "a sparse array"),
    "compressed": (X.to_sparse_csr, "a sparse array"),
    "mkldnn": (X.to_mkldnn, "MKL-DNN's own layout"),
    "complex": (lambda: X.to(torch.complex64), "real numbers"),
    "float8": (lambda: X.to(torch.float8_e4m3fn), "numbers that torch computes with"),
}
CALLS: dict[str, tuple[str, Callable[[Any, Any], Any]]] = {
    "encode": ("x", lambda pair, x: pair.encode(x)),
    "decode": ("z", lambda pair, x: pair.decode(x)),
    "fit": ("x", lambda pair, x: pyrovae.fit(pair, x, epochs=1, progress=False)),
    "iwae": ("x", lambda pair, x: pyrovae.iwae(pair, x, num_particles=2)),
    "labels": ("y", lambda pair, x: checks.labels(x, 6)),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("call", CALLS)
def test_no_plain_tensor(kind: str, call: str) -> None:
    make, words = KINDS[kind]
    name, function = CALLS[call]
    with pytest.raises(TypeError, match=rf"^{name} .*{words}"):
        function(pyrovae.linear_vae(4, 2), make())
    with pytest.raises(TypeError, match=rf"^x\[1\] .*{words}"):
        checks.array([X, make()], "x")


def test_a_tensor_of_inference_mode_is_as_any_other() -> None:
    torch.manual_seed(0)
    pair = pyrovae.linear_vae(4, 2)
    z = pair.encode(inference_tensor())
    assert torch.equal(z, pair.encode(X)) and z.requires_grad == pair.encode(X).requires_grad
    with torch.inference_mode():
        codes = z.clone()
    pair.decode(codes).sum().backward()
    assert pair.likelihood.network.weight.grad is not None
    assert str(pyrovae.elbo(pair, inference_tensor())) == str(pyrovae.elbo(pair, X))
    assert checks.array(X, "x") is X  # nothing is copied without need
