"""Run the notebooks of this folder and keep their outputs, with small pictures.

    python docs/notebooks/run.py                        # all, two minutes each at most
    python docs/notebooks/run.py from_ae_to_vae.ipynb   # those that are named

A notebook stays as it was where a cell of it fails, or shows a path of this machine.
`pip install 'pyrovae[docs]'` brings what is needed.
"""

from __future__ import annotations

import argparse
import base64
import io
import re
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image

FOLDER = Path(__file__).parent
COLOURS = 64  # of a picture, which makes it a third of its size
OF_A_MACHINE = re.compile(r"(/home/|/root/|/tmp/|/usr/|site-packages|[A-Z]:\\\\)")


def executed(notebook: Any, folder: Path, *, timeout: int = 900) -> Any:
    """The notebook as a new kernel runs it in `folder`, with small outputs."""
    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        store_widget_state=False,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()
    notebook.metadata = {
        "kernelspec": {
            "display_name": "Python 3",
            "language": "python",
            "name": "python3",
        },
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:02d}"
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                data["image/png"] = smaller(data["image/png"])
    return notebook


def require_no_path(notebook: Any) -> None:
    """Refuse outputs that show a path of this machine, as those of a warning do."""
    for number, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            shown = {**output.get("data", {}), "image/png": ""}
            words = f"{shown} {output.get('text', '')}"
            if path := OF_A_MACHINE.search(words):
                raise ValueError(f"cell {number} shows a path, {path[0]!r}: {words}")


def smaller(png: str) -> str:
    """A PNG in base64 with few colours."""
    image = (
        Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB").quantize(COLOURS)
    )
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "notebooks", nargs="*", type=Path, default=sorted(FOLDER.glob("*.ipynb"))
    )
    for path in parser.parse_args().notebooks:
        notebook = executed(nbformat.read(path, as_version=4), FOLDER)
        require_no_path(notebook)
        nbformat.write(notebook, path)


if __name__ == "__main__":
    main()
