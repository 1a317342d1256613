"""Options that several commands take, checked."""

from __future__ import annotations

from typing import Literal

from fedrec.errors import ConfigError
from fedrec.protocol.plan import Unit
from fedrec.vision.folders import Layout


def check_layout(text: str) -> Layout:
    """Return ``--layout`` as one of its values; ``ConfigError`` for another."""
    if text == "class":
        return "class"
    if text == "product":
        return "product"
    raise ConfigError(f"--layout {text} is unknown: give class or product")


def check_unit(text: str | None, *, layout: Layout) -> Unit:
    """Return ``--unit`` as one of its values, the layout's if not given; ``ConfigError`` for another."""
    if text == "product" or (text is None and layout == "product"):
        if layout != "product":
            raise ConfigError("--unit product needs --layout product: a folder per product")
        return "product"
    if text in (None, "record"):
        return "record"
    raise ConfigError(f"--unit {text} is unknown: give record or product")


def check_format(text: str) -> Literal["text", "json"]:
    """Return a log format; ``ConfigError`` for another."""
    if text == "json":
        return "json"
    if text == "text":
        return "text"
    raise ConfigError(f"--log-format {text} is neither text nor json")
