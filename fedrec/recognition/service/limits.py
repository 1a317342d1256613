"""What one request may cost."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of time and memory.

    Attributes:
        body_bytes: most bytes of an uploaded photo.
        pixels: most pixels of one, read from its header before anything is decoded.
        seconds: time in which its bytes must have arrived.
        memory: most bytes of all uploads that are in memory at the same time; more are refused as too many.
        working: photos that are worked on at the same time; others wait.
    """

    body_bytes: int = 20 << 20
    pixels: int = 32_000_000
    seconds: float = 30.0
    memory: int = 256 << 20
    working: int = min(4, os.cpu_count() or 1)
