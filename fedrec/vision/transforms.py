"""Preparation of a photo for a model: size, colour, and augmented views of one record; without torch.

Nothing here is learnt from data, and what happens to a record depends on that record alone: otherwise
adding or removing one photo would change the contribution of others, and clipping would bound nothing.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from fedrec.errors import ConfigError

TRANSFORM_ID: Final = "crop1-views1"
"""Version of what this module does to pixels: caches are keyed by it, so change it whenever pixels change."""


@dataclass(frozen=True)
class Augmentation:
    """How far a view may differ from its record; each amount is drawn uniformly from its range.

    Attributes:
        rotation: largest turn either way, in degrees.
        scale: smallest and largest magnification, above 0.
        shift: largest move either way along each axis, in picture sides.
        flip: chance of a mirror image, left for right.
        colour: largest relative change either way of brightness, contrast and saturation, below 1.
    """

    rotation: float = 12.0
    scale: tuple[float, float] = (0.85, 1.2)
    shift: float = 0.06
    flip: float = 0.5
    colour: float = 0.2


def to_model_input(image: Image.Image, *, size: int, channels: int, margin: float = 1.0) -> NDArray[np.uint8]:
    """Scale a photo and cut out its centre.

    The short side becomes ``round(size * margin)`` pixels (bicubic with antialiasing; small photos grow),
    then the middle ``size`` x ``size`` is kept.

    Args:
        image: an RGB or grey photo.
        size: side of the result in pixels.
        channels: 3 for colour, 1 for grey (luma, ITU-R 601-2).
        margin: 1 keeps the whole short side; 256 / 224 is usual for networks trained on ImageNet.

    Returns:
        uint8 (size, size, channels).

    Raises:
        ConfigError: ``size`` is below 1, ``margin`` below 1, or ``channels`` neither 1 nor 3.
    """
    if size < 1 or margin < 1 or channels not in (1, 3):
        raise ConfigError(
            f"a model input needs a size and a margin of 1 or more and 1 or 3 channels, "
            f"not size {size}, margin {margin} and {channels} channels"
        )
    mode = "L" if channels == 1 else "RGB"
    picture = image if image.mode == mode else image.convert(mode)
    short = round(size * margin)
    shortest = min(picture.size)
    width, height = (max(short, round(side * short / shortest)) for side in picture.size)
    left, top = (width - size) // 2, (height - size) // 2
    # Scaling only the part of the source that is kept gives the same pixels, and is cheaper for long photos.
    across, down = picture.width / width, picture.height / height
    box = (left * across, top * down, (left + size) * across, (top + size) * down)
    if (width, height) != picture.size or (width, height) != (size, size):
        picture = picture.resize((size, size), Image.Resampling.BICUBIC, box=box)
    return np.array(picture, dtype=np.uint8).reshape(size, size, channels)


def augmented_views(
    images: NDArray[np.uint8],
    *,
    views: int,
    seeds: Sequence[bytes],
    augmentation: Augmentation | None = None,
) -> NDArray[np.uint8]:
    """Make augmented views of each record; view 0 is the record itself.

    A view is determined by the record's pixels, its seed and the view's number, so it is the same in
    every round and whatever other records there are. The views of one record are averaged BEFORE its
    gradient is clipped (De et al. 2022, section 3.3), so they cost no privacy budget.

    Args:
        images: uint8 (n, H, W, C), C of 1 or 3.
        views: number per record, 1 for the record alone.
        seeds: n byte strings, each record's own digest.
        augmentation: how far views differ; None for the defaults.

    Returns:
        uint8 (n, views, H, W, C).

    Raises:
        ConfigError: ``views`` is below 1, or the shapes don't fit each other.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
        raise ConfigError(f"pictures to vary are uint8 (n, H, W, 1 or 3), not {images.dtype} {images.shape}")
    if views < 1 or len(seeds) != len(images):
        raise ConfigError(
            f"each record needs 1 view or more and a seed: {views} views and "
            f"{len(seeds)} seeds were given for {len(images)} records"
        )
    how = augmentation or Augmentation()
    result = np.empty((len(images), views, *images.shape[1:]), dtype=np.uint8)
    for index, (image, seed) in enumerate(zip(images, seeds, strict=True)):
        result[index, 0] = image
        for view in range(1, views):
            result[index, view] = _view(image, _generator(seed, view), how)
    return result


def _generator(seed: bytes, view: int) -> np.random.Generator:
    """Seed a generator from a record's digest and a view's number (no secret depends on it)."""
    content = hashlib.sha256(b"fedrec view" + view.to_bytes(4, "big") + seed).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(content, "big")))


def _view(image: NDArray[np.uint8], rng: np.random.Generator, how: Augmentation) -> NDArray[np.uint8]:
    height, width, channels = image.shape
    # Always drawn, in this order, so that switching one effect off doesn't change the others.
    turn = math.radians(rng.uniform(-how.rotation, how.rotation))
    scale = rng.uniform(*how.scale)
    across, down = rng.uniform(-how.shift, how.shift, size=2)
    mirrored = rng.random() < how.flip
    brightness, contrast, saturation = 1.0 + rng.uniform(-how.colour, how.colour, size=3)

    # Mirrored borders, so that a rotation adds no black corners.
    pad_y, pad_x = height // 2, width // 2
    padded = np.pad(image, ((pad_y, pad_y), (pad_x, pad_x), (0, 0)), mode="symmetric")
    picture = Image.fromarray(padded[:, :, 0] if channels == 1 else padded)
    # PIL takes the map from result to source pixels: the inverse of rotating and scaling about the centre.
    cosine, sine = math.cos(turn) / scale, math.sin(turn) / scale
    flip = -1.0 if mirrored else 1.0
    row_x = (cosine * flip, sine)
    row_y = (-sine * flip, cosine)
    from_x, from_y = pad_x + width * (0.5 + across), pad_y + height * (0.5 + down)
    matrix = (
        *row_x,
        from_x - row_x[0] * width / 2 - row_x[1] * height / 2,
        *row_y,
        from_y - row_y[0] * width / 2 - row_y[1] * height / 2,
    )
    picture = picture.transform(
        (width, height), Image.Transform.AFFINE, matrix, resample=Image.Resampling.BILINEAR
    )
    picture = ImageEnhance.Brightness(picture).enhance(brightness)
    picture = ImageEnhance.Contrast(picture).enhance(contrast)
    if channels == 3:
        picture = ImageEnhance.Color(picture).enhance(saturation)
    return np.asarray(picture, dtype=np.uint8).reshape(image.shape)
