"""What a model/guide pair must have, and what it may have."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from pyrovae.models.fingerprint import _plain as _plain
    from pyrovae.models.fingerprint import settings as settings
    from pyrovae.models.items import checked_items as checked_items
    from pyrovae.models.items import plate_size as plate_size
    from pyrovae.models.layers import LAYERS_ALIVE as LAYERS_ALIVE
    from pyrovae.models.layers import Seen as Seen
    from pyrovae.models.layers import _Sampling as _Sampling
    from pyrovae.models.layers import layer_sizes as layer_sizes
    from pyrovae.models.layers import least_bytes as least_bytes
    from pyrovae.models.layers import rows_within as rows_within
    from pyrovae.models.layers import seen as seen
    from pyrovae.models.listing import Listed as Listed
    from pyrovae.models.listing import _serial as _serial
    from pyrovae.models.listing import list_parameters as list_parameters
    from pyrovae.models.listing import unique_name as unique_name
    from pyrovae.models.particles import ENUMERATED as ENUMERATED
    from pyrovae.models.particles import Drawn as Drawn
    from pyrovae.models.particles import Particles as Particles
    from pyrovae.models.particles import _at as _at
    from pyrovae.models.particles import _log_guide as _log_guide
    from pyrovae.models.particles import _refuse_scaled as _refuse_scaled
    from pyrovae.models.particles import _replicated as _replicated
    from pyrovae.models.particles import _total as _total
    from pyrovae.models.particles import drawn as drawn
    from pyrovae.models.particles import is_point as is_point
    from pyrovae.models.particles import latent_law as latent_law
    from pyrovae.models.particles import particles as particles
    from pyrovae.models.particles import require_continuous as require_continuous
    from pyrovae.models.particles import scored as scored
    from pyrovae.models.particles import simulated as simulated
    from pyrovae.models.particles import tabulated as tabulated
    from pyrovae.models.particles import traces as traces
    from pyrovae.models.particles import weighed as weighed
    from pyrovae.models.precision import _doubled as _doubled
    from pyrovae.models.precision import _doubled_output as _doubled_output
    from pyrovae.models.precision import _InFloat64 as _InFloat64
    from pyrovae.models.precision import doubled as doubled
    from pyrovae.models.precision import widened as widened
    from pyrovae.models.scopes import evaluating as evaluating
    from pyrovae.models.scopes import isolated_store as isolated_store
    from pyrovae.models.scopes import kept_modes as kept_modes
    from pyrovae.models.scopes import validation as validation

__all__ = ["Pair", "as_module", "dtype_and_device"]


@runtime_checkable
class Pair(Protocol):
    """A Pyro model and its guide over items of `event_shape`, with plate "data" and observed site "obs"."""

    event_shape: tuple[int, ...]
    latent_dim: int
    is_normalized: bool  # False: the model has no p(x), and evaluation says so

    def model(self, x: Tensor | None = None, *, size: int = 1) -> Any: ...
    def guide(self, x: Tensor | None = None, *, size: int = 1) -> Any: ...
    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...


def as_module(pair: Any) -> nn.Module:
    """The pair as the module that it must be, to be moved, trained and saved."""
    if not isinstance(pair, nn.Module) or not isinstance(pair, Pair):
        raise TypeError(
            "pair must be a torch.nn.Module with model, guide, event_shape, latent_dim and is_normalized, such as a "
            f"VAE; got {type(pair).__name__}"
        )
    return pair


def dtype_and_device(pair: Any) -> tuple[torch.dtype, torch.device]:
    """Those of the pair's first parameter."""
    first = next(iter(pair.named_parameters()), None)
    if first is None:
        raise ValueError(f"{type(pair).__name__} has no parameters")
    return first[1].dtype, first[1].device


_MOVED = {
    "evaluating": "scopes",
    "isolated_store": "scopes",
    "kept_modes": "scopes",
    "validation": "scopes",
    "ENUMERATED": "particles",
    "Particles": "particles",
    "particles": "particles",
    "traces": "particles",
    "tabulated": "particles",
    "scored": "particles",
    "Drawn": "particles",
    "drawn": "particles",
    "weighed": "particles",
    "latent_law": "particles",
    "simulated": "particles",
    "require_continuous": "particles",
    "_at": "particles",
    "_replicated": "particles",
    "is_point": "particles",
    "_log_guide": "particles",
    "_total": "particles",
    "_refuse_scaled": "particles",
    "widened": "precision",
    "doubled": "precision",
    "_InFloat64": "precision",
    "_doubled_output": "precision",
    "_doubled": "precision",
    "LAYERS_ALIVE": "layers",
    "layer_sizes": "layers",
    "rows_within": "layers",
    "least_bytes": "layers",
    "_Sampling": "layers",
    "Seen": "layers",
    "seen": "layers",
    "_serial": "listing",
    "Listed": "listing",
    "list_parameters": "listing",
    "unique_name": "listing",
    "plate_size": "items",
    "checked_items": "items",
    "settings": "fingerprint",
    "_plain": "fingerprint",
}


def __getattr__(name: str) -> Any:
    if name not in _MOVED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"pyrovae.models.{_MOVED[name]}"), name)
