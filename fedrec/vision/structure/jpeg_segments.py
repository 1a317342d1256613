"""Walk a JPEG's segments: count its scans, and find its EXIF data."""

from __future__ import annotations

import re
from typing import Final

from fedrec.vision.structure.bounds import require
from fedrec.vision.structure.facts import Facts
from fedrec.vision.structure.tiff_directory import check_exif

MOST_SCANS: Final = 100
"""A decoder goes over all pixels once for each scan, however few bytes it has. Progressive photos have about
ten."""

_MOST_SEGMENTS: Final = 8192
_MOST_FILLING: Final = 1 << 16
# A marker, as libjpeg finds it between segments and in entropy-coded data alike: no stuffed 0xff, no filling
# and no restart.
_MARKER: Final = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_SOI: Final = 0xD8
_EOI: Final = 0xD9
_SOS: Final = 0xDA
_APP1: Final = 0xE1
_WITHOUT_LENGTH: Final = frozenset({0x01, _SOI})
_PROGRESSIVE: Final = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_EXIF: Final = b"Exif\0\0"


def jpeg_facts(content: bytes) -> Facts:
    """Walk a JPEG up to the end of its first picture.

    Args:
        content: the file; what follows the first picture, such as a film or another picture, is not read.

    Returns:
        Its scans, and whether its coefficients are held until the last of them.

    Raises:
        DataError: it has more scans, segments or filling than a photo, or EXIF data made to fill memory.
    """
    place, segments, scans, components, held = 2, 0, 0, 1, False
    exif: list[bytes] = []
    while (found := _MARKER.search(content, place)) is not None:
        # Before the first scan, Pillow goes over filling byte by byte.
        require(scans > 0 or found.start() - place <= _MOST_FILLING, "it has more filling than a photo")
        marker, place = content[found.start() + 1], found.end()
        if marker == _EOI:
            break
        segments += 1
        require(segments <= _MOST_SEGMENTS, f"it has more than {_MOST_SEGMENTS} segments")
        if marker in _WITHOUT_LENGTH:
            continue
        end = place + max(2, int.from_bytes(content[place : place + 2], "big"))
        if marker == _SOS:
            scans += 1
            require(scans <= MOST_SCANS, f"it has more than {MOST_SCANS} scans")
            held = held or scans > 1 or content[place + 2 : place + 3] != bytes([components])
        elif marker in _FRAMES:
            held = held or marker in _PROGRESSIVE
            components = content[place + 7] if place + 7 < len(content) else components
        elif marker == _APP1 and scans == 0 and content.startswith(_EXIF, place + 2):
            # Pillow joins several, and reads what it has before the first scan.
            exif.append(content[place + 2 + len(_EXIF) : end])
        place = end
    if exif:
        check_exif(b"".join(exif))
    return Facts(passes=max(1, scans), whole_in_memory=held)
