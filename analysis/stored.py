"""Results of a script that are kept in a file: what is there is not computed again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Store:
    """Results by key in a JSON file: what it has is not computed again, whichever run of the script put it there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[str, Any] = self.on_disk()

    def on_disk(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else {}
        return found

    def get(self, key: str, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        if key not in self.known:
            start = time.perf_counter()
            found = run()
            found = {"seconds": round(time.perf_counter() - start, 1)} | found
            self.known = self.on_disk() | self.known | {key: found}  # another run may have written meanwhile
            fresh = self.path.with_suffix(".new")
            fresh.write_text(json.dumps(self.known), encoding="utf-8")
            fresh.replace(self.path)
            print(f"  {key}: {self.known[key]['seconds']} s", flush=True)
        result: dict[str, Any] = self.known[key]
        return result
