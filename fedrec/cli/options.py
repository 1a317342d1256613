"""Options that several commands take, checked."""

from __future__ import annotations

from typing import Literal

from fedrec.errors import ConfigError
from fedrec.vision.folders import Layout


def check_layout(text: str) -> Layout:
    """Return ``--layout`` as one of its values; ``ConfigError`` for another."""
    if text == "class":
        return "class"
    if text == "product":
        return "product"
    raise ConfigError(f"--layout {text} is unknown: give class or product")


def check_format(text: str) -> Literal["text", "json"]:
    """Return a log format; ``ConfigError`` for another."""
    if text == "json":
        return "json"
    if text == "text":
        return "text"
    raise ConfigError(f"--log-format {text} is neither text nor json")
