"""Exchange of an object for another in the lists, dicts and attributes that hold it."""

from __future__ import annotations

import gc
from collections import deque
from typing import Any

__all__ = ["exchange"]


def exchange(old: Any, new: Any) -> None:
    """Put one object in the place of another wherever a list, a dict, a deque or an attribute holds it."""
    for owner in gc.get_referrers(old):
        if isinstance(owner, list | deque):
            for place, x in enumerate(owner):
                if x is old:
                    owner[place] = new
        else:
            table = owner if isinstance(owner, dict) else getattr(owner, "__dict__", None)
            if isinstance(table, dict):
                for key in [key for key, x in table.items() if x is old]:
                    table[key] = new
