"""The measures of a photo against naive loops, and against pictures whose flaw is known."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from scipy.ndimage import gaussian_filter

from fedrec.recognition.quality import overlaid_text
from fedrec.recognition.quality.blocks import block_contrast
from fedrec.recognition.quality.blur import blur_effect, sharpest_blur
from fedrec.recognition.quality.borders import border_share
from fedrec.recognition.quality.clutter import clutter
from fedrec.recognition.quality.exposure import burnt_share, exposure
from fedrec.recognition.quality.luminance import LONGEST_SHORT_SIDE, LONGEST_SIDE, luminance
from fedrec.recognition.quality.overlaid_text import text_characters


def texture(seed: int, *, width: int = 120, height: int = 90) -> Image.Image:
    """Patches with sharp edges and some grain."""
    rng = np.random.default_rng(seed)
    coarse = gaussian_filter(rng.normal(size=(height, width)), 6)
    steps = np.digitize(coarse, np.quantile(coarse, [0.2, 0.4, 0.6, 0.8])) * 45 + 30
    values = np.clip(steps + rng.normal(scale=4, size=steps.shape), 0, 255)
    return Image.fromarray(values.astype(np.uint8)).convert("RGB")


def framed(photo: Image.Image, *, top: int, left: int, colour: tuple[int, int, int]) -> Image.Image:
    """A photo with bars above and at its left."""
    made = Image.new("RGB", (photo.width + left, photo.height + top), colour)
    made.paste(photo, (left, top))
    return made


def compressed(photo: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    photo.save(file, format="JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def naive_blur_effect(picture: np.ndarray) -> float:
    """Crete et al. in loops, for four directions."""
    height, width = picture.shape
    largest = 0.0
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):

        def value(y: int, x: int, down: int = down, right: int = right) -> float | None:
            """The mean of nine pixels on a line; None where they leave the picture."""
            line = [(y + step * down, x + step * right) for step in range(-4, 5)]
            if any(not (0 <= row < height and 0 <= column < width) for row, column in line):
                return None
            return float(np.mean([picture[place] for place in line], dtype=np.float64))

        whole = lost = 0.0
        for y, x in itertools.product(range(height), range(width)):
            row, column = y + down, x + right
            if not (0 <= row < height and 0 <= column < width):
                continue
            first, second = value(y, x), value(row, column)
            if first is None or second is None:
                continue
            before = abs(float(picture[row, column]) - float(picture[y, x]))
            whole += before
            lost += max(0.0, before - abs(second - first))
        largest = max(largest, 1.0 if whole == 0 else 1.0 - lost / whole)
    return largest


@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 100), width=st.integers(24, 40), height=st.integers(24, 40))
def test_the_blur_effect_equals_the_loop(seed: int, width: int, height: int) -> None:
    picture = luminance(texture(seed, width=width, height=height))
    assert blur_effect(picture) == pytest.approx(naive_blur_effect(picture), abs=2e-3)


@pytest.mark.parametrize("direction", [(0, 1), (1, 0), (1, 1), (1, -1)])
def test_motion_in_any_direction_is_blur(direction: tuple[int, int]) -> None:
    picture = luminance(texture(3))
    moved = np.mean(
        [np.roll(picture, (step * direction[0], step * direction[1]), (0, 1)) for step in range(9)], axis=0
    ).astype(np.float32)
    assert blur_effect(moved) > blur_effect(picture) + 0.2


def test_more_blur_has_more_effect_whatever_the_brightness() -> None:
    photo = texture(1)
    effects = [blur_effect(luminance(photo.filter(ImageFilter.GaussianBlur(s)))) for s in (0, 0.7, 1.5, 3)]
    assert effects == sorted(effects) and effects[-1] - effects[0] > 0.3
    dim = luminance(photo) * 0.3
    assert blur_effect(dim.astype(np.float32)) == pytest.approx(effects[0], abs=1e-4)
    assert blur_effect(np.full((40, 40), 7, dtype=np.float32)) == 1.0
    assert blur_effect(np.zeros((18, 200), dtype=np.float32)) == 0.0


def test_exposure_is_percentiles() -> None:
    picture = np.arange(100, dtype=np.float32).reshape(10, 10)
    found = exposure(picture)
    assert found.darkest == pytest.approx(4.95)
    assert found.brightest == pytest.approx(94.05)
    assert found.contrast == pytest.approx(89.1)


def before(backdrop: int, *, product: tuple[int, int]) -> np.ndarray:
    """A product of two halves before a plain backdrop, which takes most of the picture."""
    picture = np.full((100, 80), backdrop, dtype=np.float32)
    picture[40:50, 30:50], picture[50:60, 30:50] = product
    return picture


def test_a_plain_backdrop_says_nothing_of_the_product() -> None:
    found = exposure(before(200, product=(40, 90)))
    assert (found.darkest, found.brightest, found.contrast) == (40, 200, 160)
    found = exposure(before(10, product=(40, 190)))
    assert (found.darkest, found.brightest, found.contrast) == (40, 190, 180)
    # A veil lifts all that is dark, but the backdrop that was white stays it.
    veiled = exposure(before(240, product=(170, 180)))
    assert veiled.darkest == 170 and veiled.contrast == 70
    white = exposure(before(253, product=(215, 235)))
    assert white.darkest == 0 and white.contrast == 253, "a white product isn't flat for that"
    nothing = exposure(np.full((50, 50), 250, dtype=np.float32))
    assert (nothing.darkest, nothing.contrast) == (250, 0)


def test_a_blurred_backdrop_is_no_blurred_photo() -> None:
    photo = texture(7, width=200, height=200)
    soft = photo.filter(ImageFilter.GaussianBlur(4))
    portrait = soft.copy()
    portrait.paste(photo.crop((30, 30, 170, 170)), (30, 30))
    assert blur_effect(luminance(portrait)) > blur_effect(luminance(photo)) + 0.02
    assert sharpest_blur(luminance(portrait)) == pytest.approx(sharpest_blur(luminance(photo)), abs=0.02)
    assert sharpest_blur(luminance(soft)) > sharpest_blur(luminance(photo)) + 0.2
    tiny = luminance(texture(7, width=25, height=25))
    assert sharpest_blur(tiny) == blur_effect(tiny), "its middle is too small"


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 100), top=st.integers(9, 24), left=st.integers(9, 24),
    shade=st.sampled_from([0, 255]), quality=st.sampled_from([90, 97]),
)  # fmt: skip
def test_the_widest_bar_is_measured(seed: int, top: int, left: int, shade: int, quality: int) -> None:
    made = framed(texture(seed), top=top, left=left, colour=(shade, shade, shade))
    expected = max(top / made.height, left / made.width)
    assert border_share(made) == pytest.approx(expected, abs=1e-9)
    # Compression blurs a bar's end within its block of 8 pixels.
    assert border_share(compressed(made, quality)) == pytest.approx(expected, abs=0.08)
    assert border_share(compressed(made, quality)) > 0.02


def test_a_plain_backdrop_is_no_frame() -> None:
    for shape in ("ellipse", "rounded_rectangle"):
        backdrop = Image.new("RGB", (120, 160), "white")
        draw = ImageDraw.Draw(backdrop)
        if shape == "ellipse":
            draw.ellipse((20, 30, 100, 130), fill=(40, 60, 150))
        else:
            draw.rounded_rectangle((30, 40, 90, 120), 8, fill=(40, 60, 150))
        assert border_share(backdrop) == 0.0
    assert border_share(Image.new("RGB", (50, 50), "white")) == 0.0


@pytest.mark.parametrize(("fill", "size"), [("white", 16), ("black", 24)])
def test_a_line_of_text_is_counted_by_characters(fill: str, size: int) -> None:
    photo = Image.new("RGB", (320, 240), (128, 120, 110))
    assert text_characters(luminance(photo)) == 0
    ImageDraw.Draw(photo).text((12, 100), "NUREINPAAR", fill=fill, font=ImageFont.load_default(size=size))
    assert 8 <= text_characters(luminance(compressed(photo, 90))) <= 10


def test_burnt_is_what_has_a_full_colour_in_the_middle_and_before_a_white_backdrop_no_white() -> None:
    pixels = np.full((100, 80, 3), 90, dtype=np.uint8)
    pixels[30:50, 20:60] = 255
    pixels[50:60, 20:60] = (255, 120, 40)
    pixels[:10] = 255
    # The middle is 60 x 48 pixels, of which 30 x 40 are full.
    assert burnt_share(Image.fromarray(pixels)) == pytest.approx(30 * 40 / (60 * 48))
    studio = np.full((100, 80, 3), 255, dtype=np.uint8)
    studio[30:70, 30:50] = 90
    assert burnt_share(Image.fromarray(studio)) == 0.0
    studio[30:40, 30:50] = (255, 180, 160)
    assert burnt_share(Image.fromarray(studio)) == pytest.approx(0.25)
    large = Image.fromarray(pixels).resize((1600, 2000), Image.Resampling.NEAREST)
    assert burnt_share(large) == pytest.approx(30 * 40 / (60 * 48), abs=0.01)


def test_squares_are_those_of_strong_compression_where_it_left_them() -> None:
    photo = texture(4, width=300, height=280)
    assert block_contrast(photo) == pytest.approx(1, abs=0.1)
    assert block_contrast(compressed(photo, 90)) < 1.3
    strong = compressed(photo.filter(ImageFilter.GaussianBlur(2)), 5)
    assert block_contrast(strong) > 3
    assert block_contrast(strong.crop((3, 3, 300, 280))) < 1, "the squares are elsewhere"
    stripes = np.zeros((256, 256), dtype=np.uint8)
    stripes[:, np.arange(256) // 8 % 2 == 0] = 200
    assert block_contrast(Image.fromarray(stripes)) == 1.0
    assert block_contrast(Image.new("RGB", (3000, 1))) == 1.0


def test_edges_around_the_product_are_clutter_and_those_on_it_are_not() -> None:
    busy = luminance(texture(5, width=200, height=200))
    plain = np.full((200, 200), 200, dtype=np.float32)
    product = plain.copy()
    product[40:160, 40:160] = busy[40:160, 40:160]
    assert clutter(plain) == clutter(product) == 0.0
    assert clutter(busy) > 0.3


def test_large_photos_are_reduced_and_small_ones_are_not() -> None:
    large = Image.new("L", (2 * LONGEST_SHORT_SIDE, 3 * LONGEST_SHORT_SIDE)).convert("RGB")
    assert luminance(large).shape == (3 * LONGEST_SHORT_SIDE // 2, LONGEST_SHORT_SIDE)
    assert luminance(texture(0)).shape == (90, 120)
    assert luminance(Image.new("RGB", (1, 4000))).shape == (4000, 1)


def test_long_photos_and_patterns_take_bounded_time_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    tall = np.random.default_rng(0).integers(0, 256, (2000, 40)).astype(np.float32)
    # A photo has the same blur turned by a right angle; its diagonals aren't laid out by its long side.
    assert blur_effect(tall) == pytest.approx(blur_effect(np.rot90(tall).copy()), abs=1e-4)
    assert max(luminance(Image.new("L", (1024, 20_000))).shape) == LONGEST_SIDE
    pattern = np.zeros((1000, 1000), np.float32)
    for shift in range(7):
        pattern[shift::9, ::9] = pattern[6::9, shift::9] = 255
    compared: list[int] = []

    def counted(shapes: list[object]) -> int:
        compared.append(len(shapes))
        return 0

    monkeypatch.setattr(overlaid_text, "_longest_line", counted)
    text_characters(pattern)
    assert 900 < max(compared) <= 1000
