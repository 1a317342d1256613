"""Define the outcome of a check: problems by merchant, missing parts, and the verdict."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

UNREADABLE = (
    KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RecursionError,
    ZeroDivisionError, MemoryError,
)  # fmt: skip
"""Everything that Python can raise on a malformed or hostile file."""
FILE_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_SIGNS = " ._-'’&+,()·・\u200c\u200d"


def is_name(text: str) -> bool:
    """Return whether this can be a merchant's name: letters, marks and digits of any script, and few signs.

    Nothing in such a name moves a terminal's cursor or starts a line.
    """
    return (
        1 <= len(text) <= 64
        and unicodedata.normalize("NFC", text) == text
        and any(unicodedata.category(sign)[0] in "LN" for sign in text)
        and all(unicodedata.category(sign)[0] in "LMN" or sign in _SIGNS for sign in text)
    )


class Problem(NamedTuple):
    """A failed check.

    Attributes:
        entry: number of the ledger entry, from 1; None if it isn't about an entry.
        reason: what is wrong.
    """

    entry: int | None
    reason: str


class UnusableError(Exception):
    """The file is no audit bundle; nothing was checked."""


@dataclass(frozen=True)
class Anchors:
    """Trust anchors: public keys that the auditor obtained independently, 64 hexadecimal digits each.

    Attributes:
        servers: the servers' keys; if any are given, they must be exactly the bundle's.
        merchants: merchants' keys by name; each of these merchants must be in the bundle.
    """

    servers: frozenset[str] = frozenset()
    merchants: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Outcome:
    """The outcome of checking a bundle.

    Attributes:
        keys: all public keys in the bundle, by owner.
        lines: what holds.
        failures: the first failed check, by merchant; "" for the bundle itself.
        gaps: what could not be checked since parts are missing.
        alarms: why there is no privacy guarantee although the record holds.
        exposures: trainings whose single updates the server could read.
    """

    keys: dict[str, str] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    gaps: list[str] = field(default_factory=list)
    alarms: list[str] = field(default_factory=list)
    exposures: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether all checks that could be run succeeded."""
        return not self.failures

    @property
    def complete(self) -> bool:
        """Whether no part was missing."""
        return not self.gaps

    @property
    def verdict(self) -> str:
        """The verdict, one sentence."""
        if not self.ok:
            return "The record does NOT hold."
        text = "The record holds" if self.complete else "The record holds as far as it could be checked"
        noted = [f"no guarantee: {'; '.join(self.alarms)}"] if self.alarms else []
        return f"{'; '.join([text, *noted, *self.exposures])}."

    def fail(self, where: str, problems: Sequence[Problem]) -> bool:
        """Record the first of these problems, by entry, unless an earlier check failed there.

        Args:
            where: the merchant's name; "" for the bundle itself.
            problems: what a check found, in any order.

        Returns:
            Whether there was a problem.
        """
        if not problems:
            return False
        entry, reason = min(problems, key=lambda problem: problem.entry or math.inf)
        text = reason if entry is None else f"entry {entry}: {reason}"
        self.failures.setdefault(where, " ".join(text.split())[:500])
        return True


@dataclass
class Merchant:
    """One merchant's part of a bundle; the checks fill everything but the first three attributes.

    Attributes:
        name: the merchant's name.
        public: its public key now, 64 hexadecimal digits.
        raw: its part of the bundle, as parsed from JSON.
        entries: its ledger entries, up to the first that isn't valid.
        covered: number of the last entry that a receipt is for; 0 for none.
        versions: disclosed version of the photos, by number of the entry.
        keys: its keys, each with the number of the first entry that it signs.
        gaps: what could not be checked since parts are missing.
    """

    name: str
    public: str
    raw: Mapping[str, Any]
    entries: list[dict[str, Any]] = field(default_factory=list)
    covered: int = 0
    versions: dict[int, str] = field(default_factory=dict)
    gaps: list[str] = field(default_factory=list)
    keys: list[tuple[int, str]] = field(default_factory=list)

    def key_of(self, number: int) -> str:
        """Return the key that signs an entry, by its number; for one that isn't there, the last key."""
        return next((key for start, key in reversed(self.keys) if start <= number), self.public)


def problems_of(check: Iterator[Problem]) -> list[Problem]:
    """Run a check and return its problems; an exception on malformed content is a problem too."""
    found = []
    try:
        for problem in check:
            found.append(problem)
    except UNREADABLE as error:
        found.append(unreadable(error))
    return found


def unreadable(error: BaseException) -> Problem:
    """Return the problem for an exception on malformed content."""
    return Problem(None, f"a part can't be read ({type(error).__name__}: {str(error)[:200]})")


def shown(value: float | None) -> str:
    """Format an epsilon; None is one without a bound."""
    return "without a bound" if value is None else f"{value:.4g}"
