"""Tell a catalogue's folder from others; nothing else of a catalogue is imported for it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

DATABASE: Final = "catalogue.sqlite"
"""The file in a catalogue's folder that holds the truth."""


def is_catalogue(place: Path) -> bool:
    """Return whether a path is the folder of a catalogue."""
    return (place / DATABASE).is_file()
