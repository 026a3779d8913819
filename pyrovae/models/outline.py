"""A pair in one line, and torch's tree of its modules where that is wanted: by `print`, in hashes, in saved states."""

from __future__ import annotations

from contextvars import ContextVar

from torch import nn

from pyrovae.summary import HasSummary, Rows, in_words

__all__ = ["HasOutline", "tree"]

_as_tree: ContextVar[bool] = ContextVar("as_tree", default=False)


class HasOutline(HasSummary, nn.Module):
    """A module whose `repr` is one line, its sizes and parts; `str`, and so `print`, is torch's tree of modules."""

    def __repr__(self) -> str:
        return nn.Module.__repr__(self) if _as_tree.get() else super().__repr__()

    def __str__(self) -> str:
        return tree(self)

    def _summary_line(self) -> str:
        stated = {"event_shape": self._summary_shape, **self._summary_of_parts()}
        entries = [f"{name}={value}" for name, value in in_words(stated).items()]
        entries += [f"{count} parameters" for count in in_words({"": self._summary_count}).values()]
        return ", ".join(entries) or "..."

    def _summary_rows(self) -> Rows:
        return {
            "event_shape": self._summary_shape,
            **self._summary_of_parts(),
            "parameters": self._summary_count,
            "stored as": self._summary_storage,
        }

    def _summary_of_parts(self) -> Rows:
        """What is said between the shape of an item and the number of parameters."""
        return {}

    def _summary_shape(self) -> tuple[int, ...]:
        shape: tuple[int, ...] = tuple(self.event_shape)  # type: ignore[arg-type]
        return shape

    def _summary_count(self) -> str:
        return f"{sum(parameter.numel() for parameter in self.parameters()):,}"

    def _summary_storage(self) -> str:
        kinds = {f"{str(p.dtype).removeprefix('torch.')} on {p.device}" for p in self.parameters()}
        return ", ".join(sorted(kinds)) or "no parameters"


def tree(module: nn.Module) -> str:
    """The module as torch shows it, a line for each of its parts, with that of pairs inside it in full too.

    >>> import pyrovae
    >>> from pyrovae.models.outline import tree
    >>> print(tree(pyrovae.linear_vae(5, 2).prior))
    StandardNormal()
    """
    token = _as_tree.set(True)
    try:
        return repr(module)
    finally:
        _as_tree.reset(token)
