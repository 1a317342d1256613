"""Estimate what decoding a photo takes, from its structure alone."""

from __future__ import annotations

from typing import Final, cast

from PIL.ImageFile import ImageFile

from fedrec.errors import DataError
from fedrec.vision.structure.bounds import MOST_SIDE
from fedrec.vision.structure.facts import Facts

MOST_PASSES_OF_PIXELS: Final = 1 << 32
"""Pixels times a JPEG's scans: the largest progressive photo in a dozen scans."""

_LIBRARY_BYTES: Final = {"WEBP": 12, "AVIF": 8, "HEIC": 8}
"""Bytes for a pixel that the libraries hold which unpack a photo as a whole, as measured."""
_ONE_BYTE_MODES: Final = frozenset({"1", "L", "P"})
_MOST_CODED: Final = 8
_SMALL_CODED: Final = 1 << 25


def check_time(facts: Facts, *, size: tuple[int, int]) -> None:
    """Refuse a photo whose decoding takes longer than that of others of its size.

    Args:
        facts: what its structure tells.
        size: its width and height.

    Raises:
        DataError: its pixels are gone over too often, or a side is too long.
    """
    pixels = size[0] * size[1]
    if max(size) > MOST_SIDE:
        raise DataError(f"{size[0]} x {size[1]} pixels are over the limit of {MOST_SIDE} for a side")
    if facts.passes * pixels > MOST_PASSES_OF_PIXELS:
        raise DataError(
            f"{facts.passes} scans of {size[0]} x {size[1]} pixels take too long to decode: "
            f"save it as a plain JPEG"
        )
    if facts.all_pixels > _MOST_CODED * pixels + _SMALL_CODED:
        raise DataError(
            f"it shows {size[0]} x {size[1]} pixels and has {facts.all_pixels} in it: save it again, as JPEG"
        )


def bytes_needed(
    opened: ImageFile, kind: str, *, full_size: tuple[int, int], facts: Facts, upright: bool
) -> int:
    """Estimate the memory that decoding a photo takes.

    Args:
        opened: the photo, not yet decoded, at the size in which it will be.
        kind: its format.
        full_size: its width and height.
        facts: what its structure tells.
        upright: it is stored as it is shown.

    Returns:
        Bytes.
    """
    pixels = opened.width * opened.height
    if kind == "JPEG":
        needed = 4 * pixels
        if facts.whole_in_memory:
            # All coefficients of all components are held, two bytes each.
            layers = cast("list[tuple[int, int, int, int]]", getattr(opened, "layer", []))
            blocks = [layer[1] * layer[2] for layer in layers] or [1, 1, 1]
            needed += 2 * full_size[0] * full_size[1] * sum(blocks) // max(1, *blocks)
        return needed
    held = 1 if opened.mode in _ONE_BYTE_MODES else 4
    if kind == "TIFF":
        # Pillow turns it upright itself, in a copy. A strip or tile is unpacked as a whole.
        stored_plainly = bool(opened.tile) and opened.tile[0].codec_name == "raw"
        return held * pixels * (1 if upright else 2) + (0 if stored_plainly else facts.unit_bytes)
    return max(pixels, facts.frame_pixels) * max(held, _LIBRARY_BYTES.get(kind, 0))
