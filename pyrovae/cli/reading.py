"""What the commands that take a run folder read: the pair, and the items that their options name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pyrovae.cli.options import DATA_SETS
from pyrovae.cli.planning import is_table_file
from pyrovae.cli.reading_options import ALL

if TYPE_CHECKING:
    import numpy as np
    import torch

    from pyrovae.data import Dataset, Split

__all__ = [
    "Items",
    "Opened",
    "Source",
    "class_labels",
    "class_named",
    "named_as_classes",
    "names_of",
    "open_run",
    "part_items",
    "require_alike",
    "source_of_all",
]


NOTHING: Mapping[str, str | None] = {}


@dataclass(frozen=True)
class Items:
    """Some items of a data set, as a command takes them.

    Attributes:
        x: (N, *event_shape), in the dtype that the data set is read in.
        y: their labels, int64, or None.
        covariates: what they are given, (N, D), or None.
        exposure: what multiplies the means of their counts, (N,), or None.
        numbers: the place of each in its part.
        weight: how many times each counts, (N,), or None.
        missing: which entries are missing, of the shape of x, where NaN says so; None where none may be.
        data: the data set.
        part: "test", "train" or "all".
        count: how many items the part has.
        binarization: how grey values were made 0 or 1; None where they were not.
    """

    x: torch.Tensor
    y: torch.Tensor | None
    numbers: np.ndarray
    data: Dataset
    part: str
    count: int
    covariates: torch.Tensor | None = None
    exposure: torch.Tensor | None = None
    binarization: str | None = None
    weight: torch.Tensor | None = None
    missing: Any = None

    @property
    def beside(self) -> dict[str, Any]:
        """What lies beside the items, by the name of the argument that takes it."""
        from pyrovae.data.beside import given

        return given(self)

    @property
    def given(self) -> Any:
        """The items as an estimator takes them: with what lies beside them, where there is anything."""
        from pyrovae.data import Split

        if self.table is not None:
            return replace(self.table, y=None)
        return Split(self.x, None, **self.beside) if self.beside else self.x

    @property
    def rows(self) -> np.ndarray:
        """The place of each in the file, of a source without a test part of its own, or else in its part."""
        order = self.data.order
        if order is None or self.part == ALL:
            return self.numbers
        of_part = order[len(self.data.train) :] if self.part == "test" else order[: len(self.data.train)]
        rows: np.ndarray = of_part.numpy()[self.numbers]
        return rows

    @property
    def is_grey(self) -> bool:
        """Whether there are values between 0 and 1, and none outside, among those that are present."""
        from pyrovae.report.chosen import is_grey

        return is_grey(self.x[~self.x.isnan()])

    def binarized(self, how: Any) -> Items:
        """The same items with their grey values made 0 or 1; NaN stays NaN."""
        import torch

        import pyrovae

        absent = torch.isnan(self.x)
        x = pyrovae.data.binarize(torch.where(absent, 0.0, self.x) if bool(absent.any()) else self.x, how=how)
        words = "sample, seed 0" if how == "sample" else how
        return replace(self, x=torch.where(absent, torch.nan, x), binarization=words)

    def fewer(self, num_items: int | str) -> Items:
        """Those that so few would have been, with the values that they have here, also where these were drawn."""
        import numpy as np

        place = np.flatnonzero(np.isin(self.numbers, _chosen_numbers(self.count, num_items)))
        beside = {**self.beside, "weight": self.weight, "missing": self.missing}
        rows: dict[str, Any] = {"x": self.x, "y": self.y, **beside}
        chosen: dict[str, Any] = {name: None if value is None else value[place] for name, value in rows.items()}
        return replace(self, numbers=self.numbers[place], **chosen)

    @property
    def table(self) -> Any:
        """The items of a table as a `Table`, which makes a frame of them again; None of others."""
        split: Any = self.data.whole() if self.part == ALL else getattr(self.data, self.part)
        return None if self.data.columns is None else split[self.numbers]

    @property
    def labels(self) -> np.ndarray | None:
        """The label of each item, a name where the data set has names."""
        import numpy as np

        if self.y is None:
            return None
        classes = self.data.classes
        return self.y.numpy() if classes is None else np.asarray(classes)[self.y.numpy()]

    @property
    def label_variable(self) -> dict[str, Any]:
        """The variable of a result that holds the labels; nothing without labels."""
        return {} if self.labels is None else {"label": (self.labels, "label", "1", "item")}

    @property
    def protocol(self) -> dict[str, Any]:
        """Which items these are, in words for a record."""
        whole = len(self.numbers) == self.count
        choice = "all" if whole else "a random choice of fixed seed, in their order"
        protocol = {
            "data": self.data.name,
            "part": self.part,
            "num_items": len(self.numbers),
            "items_of_part": self.count,
            "choice": choice,
        }
        if self.beside:
            protocol["given"] = ", ".join(self.beside)
        if self.missing is not None:
            protocol["missing"] = f"{int(self.missing.sum())} of {self.missing.numel()} entries"
        if self.weight is not None:
            protocol["weight"] = "how many times each item counts"
        return protocol if self.binarization is None else {**protocol, "binarization": self.binarization}

    @property
    def of_words(self) -> str:
        """The part that the items are of, without their number."""
        part = "all" if self.part == ALL else f"the {self.part}"
        how = "" if self.binarization is None else f", binarised ({self.binarization})"
        return f"{part} items of {self.data.name}{how}"

    def __str__(self) -> str:
        of = "" if len(self.numbers) == self.count else f" of {self.count:,}"
        part = "" if self.part == ALL else f"{self.part} "
        how = "" if self.binarization is None else f", binarised ({self.binarization})"
        return f"{len(self.numbers):,}{of} {part}items of {self.data.name}{how}"


@dataclass(frozen=True)
class Opened:
    """A folder that was opened: the pair in it, and what the run says of it.

    Attributes:
        path: the folder.
        pair: the pair, on the device that was asked for.
        run: the run, or None for a folder that pyrovae.save wrote.
    """

    path: Path
    pair: Any
    run: Any = None
    manifest: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.path.resolve().name

    @property
    def attributes(self) -> dict[str, Any]:
        """What a result says of the pair that it is of."""
        return {"run": str(self.path), "pair": type(self.pair).__name__}

    @property
    def limits(self) -> tuple[float, float]:
        """The values of the items that a picture shows black and white: 0 and 1, or 0 and 255 of bytes that were kept.

        Other items, as standardised ones and small counts, are shown from the least to the largest value of the fit's.
        """
        record = self.manifest.get("data", {})
        low, high = record.get("minimum", 0.0), record.get("maximum", 1.0)  # a saved state has none
        if low >= 0 and high <= 1:
            return 0.0, 1.0
        if low >= 0 and 127 < high <= 255 and not record.get("scale", True):
            return 0.0, 255.0
        return float(low), float(high) if high > low else float(low) + 1.0

    @property
    def beside(self) -> tuple[str, ...]:
        """What the pair's items are given: what the run was fitted with, or what a saved state cannot do without."""
        from pyrovae.models.pair import covariate_dim_of

        recorded = self.manifest.get("data", {}).get("beside", {})
        needed = {"covariates"} if covariate_dim_of(self.pair) else set()
        return tuple(sorted(needed | set(recorded)))

    def dataset(
        self, source: str | None = None, of_items: Mapping[str, str | None] = NOTHING, *, missing: bool = False
    ) -> Dataset:
        """The data set of the run, or another one, read in the same way.

        `of_items` names the files of the "labels", the "covariates" and the "exposure" of another one's items.
        """
        from pyrovae.data.sources import load_of_shape
        from pyrovae.warned import gathered

        if source is None:
            for name in (name for name, file in of_items.items() if file is not None):
                verb = "is" if name == "exposure" else "are"
                raise click.UsageError(f"--{name} {verb} of the items in --data: name these too")
            if self.run is None:
                raise click.UsageError(
                    f"{self.path} is a saved state, which does not say what it was fitted on: name items by --data"
                )
            with gathered():  # what there was to say of them was said at the fit
                return self.run.data()
        record = self.manifest.get("data", {})
        if self.encoding is not None:
            return self._table(source, of_items)
        if is_table_file(source):
            raise click.UsageError(
                f"{self.path} was not fitted on a table, and knows no names of columns: name an array for {source}"
            )
        scale = record.get("scale", not _counts(self.pair))
        options: dict[str, Any] = {"root": record.get("root"), "scale": scale, "missing": missing, **of_items}
        data = load_of_shape(source, self.pair.event_shape, channels=record.get("channels"), **options)
        if tuple(data.event_shape) == tuple(self.pair.event_shape):
            self._require_beside(data, source)
            return data
        raise click.UsageError(
            f"the pair in {self.path} is of items of shape {_shape(self.pair.event_shape)}, and those of --data "
            f"{source} have shape {_shape(data.event_shape)}"
        )

    def _table(self, source: str, of_items: Mapping[str, str | None]) -> Dataset:
        """The table in a file, in the columns and codes of the fit."""
        from pyrovae.data.tables.recorded import read_like

        record = self.manifest.get("data", {}).get("table")
        if not is_table_file(source):
            raise click.UsageError(
                f"{self.path} is of a table, whose columns have names, and --data {source} is none: name a .csv, .tsv "
                "or .parquet file"
            )
        try:
            data = read_like(record, source, **of_items)
        except (ValueError, TypeError) as error:
            start = "frame must have the columns that the table was made with"
            if not str(error).startswith(start):
                raise click.UsageError(f"--data {source}: {error}") from error
            named = f"--data {source} must have the columns that {self.path} was fitted on"
            raise click.UsageError(str(error).replace(start, named)) from error
        self._require_beside(data, source)
        return data

    @property
    def encoding(self) -> Any:
        """How the columns of a table are codes; None of a run on other items."""
        from pyrovae.data.tables.encoding import Encoding

        record = self.manifest.get("data", {}).get("table")
        return None if record is None else Encoding.from_recipe(record["encoding"])

    def _require_beside(self, data: Dataset, source: str) -> None:
        """Refuse items without what the pair's are given, and with what it does not take."""
        from pyrovae.data.beside import given
        from pyrovae.models.pair import covariate_dim_of, takes_beside

        there, size = given(data.test), covariate_dim_of(self.pair)
        for name in self.beside:
            if name not in there:
                what = f"{size} covariates each" if name == "covariates" else "an exposure"
                raise click.UsageError(
                    f"{self.path} is of items given {what}, and those of --data {source} have none: add --{name} "
                    "FILE.npy"
                )
        takes = takes_beside(self.pair)
        for name in there:
            what = "an exposure" if name == "exposure" else name
            if takes[name] and self.run is not None and name not in self.beside:
                raise click.UsageError(
                    f"{self.path} was fitted without {what}, and the items of --data {source} come with {what}: leave "
                    f"the {name} out"
                )
            if not takes[name]:
                raise click.UsageError(
                    f"{self.path} ({type(self.pair).__name__}) takes no {name}, and the items of --data {source} come "
                    f"with {what}: leave the {name} out"
                )
        if size and there["covariates"].shape[1] != size:
            raise click.UsageError(
                f"{self.path} is of items given {size} covariates each, and those of --data {source} have "
                f"{there['covariates'].shape[1]}"
            )

    def is_own(self, data: Dataset) -> bool:
        """Whether the items of a data set are those that the pair was fitted on, whatever their labels are."""
        from pyrovae.data.summary import summarize

        record = self.manifest.get("data", {})
        sizes = record.get("train_items"), record.get("test_items")
        if sizes != (len(data.train), len(data.test)):
            return False
        summary, recorded = summarize(data.test), record["sha256"]
        if "test_items" not in recorded:
            return summary.sha256 == recorded.get("test")
        return summary.items_sha256 == recorded["test_items"]

    def source(
        self,
        source: str | None = None,
        of_items: Mapping[str, str | None] = NOTHING,
        *,
        part: str | None = None,
        missing: bool = False,
    ) -> Source:
        """The part of a data set that the options name; `of_items` as in `dataset`."""
        data = self.dataset(source, of_items, missing=missing)
        if part is None and missing and data.columns is not None:
            part = ALL  # a table is completed as it is, also that of the fit
        if part is None:
            whole = source is not None and data.order is not None and source not in DATA_SETS
            # a fit's own items are judged by those that it has not seen, and completed wherever an entry is missing
            part = ALL if whole and (missing or not self.is_own(data)) else "test"
        return Source(data, part, self.pair)


@dataclass(frozen=True)
class Source:
    """A part of a data set, "test", "train" or "all", and the pair that its items are for."""

    data: Dataset
    part: str
    pair: Any

    def items(self, num_items: int | str = ALL, binarize: str = "no", *, exactly: bool = False) -> Items:
        """Some of its items, or all; `binarize` "sample" or "threshold" makes them 0 or 1.

        "auto" is "sample" where the items are grey and the pair's likelihood takes nothing but 0 and 1.
        """
        items = part_items(self.data, self.part, num_items, exactly=exactly)
        if binarize == "auto":
            from pyrovae.report.chosen import takes_binary

            binarize = "sample" if items.is_grey and takes_binary(self.pair) else "no"
        return items if binarize == "no" else items.binarized(binarize)


def _chosen_numbers(count: int, num_items: int | str) -> np.ndarray:
    """Which of `count` items are taken: the first of one permutation, so that fewer are always some of the more."""
    from pyrovae.report.chosen import rows

    return rows(count, count if num_items == ALL else int(num_items))


def part_items(data: Dataset, part: str, num_items: int | str = ALL, *, exactly: bool = False) -> Items:
    """Some items of a part of a data set; with `exactly` in the dtype of their file, where it has more digits."""

    split: Split = data.whole() if part == ALL else getattr(data, part)
    count = len(split)
    numbers = _chosen_numbers(count, num_items)
    source: Any = split.x
    read = source.exactly if exactly and hasattr(source, "exactly") else source.__getitem__
    x = read(numbers) if len(numbers) < count else read(slice(None))
    rows = {name: getattr(split, name) for name in ("y", "covariates", "exposure", "weight", "missing")}
    chosen: dict[str, Any] = {name: None if value is None else value[numbers] for name, value in rows.items()}
    if chosen["missing"] is not None and not bool(chosen["missing"].any()):
        chosen["missing"] = None
    return Items(x, numbers=numbers, data=data, part=part, count=count, **chosen)


def names_of(opened: Sequence[Opened]) -> list[str]:
    """A name for each, by which a reader tells them apart: the folder's, or the whole path where two are alike."""
    folders = [one.path.resolve() for one in opened]
    for number, folder in enumerate(folders):
        if folder in folders[:number]:
            raise click.UsageError(f"{opened[number].path} is given twice: name each folder once")
    names = [one.name for one in opened]
    return [name if names.count(name) == 1 else str(one.path) for name, one in zip(names, opened, strict=True)]


def require_alike(opened: Sequence[Opened], names: Sequence[str]) -> None:
    """Refuse runs that were fitted on different data, of which no one set of items is held out from all."""
    records = [one.manifest.get("data") for one in opened]
    for name, record in zip(names, records, strict=True):
        if record is None:
            raise click.UsageError(
                f"{name} is a saved state, which does not say what it was fitted on: name items by --data"
            )
        _require_one_table(opened[0], opened[names.index(name)], names[0], name)
        if record["sha256"] != records[0]["sha256"]:  # type: ignore[index]
            raise click.UsageError(
                f"{names[0]} and {name} were fitted on different data ({records[0]['source']}, {record['source']}), or "  # type: ignore[index]
                "on the same read differently: name items that neither has seen by --data"
            )
        digests = [
            {key: its["sha256"] for key, its in each.get("beside", {}).items()}  # type: ignore[union-attr]
            for each in (records[0], record)
        ]
        if digests[0] != digests[1]:
            raise click.UsageError(
                f"{names[0]} and {name} were fitted on the same items given something else "
                f"({_given_in_words(digests[0])}, {_given_in_words(digests[1])}): their densities are of different "
                "things, and are not compared"
            )


def _require_one_table(one: Opened, other: Opened, name: str, other_name: str) -> None:
    """Refuse runs of tables with other columns, or other categories for a code; kinds of one measure may differ."""
    from pyrovae.columns import other_codes, what_differs

    if one.encoding is None or other.encoding is None:
        return
    columns, others = one.encoding.columns, other.encoding.columns
    differing = other_codes(columns, others)
    if [each.name for each in columns] != [each.name for each in others]:
        differing = what_differs(columns, others)
    if differing:
        raise click.UsageError(
            f"{name} and {other_name} were fitted on tables that differ, in the order in which they are given: "
            f"{differing}. Fit both with the same --kind and --drop"
        )


def _given_in_words(digests: Mapping[str, Any]) -> str:
    return " and ".join(f"{name} {its['train'][:8]}..." for name, its in digests.items()) or "nothing"


def source_of_all(
    opened: Sequence[Opened],
    names: Sequence[str],
    source: str | None,
    of_items: Mapping[str, str | None] = NOTHING,
    *,
    part: str | None,
) -> Source:
    """The items by which all runs are judged, read in one way; where any run was fitted on some, the test part."""
    from pyrovae.warned import gathered

    if source is None:
        require_alike(opened, names)
        return opened[0].source(None, of_items, part=part)
    first = opened[0].source(source, of_items, part=part)
    chosen = first.part
    for one, name in zip(opened[1:], names[1:], strict=True):
        with gathered():  # which the first reading has said
            other = one.source(source, of_items, part=part)
        _require_one_table(opened[0], one, names[0], name)
        _require_read_alike(first.data, other.data, source, names[0], name)
        chosen = chosen if other.part == ALL else other.part
    return replace(first, part=chosen)


def _require_read_alike(one: Dataset, other: Dataset, source: str, name: str, other_name: str) -> None:
    """Refuse a source whose values one run reads divided by 255 and another does not, or with other axes."""
    import torch

    x, y = (data.test.x[:100] for data in (one, other))
    if x.shape != y.shape or x.dtype != y.dtype or not torch.equal(torch.nan_to_num(x), torch.nan_to_num(y)):
        raise click.UsageError(
            f"--data {source} is read differently for {name} and for {other_name} (bytes divided by 255 or kept, or "
            "the order of the axes), so that their figures are not comparable: fit both on values of one scale"
        )


def class_labels(opened: Opened, labels: np.ndarray, of: str) -> np.ndarray:
    """The labels of a data set of this name by the names that a classifier's classes have, in words or in numbers."""
    from pyrovae.models.classifiers.classes import as_named

    pair: Any = opened.pair
    named = as_named(pair.names, labels)
    try:
        pair.numbers(named, len(named), name=f"the data set {of}")
    except ValueError as error:
        raise click.UsageError(
            f"{error}. These are the classes of {opened.path}: name the labels as they are"
        ) from None
    return named


def class_named(opened: Opened, text: str) -> Any:
    """The class of a classifier, or of another model with labels, that was typed for --label."""
    pair: Any = opened.pair
    known = {str(name): name for name in pair.names.tolist()}
    if text not in known:
        raise click.UsageError(f"--label {text} is no class of {opened.path}: {', '.join(known)}")
    return known[text]


def named_as_classes(opened: Sequence[Opened], data: Dataset) -> Dataset:
    """The data set with numbers for labels in place of words that spell them, where those name a classifier's classes.

    Else their places among the words, as `y` has them, would be taken for these numbers.
    """
    import numpy as np
    import torch

    from pyrovae.models.pair import takes_labels

    for one in opened:
        if takes_labels(one.pair) and data.classes is not None and one.pair.names.dtype.kind not in "US":
            number = torch.from_numpy(class_labels(one, np.array(data.classes), data.name))
            train, test = (
                replace(part, y=None if part.y is None else number[part.y]) for part in (data.train, data.test)
            )
            data = replace(data, train=train, test=test, classes=None)
    return data


def open_run(path: str, *, device: str = "cpu") -> Opened:
    """Open a run folder, or a folder that `pyrovae.save` wrote."""
    import pyrovae
    from pyrovae import checks
    from pyrovae.inference.checkpoint import MANIFEST as SAVED
    from pyrovae.run_folder import MANIFEST, read_run

    where = checks.device(device)
    folder = checks.path("RUN", path)
    if (folder / SAVED).is_file() and not (folder / MANIFEST).is_file():
        return Opened(folder, pyrovae.load(folder).to(where).eval())
    run = read_run(folder)
    return Opened(folder, run.pair().to(where).eval(), run, run.manifest)


def _counts(pair: Any) -> bool:
    """Whether the pair's items are whole numbers, as counts are."""
    from pyrovae.checks.supports import is_of_whole_numbers
    from pyrovae.models.pair import support_of

    return is_of_whole_numbers(support_of(pair))


def _shape(shape: Sequence[int]) -> str:
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
