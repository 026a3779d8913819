"""A part as it is asked for in text: a registered name alone, or with arguments, as in "student_t(df=4.0)"."""

from __future__ import annotations

import ast
from typing import Any

__all__ = ["name_and_arguments"]


def name_and_arguments(kind: str, text: str) -> tuple[str, dict[str, Any]]:
    """The name in `text` and the arguments in parentheses after it; a name alone has none.

    An argument is given by name, and its value is a literal: a number, a text in quotes, True, False, None, or a list
    of these. Nothing in `text` is run. Whether the name and its arguments are known is for the register to say. Raises
    ValueError, which begins with `kind`, for anything else.

    >>> from pyrovae.models.part_names import name_and_arguments
    >>> name_and_arguments("likelihood", "student_t(df=4.0)"), name_and_arguments("prior", "standard")
    (('student_t', {'df': 4.0}), ('standard', {}))
    >>> name_and_arguments("prior", "mixture(9)")
    Traceback (most recent call last):
        ...
    ValueError: prior='mixture(9)': 9 is given by place; give each argument by name, as in 'normal(scale=0.5)'
    """
    if "(" not in text:
        return text, {}
    shown = f"{kind}={text!r}"
    try:
        call = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError(
            f"{shown} cannot be read: it must be a name, or a name with arguments, as in 'normal(scale=0.5)'"
        ) from None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
        raise ValueError(f"{shown} must be a name, or a name with arguments, as in 'normal(scale=0.5)'")
    if call.args:
        raise ValueError(
            f"{shown}: {ast.unparse(call.args[0])} is given by place; give each argument by name, as in "
            "'normal(scale=0.5)'"
        )
    options: dict[str, Any] = {}
    for keyword in call.keywords:
        if keyword.arg is None:
            raise ValueError(f"{shown}: give each argument by name, as in 'normal(scale=0.5)', and not by **")
        try:
            options[keyword.arg] = ast.literal_eval(keyword.value)
        except (ValueError, TypeError, RecursionError, MemoryError):
            raise ValueError(
                f"{shown}: the value of {keyword.arg} must be a number, a text in quotes, True, False, None or a list "
                f"of these, got {ast.unparse(keyword.value)}"
            ) from None
    return call.func.id, options
