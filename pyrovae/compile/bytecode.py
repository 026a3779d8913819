"""What the code of a function reads: globals, attributes, imports, and words by which an attribute may be asked for."""

from __future__ import annotations

import dis
import functools
import re
from collections.abc import Iterator
from types import CodeType
from typing import Any, NamedTuple

__all__ = ["Reads", "identifiers", "path", "reads"]

GLOBALS = {"LOAD_GLOBAL", "LOAD_NAME"}
ATTRIBUTES = {"LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR", "IMPORT_FROM"}
IMPORTS = {"IMPORT_NAME"}
NAMED_BY_WORDS = {"getattr", "hasattr", "attrgetter", "methodcaller", "vars", "__dict__", "__getattribute__"}
EVALUATED = {"globals", "eval", "exec"}
WHOLE = {"vars", "__dict__", "__getattribute__", "asdict", "astuple", "dir"}  # by which no word need be in the code
ARGUMENTS = 6  # instructions, within which a call of `getattr` has loaded the attribute's name
LONGEST = 200  # characters, of a text that names something
IDENTIFIER = r"[^\W\d]\w*"


class Reads(NamedTuple):
    """What a function's code, and that of the functions inside it, reads by name.

    Attributes:
        of_globals: the names of globals and of builtins.
        attributes: the names of attributes.
        imports: the modules that it imports.
        texts: its texts.
        by_words: whether it may ask for an attribute by a text, as by `getattr` or a class pattern of `match`.
        evaluates: whether it may ask for a global by a text.
        is_open: whether it may read attributes of which no name is in the code.
        of_others: the globals that it reads for anything but a call with `self` or `cls`.
    """

    of_globals: tuple[str, ...]
    attributes: tuple[str, ...]
    imports: tuple[str, ...]
    texts: tuple[str, ...]
    by_words: bool
    evaluates: bool
    is_open: bool
    of_others: frozenset[str]


@functools.cache
def reads(code: CodeType) -> Reads:
    """What the code of a function reads by name."""
    of_globals, attributes, imports, texts = dict[str, None](), dict[str, None](), dict[str, None](), list[str]()
    matches, is_open, of_others = False, False, set[str]()
    stack = [code]
    while stack:
        inner = stack.pop()
        texts += _texts(inner.co_consts)
        stack += [const for const in inner.co_consts if isinstance(const, CodeType)]
        steps = [step for step in dis.get_instructions(inner) if step.opname not in ("CACHE", "PUSH_NULL")]
        for place, step in enumerate(steps):
            matches |= step.opname == "MATCH_CLASS"
            if step.argval in NAMED_BY_WORDS and step.opname in GLOBALS | ATTRIBUTES:
                rest = steps[place + 1 : place + ARGUMENTS]
                is_open |= not any(one.opname == "LOAD_CONST" and isinstance(one.argval, str) for one in rest)
            for names, operations in ((of_globals, GLOBALS), (attributes, ATTRIBUTES), (imports, IMPORTS)):
                if step.opname in operations:
                    names[step.argval] = None
            if step.opname in GLOBALS and not _is_for_self(steps[place + 1 :]):
                of_others.add(step.argval)
    named = {*of_globals, *attributes}
    return Reads(
        tuple(of_globals),
        tuple(attributes),
        tuple(imports),
        tuple(dict.fromkeys(text for text in texts if len(text) <= LONGEST)),
        matches or bool(named & NAMED_BY_WORDS),
        bool(named & EVALUATED),
        is_open or bool(named & WHOLE),
        frozenset(of_others),
    )


def path(text: str) -> list[str]:
    """The names in a text that is an attribute's name, or several with dots between them; else none."""
    return text.split(".") if re.fullmatch(rf"{IDENTIFIER}(\.{IDENTIFIER})*", text[: LONGEST + 1]) else []


def identifiers(text: str) -> list[str]:
    """The names in a text that may be an expression."""
    return re.findall(IDENTIFIER, text)


def _texts(consts: Any) -> Iterator[str]:
    for const in consts:
        if isinstance(const, str):
            yield const
        elif isinstance(const, tuple | frozenset):
            yield from _texts(const)


def _is_for_self(rest: list[dis.Instruction]) -> bool:
    """Whether the next value that is loaded is the object that a method belongs to."""
    return bool(rest) and rest[0].opname.startswith("LOAD_FAST") and rest[0].argval in ("self", "cls")
