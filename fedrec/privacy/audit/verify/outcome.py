"""What comes of a check: problems by merchant, what was missing, and the verdict."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

UNREADABLE = (
    KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RecursionError,
    ZeroDivisionError, MemoryError,
)  # fmt: skip
"""Whatever a stranger's file can make Python raise."""
NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class Problem(NamedTuple):
    """Something that doesn't hold: the number of the entry, counted from 1, if it is one, and why."""

    entry: int | None
    reason: str


class UnusableError(Exception):
    """The file is no audit bundle at all: nothing was checked."""


@dataclass(frozen=True)
class Anchors:
    """Keys got by another way, 64 hexadecimal digits each: servers', and merchants' by name.

    Where servers' are given, they are all of a bundle's; every merchant whose key is given must be in it.
    """

    servers: frozenset[str] = frozenset()
    merchants: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Outcome:
    """What came of a bundle.

    ``keys`` are all public keys in it by whose they are, ``lines`` says what holds, ``failures`` the first
    thing that doesn't, by merchant ("" for the bundle itself), ``gaps`` what could not be checked, ``alarms``
    why there is no guarantee although the record holds, ``exposures`` where single updates lay open.
    """

    keys: dict[str, str] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    gaps: list[str] = field(default_factory=list)
    alarms: list[str] = field(default_factory=list)
    exposures: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether everything that could be checked held."""
        return not self.failures

    @property
    def complete(self) -> bool:
        """Whether nothing was missing."""
        return not self.gaps

    @property
    def verdict(self) -> str:
        """One line for a person."""
        if not self.ok:
            return "The record does NOT hold."
        text = "The record holds" if self.complete else "The record holds as far as it could be checked"
        noted = [f"no guarantee: {'; '.join(self.alarms)}"] if self.alarms else []
        return f"{'; '.join([text, *noted, *self.exposures])}."

    def fail(self, where: str, problems: Sequence[Problem]) -> bool:
        """Keep the first of these problems, by entry; return whether there was one."""
        if not problems:
            return False
        entry, reason = min(problems, key=lambda problem: problem.entry or math.inf)
        text = reason if entry is None else f"entry {entry}: {reason}"
        self.failures.setdefault(where, " ".join(text.split())[:500])
        return True


@dataclass
class Merchant:
    """One merchant's part of a bundle, as far as its chain holds; :func:`_merchant` fills it.

    ``covered`` is the last entry that a receipt is for; ``versions`` are the photos' names that were
    disclosed, by entry.
    """

    name: str
    public: str
    raw: Mapping[str, Any]
    entries: list[dict[str, Any]] = field(default_factory=list)
    covered: int = 0
    versions: dict[int, str] = field(default_factory=dict)
    gaps: list[str] = field(default_factory=list)


def guarded(check: Iterator[Problem]) -> list[Problem]:
    """Run a check to its end; what it stumbles over is a problem too."""
    found = []
    try:
        for problem in check:
            found.append(problem)
    except UNREADABLE as error:
        found.append(unreadable(error))
    return found


def unreadable(error: BaseException) -> Problem:
    """Say in one line what a check stumbled over."""
    return Problem(None, f"a part can't be read ({type(error).__name__}: {str(error)[:200]})")


def shown(value: float | None) -> str:
    """Write an epsilon for people; None has no bound."""
    return "without a bound" if value is None else f"{value:.4g}"
