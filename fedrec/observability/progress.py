"""What a long job tells whoever shows its progress."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """Progress to show: ``done`` of ``total``, a short note, and a plain line where there is no terminal."""

    name: str
    done: int
    total: int
    note: str = ""
    plain: str = ""


Tell = Callable[[Stage], None]
