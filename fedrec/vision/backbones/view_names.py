"""The names of the fixed views of a photo, apart from the code that makes them."""

from __future__ import annotations

from typing import Final, Literal, get_args

FixedView = Literal["wide", "squash", "crop", "flip"]

VIEWS: Final[tuple[FixedView, ...]] = get_args(FixedView)
"""``wide``: the middle square of the whole short side. ``squash``: the whole photo, brought to a square.
``crop``: the middle 7/8 of the short side, as networks are evaluated on ImageNet. ``flip``: its mirror."""
