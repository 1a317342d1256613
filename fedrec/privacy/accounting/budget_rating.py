"""Rate a privacy budget in words on one public scale, and refuse budgets that guarantee nothing.

The ends of the scale are the tiers of Ponomareva and others 2023, "How to DP-fy ML": strong up
to 1, weak or none above 10. Between them, 4 separates budgets that still bound an attack (odds change at most
55 times) from those that hardly do. All pages use :func:`rate_budget`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from fedrec._internal import number_format
from fedrec.errors import ConfigError
from fedrec.privacy.accounting.events import MIN_DELTA

Word = Literal["strong", "moderate", "weak", "little protection"]
SCALE: tuple[tuple[float, Word], ...] = ((1.0, "strong"), (4.0, "moderate"), (10.0, "weak"))
"""Largest epsilon of each word; above the last one the word is "little protection"."""
MAX_EPSILON = 64.0
"""Largest epsilon that is accepted: e^64 is 6e27. The sampler's share of delta is proved up to here."""
MAX_DELTA = 0.01
"""Largest delta that is accepted where no public total is known: one in 100 records may be published."""

USUAL_DELTA = 1e-5
"""Reports show epsilon at this delta beside any other delta, so that results can be compared."""


@dataclass(frozen=True)
class Rating:
    """A budget in words.

    Attributes:
        word: the word on the scale.
        sentence: one or two sentences that say what is bounded, and how far.
    """

    word: Word
    sentence: str

    @property
    def protected(self) -> bool:
        """Whether a page may call the data protected."""
        return self.word != "little protection"


def rate_budget(
    epsilon: float | None, *, delta: float, unit: str = "photo", public_total: int | None = None
) -> Rating:
    """Rate an epsilon at a delta.

    Args:
        epsilon: epsilon spent, or a cap; None or infinite for no guarantee.
        delta: the whole delta of that epsilon.
        unit: the word for one record.
        public_total: number of records of the training that the public knows; a delta above its inverse lets
            a mechanism publish whole records, whatever epsilon is.

    Returns:
        The rating.
    """
    if epsilon is None or not 0.0 <= epsilon < math.inf or not 0.0 <= delta < 1.0:
        return Rating("little protection", f"Nothing bounds what becomes known of one {unit}.")
    worst: Word = "little protection"
    words: list[Word] = [name for largest, name in SCALE if epsilon <= largest]
    word = words[0] if words else worst
    bound = (
        f"Whatever anybody concludes becomes at most {number_format.factor(epsilon)} times as likely, or as "
        f"unlikely, when one {unit} is added or removed, give or take a chance of "
        f"{number_format.delta(delta)}."
    )
    if delta > largest_delta(public_total):
        bound += f" That chance alone allows a whole {unit} to be shown."
        word = worst
    return Rating(word, f"{word[0].upper()}{word[1:]}: {bound[0].lower()}{bound[1:]}")


def unit_in_words(unit: object) -> str:
    """Return the word for one unit of a plan or report: "product", or "photo" for anything else."""
    return "product" if unit == "product" else "photo"


def largest_delta(public_total: int | None) -> float:
    """Return the largest meaningful delta: the inverse of the public total, at most 0.01."""
    return MAX_DELTA if public_total is None else min(MAX_DELTA, 1.0 / max(1, public_total))


def check_budget(*, epsilon: float, delta: float, public_total: int | None = None) -> None:
    """Refuse a budget that guarantees nothing.

    Args:
        epsilon: the epsilon of the budget.
        delta: the delta of the budget.
        public_total: number of records of the training that the public knows; None if unknown.

    Raises:
        ConfigError: epsilon or delta is out of range; the message says why, and what to choose.
    """
    if not 0.0 < epsilon <= MAX_EPSILON:
        raise ConfigError(
            f"epsilon: {epsilon:g} is outside (0, {MAX_EPSILON:g}]; already at {MAX_EPSILON:g} conclusions "
            f"may become {number_format.factor(MAX_EPSILON)} times as likely, which is no guarantee; choose "
            "one such as 8."
        )
    most = largest_delta(public_total)
    if not MIN_DELTA <= delta <= most:
        whole = "" if public_total is None else f", one in the {public_total:,} records"
        raise ConfigError(
            f"delta: {delta:g} is outside [{MIN_DELTA:g}, {most:.3g}{whole}]: a larger one allows whole "
            "records to be shown, whatever epsilon is; choose one such as 1e-5."
        )
