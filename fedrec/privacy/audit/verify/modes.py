"""The privacy modes that plans and charges name: whether there is noise, and whether merchants share it."""

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
