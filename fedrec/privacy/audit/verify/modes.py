"""What plans and charges name: privacy modes, which say who adds noise, and ways to bring a gradient to C."""

from __future__ import annotations

from typing import NamedTuple


class Mode(NamedTuple):
    """``private``: noise is added. ``shared``: each merchant adds a share, and only sums carry the whole."""

    private: bool
    shared: bool


MODES = {
    "distributed": Mode(private=True, shared=True),
    "local": Mode(private=True, shared=False),
    "off": Mode(private=False, shared=False),
}
CLIPPINGS = ("fixed", "automatic")
"""Either bounds a record's gradient by C, which is all that a figure rests on."""
