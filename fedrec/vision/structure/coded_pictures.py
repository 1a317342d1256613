"""Bound the work of decoding an AVIF or HEIC file by what is coded in it, not by the size that it shows."""

from __future__ import annotations

from typing import Final

from fedrec.vision.structure.av1_frames import av1_frames
from fedrec.vision.structure.bounds import require
from fedrec.vision.structure.facts import Facts
from fedrec.vision.structure.iso_boxes import parts
from fedrec.vision.structure.tiff_directory import check_exif

_MOST_HEVC_PICTURES: Final = 4
_MOST_HEVC_UNITS: Final = 4096
_EXIF_HEAD: Final = 4


def avif_facts(content: bytes) -> Facts:
    """Walk all AV1 data of an AVIF file.

    Args:
        content: the file.

    Returns:
        The pixels of its largest frame; and those of all frames together, hidden ones and tiles included.

    Raises:
        DataError: the file is damaged, or has more in it than a photo.
    """
    largest = together = 0
    for part in parts(content):
        if part.kind == b"Exif":
            check_exif(part.data[_EXIF_HEAD:])
        elif part.kind == b"av01":
            frames = av1_frames(part.data)
            largest = max(largest, frames.pixels)
            together += frames.pixels * max(1, frames.number)
    return Facts(frame_pixels=largest, all_pixels=together)


def heic_facts(content: bytes) -> Facts:
    """Walk all HEVC data of a HEIC file. Its decoder checks the size of what is coded itself.

    Args:
        content: the file.

    Returns:
        Nothing that its size doesn't tell.

    Raises:
        DataError: the file is damaged, or has more in it than a photo.
    """
    for part in parts(content):
        if part.kind == b"Exif":
            check_exif(part.data[_EXIF_HEAD:])
        elif part.kind == b"hvc1":
            check_hevc(part.data)
    return Facts()


def check_hevc(data: bytes) -> None:
    """Refuse HEVC data of more than one picture; a decoder goes through all of them.

    Args:
        data: one item's data: units, each after its length.

    Raises:
        DataError: it has more pictures or units than an item.
    """
    place = units = pictures = 0
    while place + 4 < len(data):
        units += 1
        require(units <= _MOST_HEVC_UNITS, f"it has a picture of more than {_MOST_HEVC_UNITS} units")
        size = int.from_bytes(data[place : place + 4], "big")
        unit = data[place + 4 : place + 7]
        # The units below 32 are slices; a flag tells a picture's first.
        pictures += len(unit) == 3 and unit[0] >> 1 & 63 < 32 and bool(unit[2] & 128)
        require(pictures <= _MOST_HEVC_PICTURES, "it has many pictures in one")
        place += 4 + size
