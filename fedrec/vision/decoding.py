"""Decode one photo as people see it; training and serving decode alike, here.

What becomes of a photo depends on that photo alone. Photos of more than ``MAX_PIXELS`` pixels are reduced
while they are decoded, or in strips afterwards where their format can't be decoded at a smaller size. A photo
that takes more than ``LARGE_BYTES`` is decoded alone, in at most about ``most_bytes()`` of memory; what needs
more, or more time than photos do, is refused before it is decoded.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import BinaryIO, Final

from PIL import ExifTags, Image
from PIL.ImageFile import ImageFile

from fedrec._internal.machine_memory import memory_limit
from fedrec.errors import DataError
from fedrec.vision.colour_modes import scale_transparent_colour, to_rgb
from fedrec.vision.decoders import open_photo
from fedrec.vision.decoding_costs import bytes_needed, check_time
from fedrec.vision.photo_signatures import HEAD_BYTES, format_of
from fedrec.vision.structure.reading import read_structure
from fedrec.vision.structure.tiff_directory import check_exif
from fedrec.vision.unpacked_pixels import unpack

MAX_PIXELS: Final = 64_000_000
"""Photos with more pixels than this are reduced, to at most half as many."""
MOST_PIXELS: Final = 1 << 29
"""Photos with more pixels than this are refused whatever their format: even skipping pixels takes time."""
LEAST_LIMIT: Final = 1 << 30
MOST_LIMIT: Final = 5 << 29
"""Bounds of the memory that one photo may take: a small file can unpack to gigabytes. The upper one is enough
for 200 million pixels of any format."""
LARGE_BYTES: Final = 1 << 28
"""Of photos that take more memory, one is decoded at a time."""

_STRIP_PIXELS: Final = 1 << 22
_PROFILE: Final = "Raw profile type exif"
_MOST_PROFILE: Final = 140_000
"""Letters of EXIF data that a PNG has as text."""
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What shows a picture upright, by its EXIF orientation."""

_one_large_photo = threading.Lock()


@cache
def most_bytes() -> int:
    """Return the memory in bytes that one photo may take: a third of the process's, within the bounds."""
    return min(MOST_LIMIT, max(LEAST_LIMIT, memory_limit() // 3))


def decode(
    source: Path | BinaryIO,
    *,
    least_side: int | None = None,
    most_pixels: int | None = None,
    whole: bool = False,
) -> Image.Image:
    """Decode one photo as people see it.

    EXIF orientation is applied, transparency is laid on white, and grey, palette, CMYK and 16-bit pictures
    become 8-bit RGB. The first frame of an animation, and the first picture of several, is taken. Colour
    profiles are ignored.

    Args:
        source: the file, or its content as a file that is open for reading.
        least_side: a short side in pixels that is enough: a JPEG may be decoded at a half, a quarter or an
            eighth of its size then, in a fraction of the time. None for all pixels.
        most_pixels: a photo with more is refused before it is decoded; None reads what there is memory for.
        whole: refuse a photo of more than ``MAX_PIXELS`` pixels in place of reducing it.

    Returns:
        The photo in mode RGB.

    Raises:
        DataError: the file is not a whole picture of a known format, or has too many pixels; the text is a
            reason of one line, without the path.
    """
    most = MOST_PIXELS if most_pixels is None else most_pixels
    if whole:
        most = min(most, MAX_PIXELS)
    try:
        with ExitStack() as stack:
            file = stack.enter_context(source.open("rb")) if isinstance(source, Path) else source
            file.seek(0)
            head = file.read(HEAD_BYTES)
            if not head:
                raise DataError("it is empty")
            kind = format_of(head, name=source.name if isinstance(source, Path) else "")
            file.seek(0)
            facts = read_structure(file, kind)
            opened = stack.enter_context(open_photo(file, kind))
            pixels = opened.width * opened.height
            if pixels > most:
                raise DataError(f"{opened.width} x {opened.height} pixels are over the limit of {most}")
            check_time(facts, size=opened.size)
            size = opened.size
            if kind == "JPEG":
                _choose_size(opened, least_side=least_side)
            needed = bytes_needed(
                opened,
                kind or "",
                full_size=size,
                facts=facts,
                upright=kind != "TIFF" or _orientation(opened) == 1,
            )
            if pixels <= MAX_PIXELS:
                # The converted picture is held beside the decoded one.
                needed += 4 * opened.width * opened.height
            if needed > most_bytes():
                millions = pixels * most_bytes() // needed // 1_000_000
                raise DataError(
                    f"{size[0]} x {size[1]} pixels of this kind of {kind} take {needed >> 20} MiB to decode, "
                    f"over the limit of {most_bytes() >> 20} on this machine ({millions} million pixels): "
                    "save it smaller, or as a plain JPEG"
                )
            if pixels > MAX_PIXELS or needed > LARGE_BYTES:
                stack.enter_context(_one_large_photo)
            return _decoded(opened, kind or "", full_size=size)
    except DataError:
        raise
    # Decoders of broken files raise nearly anything: OSError, SyntaxError, struct.error, ValueError.
    except Exception as error:
        raise DataError(_reason(error)) from error


def _choose_size(opened: ImageFile, *, least_side: int | None) -> None:
    """Have a JPEG decoded at a smaller size, where that is enough."""
    size, factor = opened.size, _factor(opened.width * opened.height)
    if factor > 1 or least_side is not None:
        enough = max(size) if least_side is None else least_side
        opened.draft(None, (min(enough, size[0] // factor), min(enough, size[1] // factor)))


def _decoded(opened: ImageFile, kind: str, *, full_size: tuple[int, int]) -> Image.Image:
    factor = _factor(full_size[0] * full_size[1])
    if opened.width * opened.height > _STRIP_PIXELS:
        unpacked = unpack(opened, kind)
        if unpacked is not None:
            return _upright(_reduced(unpacked.rows, unpacked.size, factor), opened)
    raw = opened.tile[0].args if opened.tile else None
    opened.load()
    if kind == "PNG":
        scale_transparent_colour(opened, raw=str(raw[0] if isinstance(raw, tuple) else raw))
    # A JPEG is already reduced, by the factor or by what of it is possible.
    left = factor * opened.width // full_size[0]
    # Transparency takes several copies on its way.
    plain = opened.mode == "RGB" and "transparency" not in opened.info
    whole = left <= 1 and (plain or opened.width * opened.height <= _STRIP_PIXELS)
    if whole:
        return _upright(to_rgb(opened), opened)
    width = opened.width
    rows = _reduced(lambda top, bottom: opened.crop((0, top, width, bottom)), opened.size, max(1, left))
    return _upright(rows, opened)


def _upright(found: Image.Image, opened: ImageFile) -> Image.Image:
    turn = _TURNS.get(_orientation(opened))
    return found if turn is None else found.transpose(turn)


def _factor(pixels: int) -> int:
    """Return how many times smaller each side of a photo is made."""
    factor = 1
    while pixels > MAX_PIXELS and pixels > MAX_PIXELS // 2 * factor**2:
        factor *= 2
    return factor


def _reduced(rows: Callable[[int, int], Image.Image], size: tuple[int, int], factor: int) -> Image.Image:
    """Convert and reduce a large picture strip by strip, so that it isn't held twice."""
    width, height = size
    result = Image.new("RGB", (-(-width // factor), -(-height // factor)))
    step = max(1, _STRIP_PIXELS // (width * factor)) * factor
    for top in range(0, height, step):
        strip = to_rgb(rows(top, min(height, top + step)))
        result.paste(strip.reduce(factor) if factor > 1 else strip, (0, top // factor))
    return result


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation; 1, upright, where there is none or it can't be read."""
    try:
        if "exif" in image.info:
            check_exif(image.info["exif"])
        elif len(image.info.get(_PROFILE, "")) > _MOST_PROFILE:
            return 1
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    # Damaged metadata is no reason to drop a photo.
    except Exception:
        return 1


def _reason(error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"more than {MOST_PIXELS} pixels"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, MemoryError):
        return "there is too little memory to decode it"
    if "truncated" in str(error):
        return "it is cut off: copy or download it again"
    # What a decoder says of a broken file is of no use to its owner, and differs from file to file.
    return "it is damaged: copy or download it again, or save it anew as JPEG or PNG"
