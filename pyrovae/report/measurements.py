"""What the sections of a report ask of the fitted pairs: each number is estimated once, or refused with its reason."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

import pyrovae
from pyrovae.data import Dataset, Split
from pyrovae.evaluation.code_space.codes import reconstructed
from pyrovae.evaluation.estimate import Estimate
from pyrovae.models.classifiers.classes import as_named
from pyrovae.models.pair import takes_labels
from pyrovae.report import chosen
from pyrovae.report.entry import Entry
from pyrovae.report.families import probabilities_at
from pyrovae.warned import gathered

__all__ = ["Measurements", "Refusal", "Settings"]

T = TypeVar("T")

# what an estimator raises for a pair that it is not for
REFUSALS = (ValueError, TypeError, NotImplementedError, RuntimeError, ArithmeticError, MemoryError)
TRAINING_ITEMS = 10  # training items that the code space is measured by, for each item that is judged


@dataclass(frozen=True)
class Refusal:
    """The reason for which an entry has no such number."""

    reason: str

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True)
class Settings:
    """The sizes by which a report's numbers are estimated, and so what they cost."""

    num_items: int = 500  # test items
    num_ledger_items: int = 20  # of them, the first, for quadrature and gaps
    num_particles: int = 1000  # draws of q(z | x) for each item, for iwae
    num_simulations: int = 1000  # of the calibration
    num_sets: int = 399  # of the predictive checks
    num_codes: int = 2000  # that are decoded to look for holes
    num_pairs: int = 200  # walks between codes
    seed: int = 0


class Measurements:
    """The entries of a report, the items that they are judged by, and all estimates of them.

    The estimates are the package's own, called as the page says: a section never computes a number of a pair itself.
    `say` is called with a line of text before each estimate.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        data: Dataset,
        settings: Settings | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.entries = list(entries)
        self.data = data
        self.settings = settings or Settings()
        self.seconds: dict[str, float] = {}
        self.warnings: dict[str, list[str]] = {}
        self._say = say
        self._known: dict[tuple[str, str], Any] = {}
        self.chosen = chosen.items(data, self.settings.num_items, self.seed)
        self._grey = replace(self.chosen, x=self.chosen.x[:])
        self.rows = chosen.rows(len(data.test), self.settings.num_items, self.seed)

    @property
    def seed(self) -> int:
        """The seed of every estimate, and of the choice of the items."""
        return self.settings.seed

    def place(self, name: str) -> int:
        """The number of an entry, by which charts colour it."""
        return [entry.name for entry in self.entries].index(name)

    def of(self, entry: Entry, name: str, measure: Callable[[], T]) -> T | Refusal:
        """What `measure` gives for this entry, once; or why it refuses. Its warnings are kept for the page."""
        key = (entry.name, name)
        if key not in self._known:
            self._say(f"{entry.name}: {name}")
            began = time.perf_counter()
            with gathered() as warnings:
                try:
                    self._known[key] = measure()
                except REFUSALS as error:
                    self._known[key] = Refusal(_sentence(error))
                except Exception as error:  # a fault of the pair, or of this package: the rest of the page stands
                    self._known[key] = Refusal(f"it failed with {type(error).__name__}: {_sentence(error)}")
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began
            self.warnings.setdefault(entry.name, []).extend(f"{name}: {one.message}" for one in warnings)
        known: T | Refusal = self._known[key]
        return known

    def of_each(
        self, measure: Callable[[Entry], T | Refusal], entries: Iterable[Entry] | None = None
    ) -> tuple[dict[str, T], list[tuple[str, Any]]]:
        """What `measure` gives for each entry by its name, of all or of these; and the names and reasons of the others.

        >>> import pyrovae
        >>> from pyrovae.report import Entry
        >>> from pyrovae.report.measurements import Measurements, Refusal
        >>> entries = [Entry(name, pyrovae.mlp_vae((1, 8, 8), hidden_dims=(2,))) for name in ("one", "other")]
        >>> measurements = Measurements(entries, pyrovae.data.load("digits"))
        >>> measurements.of_each(lambda entry: 2.5 if entry.name == "one" else Refusal("it has no such number"))
        ({'one': 2.5}, [('other', Refusal(reason='it has no such number'))])
        """
        results: dict[str, T] = {}
        refusals: list[tuple[str, Any]] = []
        for entry in self.entries if entries is None else entries:
            result = measure(entry)
            if isinstance(result, Refusal):
                refusals += [(entry.name, result)]
            else:
                results[entry.name] = result
        return results, refusals

    # items ------------------------------------------------------------------------------------------

    def items(self, entry: Entry) -> Split:
        """The test items that are judged, as this pair takes them."""
        key = (entry.name, "items")
        if key not in self._known:
            self._known[key] = chosen.items_of(entry.pair, self._grey, self.seed)
        split: Split = self._known[key]
        return split

    def x(self, entry: Entry) -> Tensor:
        """These items, without their labels and without what lies beside them."""
        return self.items(entry).x[:]

    def beside(self, entry: Entry) -> dict[str, Any]:
        """The covariates and the exposure of these items, where there are any and the pair takes them."""
        return chosen.beside_of(entry.pair, self.chosen)

    def given(self, entry: Entry) -> Split:
        """These items with what lies beside them, as an estimator takes both; of a table with what is missing."""
        if self.data.columns is not None:
            return replace(self.chosen, y=None)
        return Split(self.x(entry), **self.beside(entry))

    def are_binarized(self, entry: Entry) -> bool:
        """Whether grey items were made 0 or 1 for this pair."""
        return self.items(entry) is not self._grey

    def few_items(self, entry: Entry) -> Split:
        """The first of these items with what lies beside them, for what takes long."""
        return self.given(entry)[: self.settings.num_ledger_items]

    def training_items(self, entry: Entry) -> Split:
        """Some training items, as this pair takes them."""
        count = TRAINING_ITEMS * self.settings.num_items
        split = chosen.items_of(entry.pair, chosen.part(self.data.train, count, self.seed), self.seed)
        if self.data.columns is not None:
            return split
        return Split(split.x, split.y, **chosen.beside_of(entry.pair, split))

    # estimates --------------------------------------------------------------------------------------

    def elbo(self, entry: Entry) -> Estimate | Refusal:
        """The ELBO of the items, with rate and distortion."""
        pair: Any = entry.pair
        return self.of(entry, "elbo", lambda: pyrovae.elbo(pair, self.given(entry), seed=self.seed))

    def iwae(self, entry: Entry) -> Estimate | Refusal:
        """The importance-weighted bound of the items."""
        pair: Any = entry.pair
        count = self.settings.num_particles
        return self.of(
            entry,
            f"iwae({count})",
            lambda: pyrovae.iwae(pair, self.given(entry), num_particles=count, seed=self.seed),
        )

    def codes(self, entry: Entry) -> Tensor | Refusal:
        """The codes of the items, posterior means: (N, latent_dim)."""
        return self.of(entry, "codes", lambda: pyrovae.encoded(entry.pair, self.given(entry)))

    def reconstructions(self, entry: Entry) -> Tensor | Refusal:
        """The decoded codes of the items: (N, *event_shape)."""
        pair: Any = entry.pair
        codes = self.codes(entry)
        if isinstance(codes, Refusal):
            return codes
        if not hasattr(pair, "decode"):  # what it decodes is more than the code
            return self.of(entry, "reconstructions", lambda: reconstructed(pair, self.given(entry)))
        return self.of(entry, "reconstructions", lambda: pyrovae.decoded(pair, codes, **self.beside(entry)))

    def probabilities(self, entry: Entry) -> Tensor | Refusal:
        """The probabilities of the categories at the codes of the items: (N, *event_shape, C)."""
        pair: Any = entry.pair
        codes = self.codes(entry)
        if isinstance(codes, Refusal):
            return codes
        of = self.beside(entry).get("covariates")
        return self.of(entry, "probabilities", lambda: probabilities_at(pair, codes, covariates=of))

    def reconstruction_error(self, entry: Entry) -> Any:
        """The errors of the reconstructions, a Dataset; or a refusal."""
        if self.data.columns is not None:
            return Refusal("the columns of a table have units of their own or none, and so no squared error in common")
        images = self.reconstructions(entry)
        if isinstance(images, Refusal):
            return images
        return self.of(entry, "reconstruction error", lambda: pyrovae.reconstruction_error(self.x(entry), images))

    def predictions(self, entry: Entry) -> Any:
        """log p(y | x) of the items, a Dataset, of a classifier; or a refusal."""
        if not takes_labels(entry.pair):
            return Refusal(f"a {type(entry.pair).__name__} gives no p(y | x)")
        if self._grey.y is None:
            return Refusal("the data has no labels to compare with")
        return self.of(entry, "predictions", lambda: pyrovae.predictions(entry.pair, self.x(entry), self.labels(entry)))

    def labels(self, entry: Entry) -> Any:
        """The labels of the items as a classifier names its classes, in words or in numbers; None without any."""
        y, classes = self._grey.y, self.data.classes
        names = getattr(entry.pair, "names", None)
        if y is None or names is None or self.knows_places(entry):
            return y
        return as_named(names, y if classes is None else np.array(classes)[y.numpy()])

    def knows_places(self, entry: Entry) -> bool:
        """Whether a classifier's classes are the places of the data set's named ones, as `data.train.y` has them.

        ValueError where they are numbers that may as well be the names.
        """
        names, classes = getattr(entry.pair, "names", None), self.data.classes
        if names is None or classes is None or names.dtype.kind in "US":
            return False
        named = as_named(names, classes)
        can_be_names, can_be_places = named.dtype.kind not in "US", set(range(len(classes))) <= set(names.tolist())
        if can_be_names and can_be_places and named.tolist() != list(range(len(classes))):
            raise ValueError(
                f"its classes are the numbers {_few(names)} and the labels of {self.data.name} the words "
                f"{_few(classes)}: the numbers may be these, or their places among them. Fit it on the words, "
                "numpy.array(data.classes)[data.train.y]"
            )
        return can_be_places and not can_be_names

    def labels_of(self, places: Any) -> list[Any]:
        """The labels of some of the items as words, by their places among them; None of items without one."""
        y, classes = self._grey.y, self.data.classes
        if y is None:
            return [None] * len(places)
        numbers = [int(y[int(place)]) for place in places]
        return [number if classes is None else classes[number] for number in numbers]

    @contextlib.contextmanager
    def timed(self, name: str) -> Any:
        """The time of what is no estimate of one entry."""
        self._say(name)
        began = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began


def _few(names: Iterable[Any]) -> str:
    """The first of some names."""
    words = list(map(str, names))
    return ", ".join(words[:4]) + (", ..." if len(words) > 4 else "")


def _sentence(error: BaseException) -> str:
    """The message of an error as one line; its type where it says nothing."""
    words = " ".join(str(error).split())
    return words or type(error).__name__
