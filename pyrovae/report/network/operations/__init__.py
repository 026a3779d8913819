"""The operations that a page can run: how each is written down, and how NumPy reads it; one file a kind of layer.

A file of this folder is found by its being here. It states, for names of torch's own operations, how a call is written
as steps (`translates`), and for each kind of step what NumPy makes of it (`reads`), as `assets/operations.js` states
what the page makes of it.
"""

from pyrovae.report.network.operations.registry import (
    Constant,
    Untranslatable,
    Value,
    Writer,
    reader_of,
    translator_of,
)

__all__ = ["Constant", "Untranslatable", "Value", "Writer", "reader_of", "translator_of"]
