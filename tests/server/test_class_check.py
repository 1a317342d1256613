"""What an operator is told of classes that don't fit its own photos, before merchants pay for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedrec.server.class_check import class_warnings
from tests.support.pictures import picture


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number, name in enumerate(("bottle", "mug", "café")):
        picture(tmp_path / "photos" / name / "0.png", 40 * number)
    return tmp_path / "photos"


@pytest.mark.parametrize(
    ("classes", "told"),
    [
        (("bottle", "mug", "café"), []),
        # Accents as another editor writes them.
        (("bottle", "mug", "cafe\u0301"), []),
        (("botle", "mug", "café"), ["no photo of botle: did you mean 'bottle'", "bottle in eval_data"]),
        (("Bottle", "mug", "café"), ["no photo of Bottle: did you mean 'bottle'", "bottle in eval_data"]),
        (("bottle", "mug", "café", "sofa"), ["no photo of sofa. "]),
        (("bottle", "mug"), ["café in eval_data are no classes"]),
    ],
)
def test_classes_that_the_operators_photos_lack_are_named(
    photos: Path, classes: tuple[str, ...], told: list[str]
) -> None:
    lines = list(class_warnings(classes, photos))
    assert len(lines) == len(told)
    assert all(part in line for part, line in zip(told, lines, strict=True))


def test_without_photos_of_the_operator_nothing_is_compared(tmp_path: Path) -> None:
    assert list(class_warnings(("hat", "mug"), None)) == []
    assert list(class_warnings(("hat", "mug"), tmp_path / "absent")) == []
