"""How well flaws of product photos are found.

Run ``python benchmarks/recognition.py --photos DIR [--quick] [--json FILE]``; ``--photos`` holds
``clothing-small``. Quality: photos of its validation split, as they are and each with one flaw added. No
threshold was set on them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from measure import Options, finish
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps
from scipy.ndimage import convolve

from fedrec.recognition.quality.thresholds import default_thresholds
from fedrec.recognition.quality.verdict import judge

MOTION = 9
"""Pixels that the camera moves by."""

Spoil = Callable[[Image.Image, np.random.Generator], Image.Image]


def moved(photo: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Blur a photo by a motion in a random direction."""
    kernel: NDArray[np.float64] = np.zeros((MOTION, MOTION))
    angle, half = rng.uniform(0, np.pi), MOTION // 2
    for step in np.linspace(-half, half, 4 * MOTION):
        kernel[round(half + step * np.sin(angle)), round(half + step * np.cos(angle))] = 1
    pixels = np.asarray(photo, dtype=np.float64)
    channels = [convolve(pixels[..., channel], kernel / kernel.sum()) for channel in range(3)]
    return Image.fromarray(np.clip(np.stack(channels, axis=-1), 0, 255).astype(np.uint8))


def with_text(photo: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Write a line of text over a photo."""
    made = photo.copy()
    place = (int(rng.integers(5, 40)), int(rng.integers(5, photo.height - 40)))
    font = ImageFont.load_default(size=int(rng.integers(14, 28)))
    fill = ((255, 255, 255), (0, 0, 0), (220, 20, 20))[int(rng.integers(3))]
    ImageDraw.Draw(made).text(place, "FREE SHIPPING TODAY", fill=fill, font=font)
    return made


SPOILS: Mapping[str, tuple[str, Spoil]] = {
    "out of focus (Gaussian, sigma 2)": (
        "blurred",
        lambda photo, rng: photo.filter(ImageFilter.GaussianBlur(2)),
    ),
    f"motion of {MOTION} pixels": ("blurred", moved),
    "dark (30 % of the light)": ("dark", lambda photo, rng: ImageEnhance.Brightness(photo).enhance(0.3)),
    "washed out (65 % white)": (
        "washed-out",
        lambda photo, rng: Image.blend(photo, Image.new("RGB", photo.size, "white"), 0.65),
    ),
    "half the size": ("small", lambda photo, rng: photo.resize((photo.width // 2, photo.height // 2))),
    "a frame of one colour": (
        "framed",
        lambda photo, rng: ImageOps.expand(photo, 14, tuple(rng.integers(0, 256, 3).tolist())),
    ),
    "a line of text (hint)": ("text", with_text),
}


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, required=True, help="holds clothing-small")
    parser.add_argument("--quick", action="store_true", help="every eighth photo")
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    asked = parser.parse_args()
    files = sorted((asked.photos / "clothing-small" / "validation").glob("*/*"))[:: 8 if asked.quick else 1]
    photos = [Image.open(file).convert("RGB") for file in files]
    limits, rng = default_thresholds(), np.random.default_rng(0)
    started = time.process_time()
    found = [judge(photo, limits) for photo in photos]
    each = 1000 * (time.process_time() - started) / len(photos)
    flagged = float(np.mean([not verdict.is_good for verdict in found]))
    rows: list[dict[str, object]] = [
        {
            "photos": "good",
            "flagged": flagged,
            "hints": np.mean([verdict.is_good and bool(verdict.findings) for verdict in found]),
            "cpu_ms": each,
        }
    ]
    ratios = {"good_photos_flagged": flagged}
    for name, (flaw, spoil) in SPOILS.items():
        named = [
            flaw in {finding.flaw for finding in judge(spoil(photo, rng), limits).findings}
            for photo in photos
        ]
        rows.append({"photos": name, "named": np.mean(named)})
        ratios[f"named: {name}"] = float(np.mean(named))
    finish("recognition", Options(quick=asked.quick, json=asked.json), rows=rows, ratios=ratios)


if __name__ == "__main__":
    main()
