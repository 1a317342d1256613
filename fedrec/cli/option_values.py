"""Parse the values of options that several commands share."""

from __future__ import annotations

from typing import Literal

from fedrec.errors import ConfigError
from fedrec.protocol.plan import Unit
from fedrec.vision.folders import Layout


def check_layout(text: str) -> Layout:
    """Parse ``--layout``; ``ConfigError`` for an unknown value."""
    if text == "class":
        return "class"
    if text == "product":
        return "product"
    raise ConfigError(f"--layout {text} is unknown: give class or product")


def check_unit(text: str | None, *, layout: Layout) -> Unit:
    """Parse ``--unit``.

    Args:
        text: the option's value; None if it wasn't given.
        layout: the layout, which gives the default.

    Returns:
        The unit.

    Raises:
        ConfigError: the value is unknown or doesn't fit the layout.
    """
    if text == "product" or (text is None and layout == "product"):
        if layout != "product":
            raise ConfigError("--unit product needs --layout product: a folder per product")
        return "product"
    if text in (None, "record"):
        return "record"
    raise ConfigError(f"--unit {text} is unknown: give record or product")


def check_format(text: str) -> Literal["text", "json"]:
    """Parse ``--log-format``; ``ConfigError`` for an unknown value."""
    if text == "json":
        return "json"
    if text == "text":
        return "text"
    raise ConfigError(f"--log-format {text} is unknown: give text or json")
