"""What a photo's structure tells of the work of decoding it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Facts:
    """What the structure tells, beside the size that the decoder tells.

    Attributes:
        passes: how often a decoder goes over all pixels: a JPEG's scans.
        whole_in_memory: a JPEG's coefficients are all held until its last scan.
        unit_bytes: what a TIFF's strip or tile unpacks to; each is unpacked as a whole.
        frame_pixels: the pixels of the largest frame that is decoded on the way, where the size that is
            shown says nothing about it (AVIF).
        all_pixels: the pixels of all such frames together.
    """

    passes: int = 1
    whole_in_memory: bool = False
    unit_bytes: int = 0
    frame_pixels: int = 0
    all_pixels: int = 0
