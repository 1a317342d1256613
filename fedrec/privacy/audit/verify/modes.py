"""Define the privacy modes and clipping rules that plans and charges name."""

from __future__ import annotations

from typing import NamedTuple


class Mode(NamedTuple):
    """A privacy mode.

    Attributes:
        private: whether noise is added.
        shared: whether each merchant adds a share, so that only sums have the whole noise.
    """

    private: bool
    shared: bool


MODES = {
    "distributed": Mode(private=True, shared=True),
    "local": Mode(private=True, shared=False),
    "off": Mode(private=False, shared=False),
}
CLIPPINGS = ("fixed", "automatic")
"""Both bound the norm of a record's gradient by C; epsilon depends on nothing else of them."""
