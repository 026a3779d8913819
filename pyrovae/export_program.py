"""A fitted encoder or decoder as a program of torch alone, which runs where this package is not installed."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from pyrovae import checks
from pyrovae.argument_checks import argument_checks
from pyrovae.models.frozen import frozen
from pyrovae.models.means import mean_of
from pyrovae.models.pair import (
    as_module,
    covariate_dim_of,
    covariates_for,
    dtype_and_device,
    is_made_of_parts,
    require_code_alone,
)
from pyrovae.models.scopes import isolated_store
from pyrovae.models.vae import LatentVariableModel

__all__ = ["export_program"]

ROWS = 3  # of the example: torch takes a batch of 0 or 1 for one that never changes


def export_program(pair: Any, what: Literal["encode", "decode"]) -> torch.export.ExportedProgram:
    """The pair's `encode` or `decode` as a program of torch's operations, for batches of any size.

    "encode" maps x of shape (N, *event_shape) to codes, (N, latent_dim), and "decode" codes to the likelihood's means,
    (N, *event_shape), in the pair's dtype and on its device, N at least 1. `torch.export.save(program, "decoder.pt2")`
    writes it, and `torch.export.load("decoder.pt2").module()(z)` runs it in a process that needs torch alone. The
    weights are copies: a later fit leaves the program as it is. Items are taken as they come, unchecked: the
    program refuses another shape or dtype, and no value. Means of counts are those at an exposure of 1.

    The program of a pair given D covariates takes two arguments, by position, `run(x, covariates)` or
    `run(z, covariates)`, with covariates of shape (N, D) in the pair's dtype, a row for each item or code.
    `program.graph_signature.user_inputs` names the arguments: ("x",) or ("z",), or with "covariates" as the second.

    Raises ValueError for another `what`, for a pair whose model or guide is not that of its parts, and for a network
    that torch cannot export, with torch's reason; TypeError for a pair that is not made of a prior, a likelihood and a
    posterior.

    >>> import torch
    >>> from pyrovae import export_program, mlp_vae
    >>> vae = mlp_vae((3,), hidden_dims=(4,))
    >>> decode = export_program(vae, "decode").module()
    >>> z = torch.randn(7, 2)
    >>> torch.allclose(decode(z), vae.decode(z), atol=1e-5)
    True
    """
    checks.choice("what", what, ("encode", "decode"))
    as_module(pair)
    require_code_alone(pair, "export_program")
    if not isinstance(pair, LatentVariableModel):
        raise TypeError(
            f"export_program takes a pair of prior, likelihood and posterior, as a VAE or an AE, got "
            f"{type(pair).__name__}"
        )
    name: Any = "guide" if what == "encode" else "model"
    if not is_made_of_parts(pair, name):
        raise ValueError(
            f"export_program goes by the pair's parts, and {type(pair).__name__} states a {name} of its own: export "
            "the network itself by torch.export.export"
        )
    dtype, device = dtype_and_device(pair)
    shape = tuple(pair.event_shape) if what == "encode" else (pair.latent_dim,)
    copy = frozen(pair)
    program = _Encode(copy.posterior) if what == "encode" else _Decode(copy.likelihood)
    shapes = [shape, *([(covariate_dim_of(pair),)] if covariate_dim_of(pair) else [])]
    examples = tuple(torch.zeros(ROWS, *each, dtype=dtype, device=device) for each in shapes)
    with torch.no_grad(), isolated_store():
        mean_of(program.law(*examples))  # says by name where there is no mean; it reads values, which none may below
    batch = torch.export.Dim("batch", min=1)
    try:
        with isolated_store(), argument_checks(False), torch.no_grad():
            return torch.export.export(program, examples, dynamic_shapes=tuple({0: batch} for _ in examples))
    except Exception as error:  # of many classes, by what a network does
        reason = [*str(error).strip().splitlines(), type(error).__name__][0]
        raise ValueError(
            f"torch cannot export {what} of this {type(pair).__name__}: {reason}; a network must compute with tensors "
            "alone, without reading their values"
        ) from error


class _Program(nn.Module):
    """The mean of a part's distribution as a function of tensors, whose names are the program's."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part
        self.eval()

    def law(self, given: Tensor, covariates: Tensor | None = None) -> Any:
        """The distribution that the part gives; a part of a pair given covariates may take none itself."""
        return self.part(given, **covariates_for(self.part, covariates))

    def mean(self, given: Tensor, covariates: Tensor | None) -> Tensor:
        p = self.law(given, covariates)
        try:
            mean: Tensor = p.mean
        except NotImplementedError:  # as of a flow
            return mean_of(p)
        return mean


class _Encode(_Program):
    def forward(self, x: Tensor, covariates: Tensor | None = None) -> Tensor:
        return self.mean(x, covariates)


class _Decode(_Program):
    def forward(self, z: Tensor, covariates: Tensor | None = None) -> Tensor:
        return self.mean(z, covariates)
