"""Name the two ways in which folders hold photos."""

from __future__ import annotations

from typing import Literal

Layout = Literal["class", "product"]
"""A folder for each class, or class folders with a folder for each product."""
