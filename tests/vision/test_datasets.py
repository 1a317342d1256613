from __future__ import annotations

import functools
import hashlib
import io
import operator
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fedrec.clients.plan_resources import load_photos
from fedrec.errors import ConfigError, DataError
from fedrec.protocol.plan import Unit
from fedrec.vision import decoding
from fedrec.vision.datasets import DataSplits, ImageSet, decode, open_folder, open_torchvision, resolve_splits
from fedrec.vision.folders import Layout
from tests.support.cohort import Cohort
from tests.support.pictures import picture

REAL = os.environ.get("FEDREC_TEST_DATA")
needs_data = pytest.mark.skipif(not REAL, reason="FEDREC_TEST_DATA is not set")


def in_memory(count: int, *, first: int = 0) -> ImageSet:
    pixels = np.zeros((count, 2, 2, 3), dtype=np.uint8)
    numbers = np.arange(first, first + count)
    pixels[:, 0, 0, 0], pixels[:, 0, 0, 1] = numbers % 256, numbers // 256
    return ImageSet.from_arrays(["a", "b"], pixels, numbers % 2, names=[str(n) for n in numbers])


def channels(image: Image.Image, at: tuple[int, int]) -> tuple[int, ...]:
    found = image.getpixel(at)
    assert isinstance(found, tuple)
    return found


def names(images: ImageSet | None) -> list[str]:
    assert images is not None
    return [record.name for record in images.records]


def test_class_folders_and_digest(tmp_path: Path) -> None:
    picture(tmp_path / "b" / "two.PNG", 2)
    picture(tmp_path / "a" / "one.bmp", 1)
    picture(tmp_path / "a" / ".hidden.png", 9)
    picture(tmp_path / ".cache" / "x.png", 9)
    (tmp_path / "a" / "notes.txt").write_text("no picture")
    splits = open_folder(tmp_path)
    assert splits.validation is None and splits.test is None
    assert splits.train.classes == ("a", "b") and splits.train.labels.tolist() == [0, 1]
    assert names(splits.train) == ["a/one.bmp", "b/two.PNG"] and not splits.train.skipped
    # The digest, written out: 32-bit width and height, RGB bytes, the label's name.
    content = (6).to_bytes(4, "big") + (4).to_bytes(4, "big") + bytes([1, 10, 200]) * 24 + b"a"
    assert splits.train.records[0].digest == hashlib.sha256(content).digest()
    assert splits.train.image(1).getpixel((0, 0)) == (2, 10, 200)
    assert splits.train.subset([1]).image(0).getpixel((0, 0)) == (2, 10, 200)


def test_splits_with_merchants_and_union_of_classes(tmp_path: Path) -> None:
    for merchant in ("m1", "m2"):
        picture(tmp_path / "train" / merchant / "mug" / "x.png", 1)  # the same photo at two merchants
        picture(tmp_path / "train" / merchant / "hat" / "y.png", ord(merchant[1]))
    picture(tmp_path / "validation" / "shoe" / "z.png", 7)
    (tmp_path / "test").mkdir()
    splits = open_folder(tmp_path)
    assert splits.train.classes == ("hat", "mug", "shoe")
    assert [(r.merchant, r.label) for r in splits.train.records] == [
        ("m1", 0),
        ("m1", 1),
        ("m2", 0),
        ("m2", 1),
    ]
    assert splits.train.duplicates_dropped == 0  # copies count within one merchant alone
    assert splits.validation is not None and splits.validation.labels.tolist() == [2]
    assert splits.test is None


def test_exact_copies_are_dropped_and_the_first_name_stays(tmp_path: Path) -> None:
    for name in ("c.png", "a.bmp", "b.png"):
        picture(tmp_path / "x" / name, 5)
    picture(tmp_path / "y" / "a.png", 5)  # another label: another record
    splits = open_folder(tmp_path)
    assert names(splits.train) == ["x/a.bmp", "y/a.png"] and splits.train.duplicates_dropped == 2


def test_broken_pictures_are_named_and_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MOST_PIXELS", 5000)
    picture(tmp_path / "a" / "good.png", 1)
    picture(tmp_path / "b" / "good.png", 2)
    (tmp_path / "a" / "empty.jpg").write_bytes(b"")
    (tmp_path / "a" / "text.png").write_text("hello")
    whole = picture(tmp_path / "b" / "cut.jpg", 3, size=(64, 64)).read_bytes()
    (tmp_path / "b" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    picture(tmp_path / "b" / "huge.png", 4, size=(100, 100))
    picture(tmp_path / "stray.png", 4)
    splits = open_folder(tmp_path)
    assert names(splits.train) == ["a/good.png", "b/good.png"]
    reasons = {skipped.name: skipped.reason for skipped in splits.train.skipped}
    assert sorted(reasons) == ["a/empty.jpg", "a/text.png", "b/cut.jpg", "b/huge.png", "stray.png"]
    assert all(reason and "\n" not in reason and str(tmp_path) not in reason for reason in reasons.values())
    assert "limit" in reasons["b/huge.png"] and "class folder" in reasons["stray.png"]


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("L", 100, (100, 100, 100)),
        ("1", 1, (255, 255, 255)),
        ("RGBA", (200, 0, 0, 0), (255, 255, 255)),
        ("RGBA", (200, 0, 0, 255), (200, 0, 0)),
        ("RGBA", (0, 0, 0, 128), (127, 127, 127)),
        ("LA", (50, 0), (255, 255, 255)),
        ("I;16", 0x8123, (0x81, 0x81, 0x81)),
        ("I;16", 0xFFFF, (255, 255, 255)),
    ],
)
def test_modes_become_rgb(tmp_path: Path, mode: str, colour: int, expected: tuple[int, int, int]) -> None:
    Image.new(mode, (3, 3), colour).save(tmp_path / "x.png")
    decoded = decode(tmp_path / "x.png")
    assert decoded.mode == "RGB" and decoded.getpixel((1, 1)) == expected


def test_palette_cmyk_and_wrong_suffix(tmp_path: Path) -> None:
    palette = Image.new("RGB", (4, 4), (255, 0, 0)).quantize(4)
    palette.save(tmp_path / "p.png")
    assert decode(tmp_path / "p.png").getpixel((0, 0)) == (255, 0, 0)
    palette.save(tmp_path / "t.png", transparency=palette.getpixel((0, 0)))
    assert decode(tmp_path / "t.png").getpixel((0, 0)) == (255, 255, 255)
    Image.new("CMYK", (8, 8), (0, 0, 0, 255)).save(tmp_path / "c.jpg")
    assert max(channels(decode(tmp_path / "c.jpg"), (0, 0))) < 8
    palette.save(tmp_path / "named.jpg", format="PNG")
    assert decode(tmp_path / "named.jpg").getpixel((0, 0)) == (255, 0, 0)


def test_what_is_no_regular_file_is_named_and_never_opened(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "x.png", 1)
    picture(tmp_path / "b" / "x.png", 2)
    os.mkfifo(tmp_path / "a" / "pipe.jpg")
    (tmp_path / "a" / "to-pipe.png").symlink_to("pipe.jpg")
    (tmp_path / "b" / "nowhere.jpg").symlink_to("absent")
    (tmp_path / "b" / "linked.png").symlink_to(picture(tmp_path / "elsewhere.png", 3))
    # Opening a pipe that nobody writes to would never return.
    train = open_folder(tmp_path).train
    assert names(train) == ["a/x.png", "b/linked.png", "b/x.png"]
    regular = [(skip.name, skip.reason) for skip in train.skipped]
    assert regular == [
        ("a/pipe.jpg", "not a regular file"),
        ("a/to-pipe.png", "not a regular file"),
        ("b/nowhere.jpg", "a link that leads nowhere"),
        ("elsewhere.png", "not in a class folder"),
    ]


@pytest.mark.parametrize(("kind", "head"), [("PSD", b"8BPS\0\1"), ("SVG", b"<svg xmlns='x'></svg>")])
def test_pictures_in_formats_that_are_not_read_are_named(tmp_path: Path, kind: str, head: bytes) -> None:
    picture(tmp_path / "m" / "a" / "x.png", 1)
    picture(tmp_path / "n" / "b" / "x.png", 2)
    (tmp_path / "m" / "b").mkdir()
    (tmp_path / "m" / "b" / "y").write_bytes(head)
    (tmp_path / "m" / "b" / "notes.txt").write_text("no picture")
    (skipped,) = open_folder(tmp_path).train.skipped
    assert (skipped.name, skipped.merchant) == ("m/b/y", "m")
    assert skipped.reason == f"{kind} pictures are not read: save it as JPEG or PNG"


@pytest.mark.parametrize(
    ("kind", "left", "reason"),
    [("JPEG", 0.6, "cut off"), ("PNG", 0.6, "cut off"), ("JPEG", 0.004, "damaged"), ("WEBP", 0.6, "damaged")],
)
def test_a_broken_photo_is_told_in_plain_words(tmp_path: Path, kind: str, left: float, reason: str) -> None:
    for label, shade in (("a", 1), ("b", 2)):
        picture(tmp_path / label / "x.png", shade)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = io.BytesIO()
    Image.fromarray(noise).save(whole, kind)
    (tmp_path / "a" / "y").write_bytes(whole.getvalue()[: max(3, int(left * len(whole.getvalue())))])
    (skipped,) = open_folder(tmp_path).train.skipped
    assert skipped.reason.startswith(f"it is {reason}: copy or download it again")
    assert "Error" not in skipped.reason


def test_an_archive_or_a_photo_in_place_of_a_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "photos.zip").write_bytes(b"PK\3\4" + bytes(40))
    for path, told in (
        (tmp_path / "photos.zip", "is an archive: unpack it, and give a folder"),
        (picture(tmp_path / "one.png", 1), "is a photo, not a folder: give a folder"),
    ):
        with pytest.raises(DataError, match=told):
            open_folder(path)


def test_a_folder_of_nothing_but_such_pictures_says_so(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "y.jpg").write_bytes(b"8BPS")
    with pytest.raises(DataError, match=r"e\.g\. a/y\.jpg: PSD pictures are not read"):
        open_folder(tmp_path)


@pytest.mark.parametrize("suffix", ["gif", "bmp", "jfif"])
def test_the_first_frame_of_an_animation_and_other_endings_are_read(tmp_path: Path, suffix: str) -> None:
    kind = {"gif": "GIF", "bmp": "BMP", "jfif": "JPEG"}[suffix]
    frames = [Image.new("RGB", (6, 4), colour) for colour in ((250, 0, 0), (0, 250, 0))]
    (tmp_path / "a").mkdir()
    extra = {"save_all": True, "append_images": frames[1:]} if suffix == "gif" else {}
    frames[0].save(tmp_path / "a" / f"x.{suffix}", kind, **extra)
    picture(tmp_path / "b" / "x.png", 2)
    image = open_folder(tmp_path).train.image(0)
    red, green, _ = image.getpixel((2, 2))  # type: ignore[misc]
    assert red > 200 and green < 50


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    image = Image.new("RGB", (16, 8), (0, 0, 0))
    image.paste((255, 255, 255), (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise: the left half comes to the top
    image.save(tmp_path / "x.jpg", exif=exif, quality=95)
    decoded = decode(tmp_path / "x.jpg")
    assert decoded.size == (8, 16)
    assert min(channels(decoded, (4, 3))) > 200 > 50 > max(channels(decoded, (4, 12)))


def test_a_file_that_changes_later_is_noticed(tmp_path: Path) -> None:
    path = picture(tmp_path / "a" / "x.png", 1)
    picture(tmp_path / "b" / "x.png", 1)
    train = open_folder(tmp_path).train
    picture(path, 2)
    with pytest.raises(DataError, match="changed"):
        train.image(0)
    path.unlink()
    with pytest.raises(DataError, match="no longer"):
        train.image(0)


def test_unusable_folders_are_one_clear_line(tmp_path: Path) -> None:
    def message(path: Path) -> str:
        with pytest.raises(DataError) as caught:
            open_folder(path)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "does not exist" in message(tmp_path / "none")
    (tmp_path / "file").write_text("")
    assert "not a folder" in message(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    assert "no pictures" in message(tmp_path / "empty")
    picture(tmp_path / "one" / "a" / "x.png", 1)
    assert "one class only" in message(tmp_path / "one")
    (tmp_path / "broken" / "a").mkdir(parents=True)
    (tmp_path / "broken" / "a" / "x.png").write_text("hello")
    assert "a/x.png: called a photo, but its content is none" in message(tmp_path / "broken")


def test_given_classes_rule(tmp_path: Path) -> None:
    picture(tmp_path / "mug" / "x.png", 1)
    picture(tmp_path / "sock" / "x.png", 1)
    train = open_folder(tmp_path, classes=["hat", "mug"]).train
    assert train.classes == ("hat", "mug") and train.labels.tolist() == [1]
    assert [skipped.name for skipped in train.skipped] == ["sock/x.png"]


@pytest.mark.parametrize("unit", ["record", "product"])
def test_another_list_of_classes_is_no_change_of_the_photos(tmp_path: Path, unit: Unit) -> None:
    """A merchant's rule 'changed_data = refuse' is about its photos, not about what a server asks of them."""
    layout: Layout = "product" if unit == "product" else "class"
    for shade, label in enumerate(("hat", "mug", "sock")):
        for number in (0, 1):
            picture(
                tmp_path / label / ("x" if unit == "product" else "") / f"{number}.png", 10 * shade + number
            )
    cohort = Cohort(tmp_path / "cohort", size=1)

    def version(*classes: str) -> set[bytes]:
        plan = cohort.plan(
            model="cnn", classes=classes, image_size=8, unit=unit, min_contributors=1, threshold=0
        )
        data = load_photos(plan, tmp_path, layout=layout, device=torch.device("cpu"))
        assert len(data.labels) == len(classes) * (1 if unit == "product" else 2)
        return set(data.held)

    before = version("hat", "mug", "sock")
    assert version("hat", "mug") == version("mug", "sock") == before
    picture(tmp_path / "sock" / ("x" if unit == "product" else "") / "2.png", 99)
    changed = set(open_folder(tmp_path, classes=("hat", "mug"), layout=layout, unit=unit).held)
    assert changed != before
    # A copy is dropped, so that it changes nothing.
    picture(tmp_path / "sock" / ("x" if unit == "product" else "") / "3.png", 99)
    again = open_folder(tmp_path, classes=("hat", "mug"), layout=layout, unit=unit)
    assert set(again.held) == changed
    assert {skip.reason for skip in again.train.skipped} == {"class sock is not one of this training's"}


def test_which_split_is_measured_on() -> None:
    train, validation, test = in_memory(400), in_memory(20, first=1000), in_memory(30, first=2000)
    both = resolve_splits(DataSplits(train, validation, test), key=b"k")
    assert (both.metrics_split, len(both.metrics), len(both.train)) == ("test", 30, 400)
    assert both.validation is not None and len(both.validation) == 20
    only = resolve_splits(DataSplits(train, validation, None), key=b"k")
    assert (only.metrics_split, len(only.metrics), len(only.train)) == ("validation", 20, 400)
    tested = resolve_splits(DataSplits(train, None, test), key=b"k")
    assert tested.metrics_split == "test" and tested.validation is not None
    assert sorted(names(tested.train) + names(tested.validation), key=int) == names(train)
    bare = resolve_splits(DataSplits(in_memory(4000)), key=b"k")
    assert bare.metrics_split == "holdout" and bare.validation is not None
    parts = [names(bare.train), names(bare.validation), names(bare.metrics)]
    assert sorted(functools.reduce(operator.iadd, parts, []), key=int) == [str(n) for n in range(4000)]
    # 4000 records at 20%, then 10% of the rest; five standard deviations either way.
    assert abs(len(parts[2]) - 800) < 127 and abs(len(parts[1]) - 320) < 87
    assert names(resolve_splits(DataSplits(in_memory(4000)), key=b"other").metrics) != parts[2]


@settings(max_examples=30, deadline=None)
@given(removed=st.integers(0, 79), key=st.binary(min_size=1, max_size=40), shuffle=st.integers(0, 1000))
def test_each_record_is_decided_alone(removed: int, key: bytes, shuffle: int) -> None:
    images = in_memory(80)

    def decisions(indices: np.ndarray) -> dict[str, str]:
        splits = resolve_splits(DataSplits(images.subset(indices)), key=key)
        held = names(splits.validation) if splits.validation else []
        found = dict.fromkeys(names(splits.train), "train") | dict.fromkeys(held, "validation")
        return found | dict.fromkeys(names(splits.metrics), "metrics")

    whole = decisions(np.arange(80))
    order = np.random.default_rng(shuffle).permutation(80)
    without = decisions(order[order != removed])
    del whole[str(removed)]
    assert without == whole


def test_copies_of_training_records_are_not_measured_on() -> None:
    train = in_memory(100)
    test = in_memory(50, first=80)  # 20 copies
    splits = resolve_splits(DataSplits(train, in_memory(10, first=5000), test), key=b"k")
    assert splits.leaked_dropped == 20 and len(splits.metrics) == 30 and len(splits.train) == 100
    with pytest.raises(DataError, match="measure"):
        resolve_splits(DataSplits(train, None, train.subset([])), key=b"k")


def test_torchvision_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cifar10, fashion-mnist"):
        open_torchvision("mnist", tmp_path)
    for name in ("cifar10", "fashion-mnist"):
        with pytest.raises(DataError, match=str(tmp_path)):
            open_torchvision(name, tmp_path, download=False)


@needs_data
def test_fashion_mnist() -> None:
    splits = open_torchvision("fashion-mnist", Path(str(REAL)) / "fashion-mnist", download=False)
    assert splits.test is not None and len(splits.test) == 10_000 and splits.validation is None
    assert len(splits.train) + splits.train.duplicates_dropped == 60_000 and len(splits.train.classes) == 10
    image = splits.train.image(7)
    assert image.mode == "RGB" and image.size == (28, 28)
    content = b"\0\0\0\x1c\0\0\0\x1c" + image.tobytes()
    label = splits.train.classes[splits.train.records[7].label].encode()
    assert hashlib.sha256(content + label).digest() == splits.train.records[7].digest


@needs_data
def test_photos_of_sellers(tmp_path: Path) -> None:
    source = Path(str(REAL)) / "clothing-small"
    for split in ("train", "validation"):
        (tmp_path / split).mkdir()
        for label in ("hat", "skirt"):
            (tmp_path / split / label).symlink_to(source / split / label)
    splits = open_folder(tmp_path)
    assert len(splits.train) == 123 + 112 and not splits.train.skipped
    assert splits.validation is not None and len(splits.validation) == 14 + 12
    assert min(splits.train.image(3).size) == 256
