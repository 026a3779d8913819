"""Folders of images: their parts, classes and pixels, and what is said of all that is not used."""

from __future__ import annotations

import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from pyrovae.data import load
from pyrovae.data.images import kind_of, kinds_of


def grey(value):
    return np.full((2, 3), value, np.uint8)


def layout(root, paths):
    """An image at each path, the i-th of the value i + 1; and what each must read as."""
    for i, path in enumerate(paths):
        file = root / (path if path.rpartition("/")[2].count(".") else f"{path}/{i}.png")
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(grey(i + 1)).save(file)
    return root


def values(split):
    return [round(float(item.max()) * 255) for item in split.x]


def labels(data, split):
    return None if split.y is None else [data.classes[code] for code in split.y.tolist()]


def read(root, *words):
    """The data set, and that a warning with each of the words, and no other, came."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        data = load(root)
    assert len(said) == len(words), [str(one.message) for one in said]
    for one, word in zip(said, words, strict=True):
        assert word in str(one.message) and one.filename == __file__
    return data


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("training", "testing"),
        ("Train", "Test"),
        ("TRAIN", "TEST"),
        ("training_set", "test_set"),
        ("train_images", "test_images"),
        ("images-train", "images-test"),
        ("TrainingSet", "TestSet"),
        ("Training Data", "Testing Data"),
        ("train2017", "test2017"),
        ("TrainingDataset", "TestDataset"),
        ("seg_train", "seg_test"),
        ("my-Train", "my-test"),
        ("cifar10.train", "cifar10.test"),
        ("trainA", "testA"),
    ],
)
def test_parts_are_known_by_many_names(tmp_path, first, second):
    paths = [f"{first}/a", f"{first}/b", f"{first}/b", f"{second}/b", f"{second}/a"]
    data = read(layout(tmp_path, paths))
    assert (values(data.train), labels(data, data.train)) == ([1, 2, 3], ["a", "b", "b"])
    assert (values(data.test), labels(data, data.test)) == ([5, 4], ["a", "b"])
    assert data.classes == ("a", "b")


@pytest.mark.parametrize("second", ["valid", "Validation", "val", "dev", "eval", "validation_images", "holdout"])
def test_a_validation_part_is_the_test_part_where_there_is_no_other(tmp_path, second):
    data = read(layout(tmp_path, ["train/a", "train/b", f"{second}/b"]), f"{second} is taken as the test part")
    assert (values(data.train), values(data.test)) == ([1, 2], [3])
    assert labels(data, data.test) == ["b"]


def test_what_is_not_used_is_named(tmp_path):
    paths = ["train/a", "train/b", "test/a", "test/b", "valid/a", "Dev/a", "extra/a", "extra/b", "preview.png"]
    words = (
        "only train and test are used, and not Dev (1 images), valid (1 images), extra (2 images), 1 images beside them"
    )
    data = read(layout(tmp_path, paths), words)
    assert (values(data.train), values(data.test)) == ([1, 2], [3, 4])


@pytest.mark.parametrize(
    "name", ["trainer", "contest", "testimony", "value", "evaluations", "trains", "data", "x", "übertest"]
)
def test_what_only_resembles_a_part_is_a_class(tmp_path, name):
    assert kind_of(name) is None
    data = read(layout(tmp_path, [f"{name}/1.png", f"{name}/2.png", "other", "other"]))
    assert set(data.classes) == {name, "other"}


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        # a train among buses and cars is a class, or a part
        (["bus", "car", "train"], "holds train, by its name a part of a data set, beside bus, car"),
        (["cat", "dog", "Test"], "holds Test, by its name a part of a data set, beside cat, dog"),
        (["train/a", "1.png"], "holds train, by its name a part of a data set, beside 1.png"),
        (["train/a", "Training/a", "test/a"], "holds several training parts, Training, train"),
        (["train/a", "test/a", "testing/a"], "holds several test parts, test, testing"),
        (["train/a", "val/a", "dev/a"], "holds several validation parts, dev, val"),
        (
            ["cats_train", "dogs_train", "cats_test", "dogs_test"],
            "holds several training parts, cats_train, dogs_train: keep one",
        ),
        (["trainA", "trainB", "testA", "testB"], "if they are classes, move them into .*train"),
        (["test/a", "valid/a"], "holds test, valid and no training part"),
        (["cat/train", "cat/test", "dog/train", "dog/test"], r"cat holds parts of a data set, test, train"),
        (["images/train", "images/val", "masks/train", "masks/val"], "images holds parts of a data set, train, val"),
        (["train/a", "train/1.png", "test/a"], "holds images .1.png, .... and sub-folders"),
    ],
)
def test_what_may_be_read_in_two_ways_is_refused(tmp_path, paths, words):
    with pytest.raises(ValueError, match=words):
        load(layout(tmp_path, paths))


@pytest.mark.parametrize(("part", "file"), [("test", "a.txt"), ("valid", "a.heic")])
def test_a_part_without_an_image_that_is_read_is_refused(tmp_path, part, file):
    layout(tmp_path, ["train/a", "train/b", "val/a"] if part == "test" else ["train/a", "train/b"])
    (tmp_path / part).mkdir()
    (tmp_path / part / file).write_bytes(b"")
    with pytest.raises(ValueError, match=f"{part} holds no images"):
        load(tmp_path)


def test_names_that_hold_a_parts_name_and_differ_in_more_are_classes(tmp_path):
    data = read(layout(tmp_path, ["train_station/1.png", "train_station/2.png", "test_tube", "test_tube"]))
    assert data.classes == ("test_tube", "train_station")
    assert kinds_of(["seg_train", "val_seg", "seg_pred", "test"]) == ["train", "valid", None, "test"]


def test_a_part_within_the_folder_of_its_whole_name_is_no_class(tmp_path):
    paths = ["seg_train/seg_train/a", "seg_train/seg_train/b", "seg_test/seg_test/b", "seg_test/seg_test/a"]
    words = ["not seg_pred (1 images)", "seg_train are taken as the classes", "the folders of"]
    data = read(layout(tmp_path / "labelled", [*paths, "seg_pred/seg_pred"]), *words)
    assert (labels(data, data.train), labels(data, data.test)) == (["a", "b"], ["a", "b"])
    data = read(layout(tmp_path / "bare", ["seg_train/seg_train", "seg_train/seg_train", "seg_test/seg_test"]))
    assert (values(data.train), values(data.test), data.classes) == ([1, 2], [3], None)


def test_images_beside_their_masks_are_named(tmp_path):
    data = read(
        layout(tmp_path, ["images", "images", "masks", "masks"]), "are taken as the classes, images, masks: if only one"
    )
    assert data.classes == ("images", "masks")


def test_a_lone_test_part_is_divided_and_said_so(tmp_path):
    data = read(layout(tmp_path, ["Test/a", "Test/b", "Test/b"]), "Test is the only part, and is divided")
    assert (len(data.train), len(data.test), data.classes) == (2, 1, ("a", "b"))


@pytest.mark.parametrize("above", ["set", "archive/set", "a/b/c"])
def test_parts_may_lie_deeper(tmp_path, above):
    paths = [f"{above}/{path}" for path in ("Train/a", "Train/b", "Test/b")]
    data = read(layout(tmp_path, paths))
    assert (values(data.train), labels(data, data.train)) == ([1, 2], ["a", "b"])
    assert (values(data.test), labels(data, data.test)) == ([3], ["b"])


def test_classes_may_lie_deeper(tmp_path):
    paths = ["animals/pets/cat", "animals/pets/cat", "animals/pets/dog", "animals/pets/dog"]
    data = read(layout(tmp_path / "one", paths), "the folders of ")
    assert data.classes == ("cat", "dog")
    assert [values(part)[i] > 2 for part in (data.train, data.test) for i in range(len(part))] == [
        name == "dog" for part in (data.train, data.test) for name in labels(data, part)
    ]
    paths = ["train/images/cat", "train/images/dog", "test/images/dog", "test/images/cat"]
    data = read(
        layout(tmp_path / "two", paths), "train/images are taken as the classes", "test/images are taken as the classes"
    )
    assert (labels(data, data.train), labels(data, data.test)) == (["cat", "dog"], ["cat", "dog"])
    assert (values(data.train), values(data.test)) == ([1, 2], [4, 3])


def test_a_part_within_the_part_of_its_name_is_no_class(tmp_path):
    data = read(layout(tmp_path, ["train/train", "train/train", "test/test"]))
    assert (values(data.train), values(data.test), data.train.y, data.classes) == ([1, 2], [3], None, None)


def test_one_class_alone_and_folders_within_classes_are_named(tmp_path):
    data = read(layout(tmp_path / "one", ["images/1.png", "images/2.png"]), "are of one class, 'images'")
    assert data.classes == ("images",)
    paths = ["animal/cat", "animal/dog", "plant/rose", "plant/oak"]
    data = read(layout(tmp_path / "two", paths), "animal holds only folders, cat, dog: all of their images count")
    assert data.classes == ("animal", "plant")
    # one folder in each is no second level
    assert read(layout(tmp_path / "three", ["cat/images", "dog/images", "dog/more.png"])).classes == ("cat", "dog")


def test_classes_that_only_the_test_part_has_are_named(tmp_path):
    # as where a part has all of its images in one folder
    data = read(layout(tmp_path, ["train/a", "train/b", "test/images"]), "has no image: images")
    assert labels(data, data.test) == ["images"]


def test_files_of_formats_that_are_not_read_are_named(tmp_path):
    layout(tmp_path, ["cat/1.png", "dog/2.png", "dog/3.png"])
    (tmp_path / "cat" / "4.heic").write_bytes(b"")
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    read(tmp_path, "1 files below")
    (tmp_path / "cat" / "4.heic").unlink()
    (tmp_path / "bird").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "bird" / "5.npz").write_bytes(b"")
    assert read(tmp_path, "bird in").classes == ("cat", "dog")


def test_hidden_files_and_folders_never_count(tmp_path):
    layout(tmp_path, ["train/a", "train/b", "test/a"])
    for folder in (tmp_path, tmp_path / "train", tmp_path / "train" / "a", tmp_path / "test"):
        for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._0.png", ".hidden.png"):
            (folder / name).write_bytes(b"no image")
        layout(folder, ["__MACOSX/train/a/._0.png", ".ipynb_checkpoints/0-checkpoint.png", ".cache/valid"])
    data = read(tmp_path)
    assert (values(data.train), values(data.test), data.classes) == ([1, 2], [3], ("a", "b"))


def test_hidden_files_beside_idx_files_do_not_count(tmp_path):
    for name, array in (("train-images", np.zeros((3, 2, 2), np.uint8)), ("Test-Images", np.ones((1, 2, 2), np.uint8))):
        head = struct.pack(">HBB3I", 0, 8, 3, *array.shape)
        (tmp_path / f"{name}-idx3-ubyte").write_bytes(head + array.tobytes())
        (tmp_path / f"._{name}-idx3-ubyte").write_bytes(b"\0\5\x16\7")
    (tmp_path / ".DS_Store").write_bytes(b"")
    with pytest.warns(UserWarning, match="uint8 with no value over 1"):
        data = load(tmp_path)
    assert (len(data.train), len(data.test)) == (3, 1)


def test_links_are_followed_and_loops_refused(tmp_path):
    layout(tmp_path / "store", ["x/1.png", "x/2.png"])
    layout(tmp_path / "set", ["a/3.png", "b/4.png"])
    (tmp_path / "set" / "a" / "more").symlink_to(tmp_path / "store" / "x", target_is_directory=True)
    (tmp_path / "set" / "c").symlink_to(tmp_path / "store" / "x", target_is_directory=True)
    data = read(tmp_path / "set")
    assert len(data.train) + len(data.test) == 6 and data.classes == ("a", "b", "c")
    (tmp_path / "set" / "b" / "up").symlink_to(tmp_path / "set", target_is_directory=True)
    with pytest.raises(ValueError, match=r"up is a link to .*set, which holds it: remove the link"):
        load(tmp_path / "set")
    (tmp_path / "set" / "b" / "up").unlink()
    (tmp_path / "set" / "b" / "5.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(ValueError, match=r"5.png is a link to a file that does not exist"):
        load(tmp_path / "set")


def test_classes_are_numbered_in_the_order_of_strings(tmp_path):
    data = read(layout(tmp_path, ["10", "9", "2", "B", "a", "é"]))
    assert data.classes == ("10", "2", "9", "B", "a", "é")


# pixels -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "lzw.tif"])
def test_an_image_is_turned_as_its_orientation_says(tmp_path, suffix):
    # 8 ways to store one picture; TIFF, which Pillow turns by itself, is not turned twice
    picture = np.repeat(np.repeat(np.array([[0, 80, 160], [240, 40, 120]], np.uint8), 16, 0), 16, 1)
    stored = {
        1: picture,
        2: picture[:, ::-1],
        3: picture[::-1, ::-1],
        4: picture[::-1],
        5: picture.T,
        6: picture.T[::-1],
        7: picture.T[::-1, ::-1],
        8: picture.T[:, ::-1],
    }
    more = {"jpg": {"quality": 100}, "webp": {"lossless": True}, "lzw.tif": {"compression": "tiff_lzw"}}
    for orientation, array in stored.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        image = Image.fromarray(np.ascontiguousarray(array))
        image = image.convert("RGB") if suffix == "webp" else image
        image.save(tmp_path / f"{orientation}.{suffix}", exif=exif, **more.get(suffix, {}))
    data = read(tmp_path)
    assert data.event_shape[1:] == picture.shape
    for item in (*data.train.x, *data.test.x):
        assert np.abs(item[0].numpy() * 255 - picture).max() <= (2 if suffix == "jpg" else 1e-4)


def by_palette(array, colours):
    image = Image.fromarray(array).convert("P")
    image.putdata(array.flatten().tolist())
    image.putpalette(np.asarray(colours, np.uint8).flatten().tolist())
    return image


@pytest.mark.parametrize("order", ["grey first", "colour first"])
def test_a_palette_that_shows_only_grey_goes_with_those_that_show_colours(tmp_path, order):
    indices = np.array([[0, 1], [1, 0]], np.uint8)
    plain, coloured = by_palette(indices, [(0, 0, 0), (51, 51, 51)]), by_palette(indices, [(0, 0, 0), (255, 0, 51)])
    first, second = (plain, coloured) if order == "grey first" else (coloured, plain)
    for part, images in (("train", (first, first, second)), ("test", (second, first))):
        (tmp_path / part).mkdir()
        for i, image in enumerate(images):
            image.save(tmp_path / part / f"{i}.png")
    data = read(tmp_path)
    assert data.event_shape == (3, 2, 2)
    one = [data.train.x[i][:, 0, 1].tolist() for i in (0, 2)]
    if order == "colour first":
        one.reverse()
    assert one == [pytest.approx([0.2, 0.2, 0.2]), pytest.approx([1, 0, 0.2])]
    # an image that is grey by its mode is of another kind
    Image.fromarray(grey(1)[:2, :2]).save(tmp_path / "test" / "2.png")
    with pytest.raises(ValueError, match="must have one size and mode"):
        load(tmp_path)


def test_several_channels_of_16_bits_are_named(tmp_path):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = b"\0" + np.array([[65535, 257 * 51, 0]], ">u2").tobytes()
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0))
    png += chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(png)
    data = read(tmp_path, "3 images have several channels of 16 bits")
    assert data.train.x[0].flatten().tolist() == pytest.approx([1, 0.2, 0])


# archives of arrays -------------------------------------------------------------------------------


def test_parts_of_an_archive_are_known_by_many_names_and_none_is_dropped_in_silence(tmp_path):
    x = {name: np.full((n, 2), n, np.float32) for name, n in (("train", 2), ("val", 3), ("test", 4))}

    def read_archive(*words, **arrays):
        np.savez(tmp_path / "set.npz", **arrays)
        data = read(tmp_path / "set.npz", *words)
        return len(data.train), len(data.test)

    y = np.arange(2)
    assert read_archive(X_train=x["train"], Y_train=y, X_test=x["test"], Y_test=np.arange(4)) == (2, 4)
    assert read_archive(training_images=x["train"], testing_images=x["test"]) == (2, 4)
    named = "'val_images' are not used, only 'train_images', 'test_images'"
    arrays = {f"{name}_images": values for name, values in x.items()}
    assert read_archive(named, **arrays) == (2, 4)
    assert read_archive("'x_val' is taken as the test part", x_train=x["train"], x_val=x["val"]) == (2, 3)
    assert read_archive("'x_test' are not used, only 'x'", x=np.zeros((5, 2)), x_test=x["test"]) == (4, 1)
    assert read_archive(x=np.zeros((5, 2)), feature_names=np.array(["a", "b"])) == (4, 1)
