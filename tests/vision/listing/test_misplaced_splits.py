"""Folders named like splits, where none are read: what is for a test is never trained on without a word."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedrec.errors import DataError
from fedrec.vision.folders import Layout
from fedrec.vision.listing.found_encoding import folders_advice
from fedrec.vision.listing.photo_listing import list_folder
from fedrec.vision.listing.photo_places import PhotoPlace, list_photos
from fedrec.vision.listing.split_names import like_split
from tests.support.pictures import picture

LOW = "look like splits that hold classes without a folder for each product: read them with layout class"
FLAT = "look like splits without class folders in them"
ELSEWHERE = "look like splits in a place where none are read"
UNEQUAL = r"have a train folder: A; .*no train folder: B"


def photos(root: Path, folders: str) -> Path:
    for shade, folder in enumerate(folders.split()):
        picture(root / folder / "a.png", shade)
    return root


@pytest.mark.parametrize(
    ("layout", "one_merchant", "folders", "problem"),
    [
        ("product", None, "train/shoe test/shoe", LOW),
        ("product", None, "Training/shoe VAL/hat annotations/x", LOW),
        ("product", None, "train/shoe query/shoe gallery/hat", LOW),
        ("product", None, "valid/shoe test/shoe", LOW),
        ("product", None, "train/shoe test/hat misc/x", LOW),
        ("product", None, "train test/shoe", LOW),
        ("product", None, "data/all/train/shoe data/all/dev/shoe", LOW),
        ("product", None, "A/train/shoe A/test/shoe", LOW),
        ("product", None, "A/train/shoe A/test/shoe B/train/shoe B/test/shoe", LOW),
        ("product", False, "A/train/shoe A/test/shoe B/hat/h1 B/mug/m1", LOW),
        ("product", False, "A/images/train/shoe A/images/test/shoe B/mug/m1", LOW),
        ("product", None, "shoe/train shoe/test hat/train hat/test", FLAT),
        ("class", None, "train test", FLAT),
        ("class", None, "cars_train cars_test devices", FLAT),
        ("class", None, "train valid test devices", FLAT),
        ("class", None, "A/train A/test B/train B/test", FLAT),
        ("class", None, "shoe/Train shoe/Test hat/Train hat/Test", FLAT),
        ("class", True, "A/train/shoe A/test/shoe B/train/hat B/test/hat", ELSEWHERE),
        ("class", False, "A/val/shoe A/test/shoe B/val/hat B/test/hat", ELSEWHERE),
        ("class", False, "A/train/shoe A/train/hat B/test/shoe B/test/hat", UNEQUAL),
        ("class", False, "A/train/shoe A/train/hat B/Val/shoe B/test/hat", UNEQUAL),
        ("product", False, "A/train/shoe B/test/shoe", UNEQUAL),
        ("product", False, "A/train/shoe/p B/test/shoe/p", UNEQUAL),
    ],
)
def test_splits_that_are_not_where_they_are_read_are_refused(
    tmp_path: Path, layout: Layout, one_merchant: bool | None, folders: str, problem: str
) -> None:
    photos(tmp_path, folders)
    for one in (False, True) if one_merchant is None else (one_merchant,):
        with pytest.raises(DataError, match=problem) as caught:
            list_folder(tmp_path, layout=layout, one_merchant=one)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("layout", "folders", "classes"),
    [
        ("product", "train/1 bus/1 car/1", "train bus car"),
        ("product", "train/1", "train"),
        ("product", "A/train/1 A/bus/1 B/train/1 B/car/1", "train bus car"),
        ("class", "train bus test", "train bus test"),
        ("class", "A/train A/hat B/test B/mug", "train hat test mug"),
        ("product", "train/hat/1 train/mug/1 test/hat/2", "hat mug"),
        ("product", "A/train/hat/1 A/test/hat/2 B/train/mug/1", "hat mug"),
        ("class", "train/hat train/mug query/bag", "hat mug"),
        ("class", "trucks_train trucks", "trucks_train trucks"),
    ],
)
def test_classes_named_like_a_split_and_splits_in_their_place_are_read(
    tmp_path: Path, layout: Layout, folders: str, classes: str
) -> None:
    found = list_folder(photos(tmp_path, folders), layout=layout).splits["train"].pictures
    assert {photo.label for photo in found} == set(classes.split())


def test_a_setting_of_the_class_folders_stands_and_a_check_says_what_they_look_like(tmp_path: Path) -> None:
    place = PhotoPlace(photos(tmp_path, "train/1 test/2"), class_folders=(".",))
    assert len(list_photos(place, layout="product", one_merchant=True).pictures) == 2
    advice = folders_advice(place, layout="product")
    assert advice is not None and LOW in advice and "as client.toml says" in advice


def test_folders_for_a_search_are_told_by_any_usual_name() -> None:
    assert {like_split(name) for name in ("Query", "gallery", "query_images", "probe2")} == {"compared"}
    assert like_split("Dev Set") == "validation" and like_split("galleries of art") is None
