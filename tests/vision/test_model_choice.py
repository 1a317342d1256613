"""The name ``best`` stands for a registered model, by the size of the pictures and their colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedrec.errors import ConfigError
from fedrec.vision import model_registry
from fedrec.vision.datasets import open_folder
from fedrec.vision.imageset import ImageSet
from fedrec.vision.model_choice import chosen_model
from tests.support.pictures import picture

PHOTOS, SMALL, GREY = "lite0-lite2-views-head", "lite0-small-head", "scattering-lite0-head"


def in_memory(side: int) -> ImageSet:
    pixels = np.zeros((6, side, side, 1), dtype=np.uint8)
    pixels[:, 0, 0, 0] = np.arange(6)
    return ImageSet.from_arrays(["a", "b"], pixels, np.arange(6) % 2, names=list("abcdef"))


@pytest.mark.parametrize(("side", "expected"), [(28, GREY), (96, GREY), (97, PHOTOS), (224, PHOTOS)])
def test_small_grey_pictures_take_the_head_for_them(side: int, expected: str) -> None:
    assert chosen_model("best", in_memory(side)) == expected


@pytest.mark.parametrize(("side", "expected"), [(32, SMALL), (300, PHOTOS)])
def test_a_folder_is_judged_by_most_of_its_photos_short_sides(
    tmp_path: Path, side: int, expected: str
) -> None:
    for number in range(5):
        picture(tmp_path / "hat" / f"{number}.png", number, size=(side, 2 * side))
    picture(tmp_path / "mug" / "odd.png", 7, size=(400, 20))
    picture(tmp_path / "mug" / "other.png", 8, size=(500, 500))
    assert chosen_model("best", open_folder(tmp_path).train) == expected


def test_whatever_is_chosen_can_be_looked_up_and_other_names_stay() -> None:
    assert chosen_model("best") == PHOTOS
    assert {PHOTOS, SMALL, GREY} <= set(model_registry.names())
    assert chosen_model("cnn", in_memory(300)) == "cnn"


@pytest.mark.parametrize(
    ("name", "side", "expected"),
    [
        ("best", 300, "lite0-lite2-views-discriminant"),
        ("best", 28, "lite0-small-discriminant"),
        ("lite2-views-head", 28, "lite2-views-discriminant"),
        ("lite2-views-discriminant", 28, "lite2-views-discriminant"),
    ],
)
def test_one_round_takes_the_discriminant_of_the_same_networks(name: str, side: int, expected: str) -> None:
    chosen = chosen_model(name, in_memory(side), method="one-round")
    assert chosen == expected
    assert model_registry.is_solved(chosen)
    assert not model_registry.is_solved(chosen_model("best", in_memory(side)))


@pytest.mark.parametrize("name", ["cnn", "own-0123"])
def test_a_model_that_no_round_solves_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is none"):
        chosen_model(name, method="one-round")
