"""Folders of images: the files that are images, the part and the class of each, and their pixels."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from pyrovae import checks
from pyrovae.data.limits import PIXELS, decoded
from pyrovae.hidden import visible
from pyrovae.listed import listed

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["ImagePart", "kind_of", "kinds_of", "read_folder"]

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
# formats that are not read: a warning names such files
UNREAD = (
    *(".heic", ".heif", ".avif", ".jp2", ".j2k", ".jfif", ".jpe", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".pcx"),
    *(".svg", ".psd", ".dcm", ".exr", ".hdr", ".raw", ".nef", ".cr2", ".dng", ".arw", ".ico"),
)
Kind = Literal["train", "test", "valid"]
KINDS: dict[Kind, str] = {
    "train": "train|training|trn|trainval",
    "test": "test|testing|tests|tst",
    "valid": "valid|validation|val|validate|dev|devel|development|eval|evaluation|holdout|heldout",
}
GLUED = "sets?|data|datasets?|images?|imgs?"  # as in "trainset"
BESIDE = re.compile(rf"{GLUED}|pics|pictures?|photos?|labels?|targets?|splits?|parts?|folder|dir|x|y")
IMAGE_FOLDER = "images?|imgs?|jpegimages|pics|pictures?|photos?"  # names of folders that are not classes
WORDS: dict[Kind, str] = {"train": "training", "test": "test", "valid": "validation"}


@dataclass(frozen=True)
class ImagePart:
    """The images of one part: their folder, pixels (N, C, H, W) as float32 in [0, 1], and the class of each."""

    folder: Path
    pixels: np.ndarray
    classes: list[str] | None


def kind_of(name: str) -> Kind | None:
    """The part of a data set that a name denotes, in any case and with additional words such as "set" or "images".

    >>> from pyrovae.data.images import kind_of
    >>> [kind_of(name) for name in ("Train", "TESTING", "validation_set", "train-images", "val2017", "trainer")]
    ['train', 'test', 'valid', 'train', 'valid', None]
    """
    kind, others = _read_name(name)
    return kind if all(BESIDE.fullmatch(word) for word in others) else None


def kinds_of(names: Sequence[str]) -> list[Kind | None]:
    """The part that each of the names in one folder denotes; names that differ only in the part denote parts too.

    >>> from pyrovae.data.images import kinds_of
    >>> kinds_of(["seg_train", "seg_test", "seg_pred"]), kinds_of(["train_station", "test_tube"])
    (['train', 'test', None], [None, None])
    """
    read = [_read_name(name) for name in names]
    of_others: dict[tuple[str, ...], set[Kind]] = {}
    for kind, others in read:
        if kind is not None:
            of_others.setdefault(others, set()).add(kind)
    return [
        kind if kind is not None and len(of_others[others]) > 1 else kind_of(name)
        for name, (kind, others) in zip(names, read, strict=True)
    ]


def _read_name(name: str) -> tuple[Kind | None, tuple[str, ...]]:
    """The part that a word of the name denotes, None if no word or several do; and the other words of the name."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)  # trainA
    words = [word for word in re.split(r"[\W\d_]+", spaced.lower()) if word]
    by_word = {
        i: kind
        for i, word in enumerate(words)
        for kind, own in KINDS.items()
        if re.fullmatch(rf"(?:{own})(?:{GLUED})?", word)
    }
    kind = next(iter(by_word.values())) if len(by_word) == 1 else None
    return kind, tuple(word for i, word in enumerate(words) if i not in by_word)


def read_folder(root: Path) -> list[ImagePart]:
    """The single part, or the training and the test part, of a folder of images."""
    parts = [_in_part(folder, kind) for folder, kind in _parts(_looked_through(root))]
    found = [_classes(folder) for folder in parts]
    _say_classes(parts, found)
    _say_left_out(parts)
    return _read(parts, found)


# which folders ------------------------------------------------------------------------------------


@dataclass
class _Folder:
    """A folder with its images, and with its sub-folders that contain images at any depth."""

    path: Path
    images: list[Path] = field(default_factory=list)
    folders: list[_Folder] = field(default_factory=list)
    without: list[_Folder] = field(default_factory=list)  # sub-folders without images
    others: list[Path] = field(default_factory=list)  # files that are not images
    kind: Kind | None = None  # the part that its name denotes, given the names in the same folder

    @property
    def name(self) -> str:
        return self.path.name

    def all(self) -> Iterator[_Folder]:
        yield self
        for folder in (*self.folders, *self.without):
            yield from folder.all()

    def files(self) -> list[Path]:
        """All images in the folder at any depth, sorted by path."""
        below = [path for folder in self.all() for path in folder.images]
        return sorted(below, key=lambda path: path.relative_to(self.path).as_posix())


def _looked_through(path: Path, above: tuple[Path, ...] = ()) -> _Folder:
    """A folder and its contents at any depth, following links and ignoring hidden files and folders."""
    real, top = path.resolve(), _Folder(path)
    if real in above:
        raise ValueError(f"{path} is a link to {real}, which holds it: remove the link")
    for entry in visible(path):
        if entry.is_dir():
            folder = _looked_through(entry, (*above, real))
            (top.folders if folder.images or folder.folders else top.without).append(folder)
        elif entry.suffix.lower() in IMAGES:
            if not entry.exists():
                raise ValueError(f"{entry} is a link to a file that does not exist: remove it, or bring the file back")
            top.images.append(entry)
        elif entry.is_file():
            top.others.append(entry)
    below = [*top.folders, *top.without]
    for folder, kind in zip(below, kinds_of([folder.name for folder in below]), strict=True):
        folder.kind = kind
    return top


def _parts(root: _Folder) -> list[tuple[_Folder, Kind | None]]:
    """The folders of the parts and the part of each; the root with None if the data set has no parts."""
    below = root
    while not any(folder.kind for folder in below.folders) and not below.images and len(below.folders) == 1:
        (below,) = below.folders
    if any(folder.kind for folder in below.folders):  # descend through folders that are the only one in their folder
        root = below
    by_kind: dict[Kind, list[_Folder]] = {kind: [] for kind in KINDS}
    rest: list[_Folder] = []
    for folder in root.folders:
        (rest if folder.kind is None else by_kind[folder.kind]).append(folder)
    train, test, valid = by_kind.values()
    if not (train or test or valid):
        _refuse_parts_in_classes(root)
        return [(root, None)]
    for kind, folders in by_kind.items():
        if len(folders) > 1 and not (kind == "valid" and test):
            raise ValueError(
                f"{root.path} holds several {WORDS[kind]} parts, {_named(folders)}: keep one, or join them; if they "
                f"are classes, move them into {root.path / kind}"
            )
    is_split = bool(train and (test or valid))
    if not is_split and (rest or root.images):
        beside = _named(rest) if rest else root.images[0].name
        raise ValueError(
            f"{root.path} holds {_named([*train, *test, *valid])}, by its name a part of a data set, beside {beside}: "
            f"if it is a class, give it another name; if not, move the rest into {root.path / 'train'}, or load "
            f"{(train or test or valid)[0].path} alone"
        )
    empty = [folder for folder in root.without if folder.kind in ("train", "test") or (folder.kind and _unread(folder))]
    if empty:
        raise ValueError(f"{empty[0].path} holds no images ({', '.join(IMAGES)}), and is by its name a part")
    if not train and test and valid:
        raise ValueError(f"{root.path} holds {_named([*test, *valid])} and no training part: load one of them alone")
    if not is_split:
        (alone,) = (*train, *test, *valid)
        if not train:
            checks.warn(f"{alone.path} is the only part, and is divided into a training and a test part")
        return [(alone, alone.kind)]
    second, unused = (test[0], [*valid, *rest]) if test else (valid[0], rest)
    if not test:
        checks.warn(f"{second.path} is taken as the test part: there is no other")
    if unused or root.images:
        counts = [f"{folder.name} ({len(folder.files()):,} images)" for folder in unused]
        counts += [f"{len(root.images):,} images beside them"] if root.images else []
        checks.warn(f"of {root.path} only {train[0].name} and {second.name} are used, and not {', '.join(counts)}")
    return [(train[0], "train"), (second, second.kind)]


def _refuse_parts_in_classes(root: _Folder) -> None:
    """Refuse class folders with parts inside, whose parts would otherwise be merged."""
    for folder in root.folders:
        if not folder.images and folder.folders and all(one.kind for one in folder.folders):
            raise ValueError(
                f"{folder.path} holds parts of a data set, {_named(folder.folders)}, and is not one itself: move each "
                f"to where the part comes first, {folder.folders[0].name}/{folder.name}, or load {folder.path} alone"
            )


def _in_part(folder: _Folder, kind: Kind | None) -> _Folder:
    """The folder with a part's images or class folders, below folders that are the only one in their folder."""
    start = folder
    while not folder.images and len(folder.folders) == 1:
        (only,) = folder.folders
        if only.images and not (kind and (only.kind == kind or only.name == folder.name)):  # train/train is not a class
            break
        folder = only
    if folder is not start and not folder.images:
        checks.warn(f"the folders of {folder.path} are taken as the classes: it is alone in its folder")
    return folder


def _classes(folder: _Folder) -> dict[str | None, list[Path]]:
    """The images of each class folder by its name, or those of the folder itself under None."""
    if folder.images and folder.folders:
        raise ValueError(
            f"{folder.path} holds images ({folder.images[0].name}, ...) and sub-folders of images "
            f"({folder.folders[0].name}, ...); move them all into sub-folders, one per class, or all into one folder"
        )
    if not folder.images and not folder.folders:
        raise ValueError(f"{folder.path} holds no IDX files and no images ({', '.join(IMAGES)})")
    if folder.images:
        return {None: folder.images}
    nested = [one for one in folder.folders if not one.images and len(one.folders) > 1]
    if nested:
        checks.warn(
            f"{nested[0].path} holds only folders, {_named(nested[0].folders)}: all of their images count as the class "
            f"{nested[0].name!r}. Move these folders up if they are the classes"
        )
    beside = [one for one in folder.folders if not re.fullmatch(IMAGE_FOLDER, one.name, re.IGNORECASE)]
    if beside and len(beside) < len(folder.folders):  # images and masks
        checks.warn(
            f"the folders of {folder.path} are taken as the classes, {_named(folder.folders)}: if only one holds the "
            "items, load it alone"
        )
    return {one.name: one.files() for one in folder.folders}


def _say_classes(parts: Sequence[_Folder], found: Sequence[dict[str | None, list[Path]]]) -> None:
    names = {name for classes in found for name in classes if name is not None}
    if len(names) == 1 and all(None not in classes for classes in found):
        (name,) = names
        checks.warn(
            f"all images below {parts[0].path} are of one class, {name!r}: load that folder itself to have no labels"
        )
    if len(found) == 2 and None not in found[0] and None not in found[1]:
        unseen = [str(name) for name in found[1] if name not in found[0]]
        if unseen:
            checks.warn(f"{parts[1].path} has classes of which {parts[0].path} has no image: {listed(unseen)}")


def _say_left_out(parts: Sequence[_Folder]) -> None:
    """Warn of files that look like items and are not read."""
    for part in parts:
        unread = _unread(part)
        if unread:
            checks.warn(
                f"{len(unread):,} files below {part.path} are left out, {unread[0]} the first: images are read from "
                f"{', '.join(IMAGES)}"
            )
        empty = [one for one in part.without if any(below.others for below in one.all()) and not unread]
        if empty and not part.images:
            checks.warn(f"{_named(empty)} in {part.path} hold files but no image, and are left out")


def _unread(folder: _Folder) -> list[Path]:
    """The images in the folder, at any depth, in formats that are not read."""
    return [path for one in folder.all() for path in one.others if path.suffix.lower() in UNREAD]


def _named(folders: Sequence[_Folder]) -> str:
    return listed([folder.name for folder in folders])


# their pixels -------------------------------------------------------------------------------------


def _read(parts: Sequence[_Folder], found: Sequence[dict[str | None, list[Path]]]) -> list[ImagePart]:
    first: Path | None = None
    shape: tuple[int, ...] = ()
    count = sum(len(paths) for classes in found for paths in classes.values())
    may_grow = True  # whether the images so far are grey by a palette: later ones may then have colours
    read: list[np.ndarray] = []
    cut: list[Path] = []
    for classes in found:
        files = [file for paths in classes.values() for file in paths]
        for i, file in enumerate(files):
            image, by_palette, was_cut = _image(file)
            cut += [file] if was_cut else []
            if first is None:
                first, shape = file, image.shape
                needed = count * image.size * image.itemsize
                checks.affordable(
                    f"{count:,} images of {_size(shape)}", needed, "make them smaller, or load fewer of them"
                )
            if image.shape[0] < shape[0] and by_palette:
                image = np.repeat(image, 3, axis=0)
            elif image.shape[0] > shape[0] and may_grow:
                read = [np.repeat(x, 3, axis=1) for x in read]
                shape = (3, *shape[1:])
            if image.shape != shape:
                raise ValueError(
                    f"images must have one size and mode: {file} is {_size(image.shape)}, {first} is {_size(shape)}"
                )
            may_grow = may_grow and (by_palette or shape[0] == 3)
            if i == 0:
                read.append(np.empty((len(files), *shape), np.float32))
            read[-1][i] = image
    if cut:
        checks.warn(
            f"{len(cut):,} images have several channels of 16 bits, {cut[0]} the first, of which the upper 8 are read: "
            "save them as .npy to keep all"
        )
    named = [[str(name) for name, paths in each.items() for _ in paths] if None not in each else None for each in found]
    return [ImagePart(part.path, x, names) for part, x, names in zip(parts, read, named, strict=True)]


def _size(shape: tuple[int, ...]) -> str:
    channels, height, width = shape
    return f"{'grey' if channels == 1 else 'colour'}, {width} x {height}"


def _image(file: Path) -> tuple[np.ndarray, bool, bool]:
    """An upright image, float32 in [0, 1], (1 or 3, height, width); whether it has a palette; whether cut to 8 bits."""
    with decoded(f"{file} cannot be read as an image", "; replace or remove it"):
        image, frames, stored = _opened(file)
    if frames != 1:
        raise ValueError(f"{file} must hold one image, got {frames} frames; save each as a file of its own")
    if image.mode in ("I", "F"):
        raise ValueError(f"{file} has pixels of mode {image.mode}, of unknown range; save it with 8 bits, or as .npy")
    with decoded(f"{file} cannot be read as an image", "; replace or remove it"):
        pixels, by_palette = _values(image)
        is_opaque = image.mode.startswith("I;16") or _is_opaque(image)
    if not is_opaque:
        raise ValueError(f"{file} has transparent pixels, which have no value; lay it on a background first")
    cut = re.search(r"(?:RGB[AX]?|LA|CMYK);16", stored) is not None  # Pillow reads such pixels with 8 bits
    return pixels, by_palette, cut


def _opened(file: Path) -> tuple[Image, int, str]:
    """An upright image, how many it is one of, and how the file stores its pixels."""
    from PIL import Image, ImageOps

    # as an open file: an uncompressed TIFF that Pillow maps by its name is garbled when rotated
    with file.open("rb") as content, Image.open(content, formats=FORMATS) as opened:
        frames, stored = getattr(opened, "n_frames", 1), str(getattr(opened, "tile", ""))
        width, height = opened.size
        if width * height > PIXELS:
            raise ValueError(f"it has {width:,} x {height:,} pixels, and at most {PIXELS:,} are read; make it smaller")
        opened.load()
    if opened.getexif().get(ORIENTATION, 1) != 1:
        return ImageOps.exif_transpose(opened), frames, stored  # upright, as image viewers show it
    return opened, frames, stored


def _is_opaque(image: Image) -> bool:
    return not image.has_transparency_data or image.convert("RGBA").getchannel("A").getextrema() == (255, 255)


def _values(image: Image) -> tuple[np.ndarray, bool]:
    """The pixels, float32 in [0, 1], (1 or 3, height, width), and whether they go by a palette."""
    if image.mode.startswith("I;16"):
        return np.asarray(image, dtype=np.float32)[None] / 65535, False
    if image.mode in ("1", "L", "LA"):
        return np.asarray(image.convert("L"), dtype=np.float32)[None] / 255, False
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32).transpose(2, 0, 1) / 255
    # a grey GIF has a palette too
    by_palette = image.mode in ("P", "PA")
    return (pixels[:1] if by_palette and bool((pixels == pixels[:1]).all()) else pixels), by_palette


ORIENTATION = 0x0112  # the EXIF tag
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP")  # whatever a file is called: others may start programs
