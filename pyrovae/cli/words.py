"""The library's words for an argument, `latent_dim=2`, in those of the command line, `--latent-dim 2`.

The package's errors name the argument that is wrong, in Python's words. A command's parameters have the same names as
the arguments that they are handed to, so that one table, made from the command itself, translates all of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import click

__all__ = ["Words", "speaks_python"]

VALUE = r"('[^']*'|\"[^\"]*\"|\[[^\]]*\]|\([^()]*\)|[\w.+-]+)"
ORDERS = "lower|raise|use|leave|give|set|take|without|with|and|or|as"
# advice that has no form on the command line, or another one; each is tried in turn, before the names are translated
PYTHON_ADVICE = (
    (r"load\('[\w-]+', root='[^']*', download=True\) fetches them", "--download fetches them"),
    (r" or pyrovae\.data\.binarize\(x\)", ""),
    (r"\bbinarise \(fit\(\.\.\., binarize=True\)\)", "draw binary items from them (--binarize)"),
    (r"fit\(\.\.\., ([^()]*)\)", r"\1"),
    (r" \(pair\.double\(\) of a pair\)", ""),
    (r"; take pair\.float\(\)", ""),
    (r"load\(path, like=([^()]*)\)", "its own Python code"),
    (r"load\(path\) reads it", "it can be read in Python"),
    (r"; one item is \w+\[None\]", ""),
    (r"; \w+\.(?:reshape|movedim)\([^;]*", ""),
    (r"resume=True", "--resume"),
    (r"state kinds=\{name: 'real'\} in data\.table", "state --kind NAME=real"),
    (r"take table_vae\(columns\) or ColumnMixture\([^()]*\)", "take --model table_vae or ColumnMixture"),
    (r",? or fit (?:mixture|pair)\.double\(\)", ""),
    (r" \(link='sigmoid'\)", ""),
    (r", or take link='identity'", ", or take another likelihood"),
    (r"\bwith torch\.set_num_threads", "with the number of threads"),
    (
        r" Fit one on them and state a likelihood, as pyrovae\.as_density does, or compare reconstructions instead",
        " What it makes of an item can be judged (`--estimator reconstruction`)",
    ),
    (
        r"log_prob\(x\) is its log predictive density, to_arviz\(pair, x\) its log-likelihood at each",
        "`--estimator log_prob` is its log predictive density, and `pyrovae export` writes its log-likelihood at each",
    ),
    (r", or say missing=True where NaN is an entry that was not seen", ""),
    (r"\bchannels='(first|last)'", r"--channel-axis \1"),
    (r"\bis an argument of\b", "is an option of"),
    (r"\btorch\.(b?float\d+|u?int\d+|bool)\b", r"\1"),
    (r"`[^`]*\[~isnan[^`]*` leaves them out, and `[^`]*` of a table", "delete their rows from the file"),
    (r"make the table without, by drop=\[([^\]]*)\], and build the pair of what is left", r"leave it out by --drop \1"),
    (r"`[^`]*~isnan[^`]*` leaves such columns out; build the pair of those that are left", "leave such columns out"),
    (r"(?<=: )work in float64,? or (?=scale|subtract)", ""),
)
# what a data set's arrays are called
ARRAYS = {
    "x": "DATA",
    "name_or_path": "DATA",
    "validation": "the test part of DATA",
    "y": "the labels",
    "event_shape": "the shape of an item",
}
PYTHON = re.compile(
    r"\b[a-z_]+=|\w\(\.\.\.|\b\w+\.\w+\(|\bpyrovae\.\w|\b(?:torch|np|numpy|pyro)\.[a-z]|"
    r"\b(?:None|True|False)\b|\blambda\b"
)


def speaks_python(text: str) -> str | None:
    """The first piece of Python in a text that is meant for the command line; None where there is none."""
    match = PYTHON.search(re.sub(r"`[^`]*`", "", text))
    return None if match is None else match.group()


@dataclass(frozen=True)
class Words:
    """The options of a command by the names of the arguments, and which of them are flags."""

    options: Mapping[str, str]
    negative: Mapping[str, str] = field(default_factory=dict)  # of a flag that is on by default

    @classmethod
    def of(cls, command: click.Command | None) -> Words:
        """The words of a command's own parameters."""
        options: dict[str, str] = {}
        negative: dict[str, str] = {}
        for parameter in [] if command is None else command.params:
            name = str(parameter.name)
            if isinstance(parameter, click.Option):
                options[name] = max(parameter.opts, key=len)
                if parameter.secondary_opts:
                    negative[name] = parameter.secondary_opts[0]
            else:
                options[name] = parameter.human_readable_name
        return cls(options, negative)

    def translated(self, text: str) -> str:
        """A message of the library in the words of the command line."""
        for pattern, replacement in PYTHON_ADVICE:
            text = re.sub(pattern, replacement, text)
        names = {**ARRAYS, **self.options}
        if not names:
            return text
        alternatives = "|".join(sorted(map(re.escape, names), key=len, reverse=True))

        def with_value(match: re.Match[str]) -> str:
            name, value = match[1], match[2]
            option = names[name]
            if value == "True":
                return option
            if value == "False":
                return self.negative.get(name, f"no {option}")
            if value == "None":
                return f"no {option}"
            return f"{option} {_plain(value)}"

        text = re.sub(rf"(?<![\w-])({alternatives})={VALUE}", with_value, text)
        # a name at the start, or in a word of advice, is the argument; "a likelihood" in a sentence is not
        start = r"(?:^|(?<=^\d: )|(?<=^\d\d: ))"  # a class may be named first
        listed = rf"{start}(?:{alternatives})(?:(?:, | and )(?:{alternatives}))*(?! collapse)(?=[ ,:]|$)"
        text = re.sub(
            listed, lambda match: re.sub(rf"\b({alternatives})\b", lambda name: names[name[1]], match[0]), text
        )
        text = re.sub(
            rf"\b({ORDERS}) ({alternatives})\b(?=[,;.)]| (?:out|at|or|and|to|must)\b|$)",
            lambda match: f"{match[1]} {names[match[2]]}" if match[2] in self.options else match[0],
            text,
        )
        compound = [re.escape(name) for name in names if "_" in name]
        if compound:
            pattern = rf"(?<![\w-])({'|'.join(sorted(compound, key=len, reverse=True))})\b"
            text = re.sub(pattern, lambda match: names[match[1]], text)
        text = re.sub(r"(?<![\w.:])x\[([\d:, ]+)\]", r"DATA[\1]", text)
        text = re.sub(r"\b(scale|standardise|or|of) x\b", r"\1 DATA", text)
        return re.sub(r"(?<!got )(?<![\w'])'([\w.:-]+)'", r"\1", text)


def _plain(value: str) -> str:
    """A value as it is typed: without quotes, a list with commas."""
    if value[0] in "'\"":
        return value[1:-1]
    return re.sub(r"\s+", "", value[1:-1]).rstrip(",") if value[0] in "[(" else value
