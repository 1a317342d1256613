"""Good and bad product photos that ``recognition.py`` makes from others."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps
from scipy.ndimage import convolve

Change = Callable[[Image.Image, np.random.Generator], Image.Image]
_GAMMA = 2.2


def moved(photo: Image.Image, rng: np.random.Generator, *, pixels: int = 9) -> Image.Image:
    """Blur a photo by a motion in a random direction."""
    kernel: NDArray[np.float64] = np.zeros((pixels, pixels))
    angle, half = rng.uniform(0, np.pi), pixels // 2
    for step in np.linspace(-half, half, 4 * pixels):
        kernel[round(half + step * np.sin(angle)), round(half + step * np.cos(angle))] = 1
    values = np.asarray(photo, dtype=np.float64)
    channels = [convolve(values[..., channel], kernel / kernel.sum()) for channel in range(3)]
    return picture(np.stack(channels, axis=-1))


def picture(values: NDArray[np.float64]) -> Image.Image:
    """Make a photo of values, 0 to 255 and clipped."""
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def with_text(photo: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Write a line of text over a photo."""
    made = photo.copy()
    place = (int(rng.integers(5, 40)), int(rng.integers(5, photo.height - 40)))
    font = ImageFont.load_default(size=int(rng.integers(14, 28)))
    fill = ((255, 255, 255), (0, 0, 0), (220, 20, 20))[int(rng.integers(3))]
    ImageDraw.Draw(made).text(place, "FREE SHIPPING TODAY", fill=fill, font=font)
    return made


def stops(photo: Image.Image, count: float) -> Image.Image:
    """Expose a photo by so many stops more, as a sensor that clips."""
    light = (np.asarray(photo, dtype=np.float64) / 255) ** _GAMMA * 2**count
    return picture(255 * np.minimum(light, 1) ** (1 / _GAMMA))


def between(photo: Image.Image, low: int, high: int) -> Image.Image:
    """Bring a photo's levels between two others, as of a black or a white product."""
    return photo.point([low + (high - low) * value // 255 for value in range(256)] * 3)


def studio(photo: Image.Image, backdrop: int = 255, product: Image.Image | None = None) -> Image.Image:
    """Cut a product out of the middle, and lay it before a plain backdrop."""
    mask = Image.new("L", (2 * photo.width, 2 * photo.height))
    box = (photo.width // 4, photo.height // 4, 7 * photo.width // 4, 7 * photo.height // 4)
    ImageDraw.Draw(mask).rounded_rectangle(box, radius=min(photo.size) // 2, fill=255)
    made = Image.new("RGB", photo.size, (backdrop,) * 3)
    made.paste(photo if product is None else product, mask=mask.resize(photo.size, Image.Resampling.BOX))
    return made


def portrait(photo: Image.Image) -> Image.Image:
    """Blur what is around the middle, as a short depth of field does."""
    mask = Image.new("L", photo.size)
    width, height = photo.size
    ImageDraw.Draw(mask).ellipse((width // 10, height // 10, 9 * width // 10, 9 * height // 10), fill=255)
    made = photo.filter(ImageFilter.GaussianBlur(4))
    made.paste(photo, mask=mask.filter(ImageFilter.GaussianBlur(8)))
    return made


def encoded(photo: Image.Image, kind: str, quality: int) -> Image.Image:
    """Save a photo, and read it again."""
    file = io.BytesIO()
    photo.save(file, kind, quality=quality)
    return Image.open(file).convert("RGB")


def grainy(photo: Image.Image, rng: np.random.Generator, *, sigma: float) -> Image.Image:
    """Add a sensor's noise."""
    values = np.asarray(photo, dtype=np.float64)
    return picture(values + rng.normal(scale=sigma, size=values.shape))


def blurred(photo: Image.Image, sigma: float = 2.0) -> Image.Image:
    """Blur a photo as out of focus."""
    return photo.filter(ImageFilter.GaussianBlur(sigma))


def veiled(photo: Image.Image, white: float = 0.65) -> Image.Image:
    """Mix a photo with white."""
    return Image.blend(photo, Image.new("RGB", photo.size, "white"), white)


def dimmed(photo: Image.Image, light: float) -> Image.Image:
    """Multiply the light of a photo, 0 to 255 and clipped."""
    return ImageEnhance.Brightness(photo).enhance(light)


GOOD: Mapping[str, Change] = {
    "as they are": lambda photo, rng: photo,
    "JPEG 50": lambda photo, rng: encoded(photo, "JPEG", 50),
    "WebP 50": lambda photo, rng: encoded(photo, "WEBP", 50),
    "AVIF 50": lambda photo, rng: encoded(photo, "AVIF", 50),
    "grey": lambda photo, rng: photo.convert("L").convert("RGB"),
    "mirrored": lambda photo, rng: ImageOps.mirror(photo),
    "square": lambda photo, rng: ImageOps.fit(photo, (min(photo.size), min(photo.size))),
    "grain, sigma 6": lambda photo, rng: grainy(photo, rng, sigma=6),
    "0.7 stops less": lambda photo, rng: stops(photo, -0.7),
    "half a stop more": lambda photo, rng: stops(photo, 0.5),
    "a blurred backdrop": lambda photo, rng: portrait(photo),
    "before white": lambda photo, rng: studio(photo),
    "black before white": lambda photo, rng: studio(photo, product=between(photo, 5, 60)),
    "white before white": lambda photo, rng: studio(photo, product=between(photo, 215, 250)),
    "before black": lambda photo, rng: studio(photo, 0),
    "white before grey": lambda photo, rng: studio(photo, 150, between(photo, 200, 250)),
    "black before black": lambda photo, rng: studio(photo, 12, between(photo, 8, 120)),
}
SPOILS: Mapping[str, tuple[str, Change]] = {
    "out of focus (Gaussian, sigma 2)": ("blurred", lambda photo, rng: blurred(photo)),
    "out of focus, sigma 1.5": ("blurred", lambda photo, rng: blurred(photo, 1.5)),
    "out of focus, JPEG 75": ("blurred", lambda photo, rng: encoded(blurred(photo), "JPEG", 75)),
    "out of focus before white": ("blurred", lambda photo, rng: blurred(studio(photo))),
    "out of focus, grain of sigma 4": ("blurred", lambda photo, rng: grainy(blurred(photo), rng, sigma=4)),
    "motion of 9 pixels": ("blurred", moved),
    "motion of 7 pixels": ("blurred", lambda photo, rng: moved(photo, rng, pixels=7)),
    "motion of 13 pixels": ("blurred", lambda photo, rng: moved(photo, rng, pixels=13)),
    "dark (30 % of the light)": ("dark", lambda photo, rng: dimmed(photo, 0.3)),
    "dark (35 % of the light)": ("dark", lambda photo, rng: dimmed(photo, 0.35)),
    "4 stops less": ("dark", lambda photo, rng: stops(photo, -4)),
    "dark before white": ("dark", lambda photo, rng: dimmed(studio(photo), 0.3)),
    "washed out (65 % white)": ("washed-out", lambda photo, rng: veiled(photo)),
    "washed out (75 % white)": ("washed-out", lambda photo, rng: veiled(photo, 0.75)),
    "half the size": ("small", lambda photo, rng: photo.resize((photo.width // 2, photo.height // 2))),
    "2.5 times the light": ("overexposed", lambda photo, rng: dimmed(photo, 2.5)),
    "4 times the light": ("overexposed", lambda photo, rng: dimmed(photo, 4)),
    "2 stops more": ("overexposed", lambda photo, rng: stops(photo, 2)),
    "3 stops more, JPEG 80": ("overexposed", lambda photo, rng: encoded(stops(photo, 3), "JPEG", 80)),
    "JPEG 10": ("compressed", lambda photo, rng: encoded(photo, "JPEG", 10)),
    "a frame of one colour": (
        "framed",
        lambda photo, rng: ImageOps.expand(photo, 14, tuple(rng.integers(0, 256, 3).tolist())),
    ),
    "a line of text (hint)": ("text", with_text),
}
