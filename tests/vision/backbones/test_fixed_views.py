"""Fixed views against Pillow by hand."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from fedrec.errors import ConfigError
from fedrec.vision.backbones.fixed_views import fixed_view, view_id
from fedrec.vision.backbones.view_names import VIEWS

SIZE = 28
BICUBIC = Image.Resampling.BICUBIC


def photo(width: int, height: int) -> Image.Image:
    """Smooth, so that scaling a part and cutting a part of the scaled agree to a step of a pixel."""
    coarse = np.random.default_rng(3).integers(0, 256, (5, 4, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize((width, height), BICUBIC)


def centre(image: Image.Image, short: int) -> np.ndarray:
    """Bring the short side to ``short`` pixels, and keep the middle SIZE x SIZE."""
    factor = short / min(image.size)
    width, height = (round(side * factor) for side in image.size)
    left, top = (width - SIZE) // 2, (height - SIZE) // 2
    whole = image.resize((width, height), BICUBIC)
    return np.asarray(whole.crop((left, top, left + SIZE, top + SIZE)))


@pytest.mark.parametrize(("width", "height"), [(60, 90), (84, 56)])
def test_views_are_those_of_pillow(width: int, height: int) -> None:
    image = photo(width, height)
    found = {view: fixed_view(image, view, size=SIZE).astype(int) for view in VIEWS}
    expected = {
        "wide": centre(image, SIZE),
        "squash": np.asarray(image.resize((SIZE, SIZE), BICUBIC)),
        "crop": centre(image, SIZE * 8 // 7),
        "flip": np.fliplr(centre(image, SIZE * 8 // 7)),
    }
    assert set(found) == set(expected)
    for view, pixels in expected.items():
        assert found[cast(Any, view)].shape == (SIZE, SIZE, 3)
        assert np.abs(found[cast(Any, view)] - pixels).max() <= 1, view
    # No two are the same, so that a mistaken one would be seen.
    pictures = list(found.values())
    for index, one in enumerate(pictures):
        assert all(np.abs(one - other).max() > 5 for other in pictures[:index])


def test_a_square_photo_is_wide_and_squashed_alike() -> None:
    image = photo(50, 50)
    np.testing.assert_array_equal(
        fixed_view(image, "wide", size=SIZE), fixed_view(image, "squash", size=SIZE)
    )


@pytest.mark.parametrize("view", VIEWS)
def test_grey_photos_become_three_equal_channels(view: Any) -> None:
    found = fixed_view(photo(40, 31).convert("L"), view, size=SIZE)
    assert found.shape == (SIZE, SIZE, 3) and found.flags.c_contiguous
    assert (found == found[:, :, :1]).all()


def test_each_view_has_an_id_of_its_own() -> None:
    assert len({view_id(view) for view in VIEWS}) == len(VIEWS)


def test_unknown_views_and_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match="wide, squash, crop, flip"):
        fixed_view(photo(40, 40), cast(Any, "tilt"), size=SIZE)
    for view in VIEWS:
        with pytest.raises(ConfigError, match="size"):
            fixed_view(photo(40, 40), view, size=0)
