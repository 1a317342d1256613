"""Read the structure of a photo of any format."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import BinaryIO, Final

from fedrec.vision.structure.bmp_header import bmp_facts
from fedrec.vision.structure.bounds import MOST_FILE_BYTES, require
from fedrec.vision.structure.coded_pictures import avif_facts, heic_facts
from fedrec.vision.structure.facts import Facts
from fedrec.vision.structure.gif_blocks import gif_facts
from fedrec.vision.structure.jpeg_segments import jpeg_facts
from fedrec.vision.structure.png_chunks import png_facts
from fedrec.vision.structure.tiff_directory import tiff_facts

_OF_FILE: Final[dict[str, Callable[[BinaryIO], Facts]]] = {
    "TIFF": tiff_facts,
    "PNG": png_facts,
    "GIF": gif_facts,
    "BMP": bmp_facts,
}
_OF_CONTENT: Final[dict[str, Callable[[bytes], Facts]]] = {
    "JPEG": jpeg_facts,
    "AVIF": avif_facts,
    "HEIC": heic_facts,
}


def read_structure(file: BinaryIO, kind: str | None) -> Facts:
    """Read what a photo's structure tells of the work of decoding it.

    Args:
        file: the photo, open for reading; afterwards it is at its beginning.
        kind: its format, as its first bytes tell it; None for an unknown one.

    Returns:
        What it tells.

    Raises:
        DataError: the structure is none of a photo.
    """
    length = file.seek(0, io.SEEK_END)
    file.seek(0)
    facts = Facts()
    if kind in _OF_FILE:
        facts = _OF_FILE[kind](file)
    elif kind in _OF_CONTENT:
        require(
            length <= MOST_FILE_BYTES, f"{length >> 20} MiB are over the limit of {MOST_FILE_BYTES >> 20}"
        )
        facts = _OF_CONTENT[kind](file.read())
    file.seek(0)
    return facts
