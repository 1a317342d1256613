"""From photo to model input, and augmented views that depend on their own record alone."""

from __future__ import annotations

import hashlib
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fedrec.errors import ConfigError
from fedrec.vision.normalisation import normalise
from fedrec.vision.transforms import Augmentation, augmented_views, to_model_input


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3)).astype(np.uint8))


def records(count: int, *, size: int = 24, channels: int = 3) -> tuple[np.ndarray, list[bytes]]:
    rng = np.random.default_rng(4)
    coarse = rng.integers(0, 256, (count, 6, 6, channels)).astype(np.uint8)
    images = coarse.repeat(size // 6, axis=1).repeat(size // 6, axis=2)
    return images, [hashlib.sha256(image.tobytes()).digest() for image in images]


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    size=st.integers(1, 40),
    channels=st.sampled_from([1, 3]),
    margin=st.sampled_from([1.0, 256 / 224]),
)
def test_every_photo_gets_the_shape_asked_for(
    width: int, height: int, size: int, channels: int, margin: float
) -> None:
    result = to_model_input(photo(width, height), size=size, channels=channels, margin=margin)
    assert result.shape == (size, size, channels)
    assert result.dtype == np.uint8


def test_a_photo_of_the_right_size_is_left_alone() -> None:
    image = photo(16, 16)
    np.testing.assert_array_equal(to_model_input(image, size=16, channels=3), np.asarray(image))


def test_the_centre_is_kept() -> None:
    image = photo(30, 16)
    np.testing.assert_array_equal(to_model_input(image, size=16, channels=3), np.asarray(image)[:, 7:23])
    tall = photo(16, 31)
    np.testing.assert_array_equal(to_model_input(tall, size=16, channels=3), np.asarray(tall)[7:23])


def test_scaling_equals_scaling_the_whole_photo_then_cropping() -> None:
    ramp = np.add.outer(np.arange(341), np.arange(256)) * 255 / 600
    image = Image.fromarray(np.stack([ramp, ramp[::-1], ramp[:, ::-1]], axis=2).astype(np.uint8))
    whole = np.asarray(image.resize((73, round(341 * 73 / 256)), Image.Resampling.BICUBIC)).astype(int)
    top, left = (whole.shape[0] - 64) // 2, (73 - 64) // 2
    expected = whole[top : top + 64, left : left + 64]
    result = to_model_input(image, size=64, channels=3, margin=256 / 224).astype(int)
    assert np.abs(result - expected).max() <= 2


def test_shrinking_is_antialiased() -> None:
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    small = to_model_input(Image.fromarray(stripes), size=8, channels=3)
    assert np.abs(small.astype(int) - 127).max() <= 12


def test_grey_is_the_luma_of_bt_601() -> None:
    image = Image.fromarray(np.full((8, 8, 3), (200, 100, 50), dtype=np.uint8))
    expected = 0.299 * 200 + 0.587 * 100 + 0.114 * 50
    assert np.abs(to_model_input(image, size=8, channels=1) - expected).max() <= 1


@pytest.mark.parametrize(("size", "channels", "margin"), [(0, 3, 1.0), (8, 2, 1.0), (8, 3, 0.5)])
def test_impossible_inputs_are_refused(size: int, channels: int, margin: float) -> None:
    with pytest.raises(ConfigError, match="a model input needs"):
        to_model_input(photo(9, 9), size=size, channels=channels, margin=margin)


def test_normalise_is_the_formula_in_numpy() -> None:
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    images = np.random.default_rng(2).integers(0, 256, (2, 5, 4, 6, 3)).astype(np.uint8)
    expected = ((images / 255 - np.array(mean)) / np.array(std)).transpose(0, 1, 4, 2, 3)
    result = normalise(torch.from_numpy(images), mean=mean, std=std)
    assert result.dtype == torch.float32
    assert result.is_contiguous()
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_normalise_grey_takes_the_average_constants() -> None:
    image = torch.full((2, 2, 1), 255, dtype=torch.uint8)
    result = normalise(image, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    assert result.shape == (1, 2, 2)
    torch.testing.assert_close(result, torch.full((1, 2, 2), (1 - 0.2) / 0.5))


def test_normalise_refuses_floats_and_channels_first() -> None:
    for wrong in (torch.zeros(4, 4, 3), torch.zeros(3, 8, 8, dtype=torch.uint8)):
        with pytest.raises(ConfigError, match="pictures to normalise are uint8"):
            normalise(wrong, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


@pytest.mark.parametrize("channels", [1, 3])
def test_augmented_views_differ_and_repeat_and_the_first_is_the_photo_itself(channels: int) -> None:
    images, seeds = records(4, channels=channels)
    views = augmented_views(images, views=5, seeds=seeds)
    assert views.shape == (4, 5, *images.shape[1:])
    assert views.dtype == np.uint8
    np.testing.assert_array_equal(views[:, 0], images)
    for record in views:
        assert len({view.tobytes() for view in record}) == 5
    np.testing.assert_array_equal(views, augmented_views(images, views=5, seeds=seeds))


def test_a_view_depends_on_its_own_record_alone() -> None:
    images, seeds = records(5)
    views = augmented_views(images, views=3, seeds=seeds)
    kept = [4, 0, 2]
    fewer = augmented_views(images[kept], views=3, seeds=[seeds[index] for index in kept])
    np.testing.assert_array_equal(fewer, views[kept])
    # More views leave the first ones as they were; another digest doesn't.
    np.testing.assert_array_equal(augmented_views(images, views=4, seeds=seeds)[:, :3], views)
    other = augmented_views(images[:1], views=2, seeds=[b"\1" * 32])
    assert not np.array_equal(other[0, 1], views[0, 1])


def test_views_leave_global_generators_alone() -> None:
    images, seeds = records(1)
    np.random.seed(0)
    before = np.random.get_state(legacy=False)["state"]["key"].copy()
    torch_before = torch.get_rng_state()
    augmented_views(images, views=3, seeds=seeds)
    np.testing.assert_array_equal(before, np.random.get_state(legacy=False)["state"]["key"])
    assert torch.equal(torch_before, torch.get_rng_state())


def test_geometry_of_single_effects() -> None:
    images, seeds = records(1)
    still: dict[str, Any] = {"rotation": 0.0, "scale": (1.0, 1.0), "shift": 0.0, "flip": 0.0, "colour": 0.0}
    same = augmented_views(images, views=2, seeds=seeds, augmentation=Augmentation(**still))
    np.testing.assert_array_equal(same[0, 1], images[0])
    mirror = augmented_views(
        images, views=2, seeds=seeds, augmentation=Augmentation(**{**still, "flip": 1.0})
    )
    np.testing.assert_array_equal(mirror[0, 1], images[0, :, ::-1])
    # Twice as large: the result's corners come from a quarter and three quarters of the way.
    twice = augmented_views(
        images, views=2, seeds=seeds, augmentation=Augmentation(**{**still, "scale": (2.0, 2.0)})
    )
    np.testing.assert_array_equal(twice[0, 1, 0, 0], images[0, 6, 6])
    np.testing.assert_array_equal(twice[0, 1, -1, -1], images[0, 17, 17])
    tint = augmented_views(
        images, views=2, seeds=seeds, augmentation=Augmentation(**{**still, "colour": 0.3})
    )
    assert not np.array_equal(tint[0, 1], images[0])
    assert np.corrcoef(tint[0, 1].ravel(), images[0].ravel())[0, 1] > 0.9


def test_a_white_photo_stays_bright_at_its_corners() -> None:
    images = np.full((1, 30, 30, 3), 255, dtype=np.uint8)
    views = augmented_views(
        images,
        views=8,
        seeds=[b"\2" * 32],
        augmentation=Augmentation(rotation=45, scale=(0.8, 0.8), colour=0),
    )
    assert views.min() == 255


def test_impossible_views_are_refused() -> None:
    images, seeds = records(2)
    cases: tuple[dict[str, Any], ...] = (
        {"views": 0, "seeds": seeds},
        {"views": 1, "seeds": seeds[:1]},
    )
    for wrong in cases:
        with pytest.raises(ConfigError, match="1 view or more and a seed"):
            augmented_views(images, **wrong)
    with pytest.raises(ConfigError, match="pictures to vary are uint8"):
        augmented_views(cast(Any, images.astype(np.float32)), views=1, seeds=seeds)
