"""A collage is taken apart at its straight lines, and a part of it that shows a photo's middle is a copy."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageOps

from fedrec.recognition.copies.decision import Asked, match
from fedrec.recognition.copies.prints import luminance_of, make_print
from fedrec.recognition.copies.proposals import parts_of
from fedrec.recognition.copies.seams import Cell, Seams, seams_of
from tests.recognition.quality.test_measures import texture
from tests.support.real_photos import clothing_photos


def soft(seed: int, *, width: int, height: int) -> Image.Image:
    """A smooth picture of its own brightness."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 4), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).convert("RGB")


def pasted(size: tuple[int, int], parts: dict[Cell, Image.Image], *, ground: str = "white") -> Image.Image:
    made = Image.new("RGB", size, ground)
    for cell, part in parts.items():
        made.paste(part.resize((cell.right - cell.left, cell.bottom - cell.top)), (cell.left, cell.top))
    return made


GRIDS = {
    "two": [Cell(0, 0, 150, 200), Cell(150, 0, 300, 200)],
    "three with gaps": [Cell(0, 0, 95, 200), Cell(103, 0, 197, 200), Cell(205, 0, 300, 200)],
    "one above two": [Cell(0, 0, 300, 90), Cell(0, 90, 140, 200), Cell(140, 90, 300, 200)],
    "framed": [Cell(20, 20, 280, 180)],
}


@pytest.mark.parametrize("name", GRIDS)
def test_the_pictures_of_a_collage_are_found(name: str) -> None:
    cells = GRIDS[name]
    parts = {cell: soft(seed + 20, width=90, height=90) for seed, cell in enumerate(cells)}
    found = seams_of(luminance_of(pasted((300, 200), parts, ground="#d02090")))
    assert found.any and len(found.cells) == len(cells)
    for one, cell in zip(sorted(found.cells, key=lambda c: (c.top > 50, c.left)), cells, strict=True):
        assert one.common(cell) > 0.95


@pytest.mark.parametrize("size", [(1, 1), (400, 16), (16, 400), (40, 40)])
def test_a_picture_without_lines_has_no_seams(size: tuple[int, int]) -> None:
    width, height = size
    assert seams_of(np.zeros((height, width), np.uint8)) == Seams((), any=False)
    noise = np.random.default_rng(0).integers(0, 256, (height, width), dtype=np.uint8)
    assert seams_of(noise) == Seams((), any=False)


def test_few_real_photos_have_parts() -> None:
    photos = [luminance_of(Image.open(path)) for path in clothing_photos("validation")[::8]]
    found = [seams_of(photo) for photo in photos]
    assert np.mean([len(one.cells) > 1 for one in found]) < 0.2 and np.mean([one.any for one in found]) < 0.6


def test_parts_are_cut_where_there_is_a_line_alone_and_none_twice() -> None:
    photo = soft(1, width=300, height=200)
    assert parts_of(photo, Seams((), any=False)) == []
    assert len(parts_of(photo, Seams((), any=True))) == 8
    halves = Cell(0, 0, 151, 200), Cell(151, 0, 300, 200)
    assert [part.size for part in parts_of(photo, Seams(halves, any=True))[:2]] == [(151, 200), (149, 200)]
    assert len(parts_of(photo, Seams(halves, any=True))) == 8
    assert max(part.size for part in parts_of(Image.new("RGB", (1, 1)), Seams((), any=True))) == (1, 1)


def test_the_middle_of_a_photo_between_two_others_is_found_mirrored_too() -> None:
    photos = [texture(seed, width=320, height=240) for seed in range(3)]
    third = (104, 240)
    for middle in (photos[0], ImageOps.mirror(photos[0])):
        row = pasted(
            (328, 240),
            {
                Cell(112 * place, 0, 112 * place + third[0], 240): ImageOps.fit(photo, third)
                for place, photo in enumerate((photos[1], middle, photos[2]))
            },
        )
        asked, printed = make_print(row), make_print(photos[0])
        assert asked is not None and printed is not None
        found = match(Asked(asked), printed)
        assert found is not None and found.of_first == pytest.approx(104 / 328, abs=0.03)
        assert found.of_second == pytest.approx(104 / 320, abs=0.05)
        x, y, depth = found.matrix @ ((328 - 1) / 2, (240 - 1) / 2, 1)
        assert (x / depth, y / depth) == pytest.approx((159.5, 119.5), abs=2)


def test_a_floor_beside_a_line_is_no_copy_of_a_photo_that_shares_it() -> None:
    floor = texture(99, width=140, height=240)
    photos = []
    for seed, place in ((1, 0), (2, 180)):
        photo = texture(seed, width=320, height=240)
        photo.paste(floor, (place, 0))
        ImageDraw.Draw(photo).line((140 + place // 5, 0, 140 + place // 5, 240), fill="black", width=3)
        photos.append(photo)
    first, second = (make_print(photo) for photo in photos)
    assert first is not None and second is not None
    assert len(Asked(first).seams.cells) == 2
    assert match(Asked(first), second) is None
