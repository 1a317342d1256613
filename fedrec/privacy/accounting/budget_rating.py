"""What a budget is worth, in words, on one public scale; and which budgets mean nothing at all.

The scale's ends are the tiers of Ponomareva and others 2023, "How to DP-fy ML": strong up to 1, weak or none
above 10; between them 4 parts what still bounds an attack (at most 55 times) from what hardly does. Every
page rates by :func:`rate_budget` and by nothing else.
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
"""Largest epsilon of each word; above the last it is little protection."""
MAX_EPSILON = 64.0
"""Largest budget taken: e^64 is 6e27, a statement about nothing. The sampler's part of delta holds so far."""
MAX_DELTA = 0.01
"""Largest delta taken where no public total is known: one in a hundred records may be shown whole."""

USUAL_DELTA = 1e-5
"""Epsilon at this delta stands beside one at any other, so that figures can be compared."""


@dataclass(frozen=True)
class Rating:
    """A budget in words: ``word`` on the scale, and a ``sentence`` that says what is bounded, and how far."""

    word: Word
    sentence: str

    @property
    def protected(self) -> bool:
        """Whether a page may call the data protected: not where there is little protection."""
        return self.word != "little protection"


def rate_budget(
    epsilon: float | None, *, delta: float, unit: str = "photo", public_total: int | None = None
) -> Rating:
    """Rate an epsilon at a delta; None and infinity stand for no guarantee.

    Args:
        epsilon: what was spent, or a cap.
        delta: the whole delta that it holds at.
        unit: what one record is called.
        public_total: the number of records of the training as everybody knows it; a delta above one in so
            many lets a mechanism publish whole records, whatever epsilon says.

    """
    if epsilon is None or not 0.0 <= epsilon < math.inf or not 0.0 <= delta < 1.0:
        return Rating("little protection", f"Nothing bounds what becomes known of one {unit}.")
    worst: Word = "little protection"
    words: list[Word] = [name for largest, name in SCALE if epsilon <= largest]
    word = words[0] if words else worst
    told = (
        f"Whatever anybody concludes becomes at most {number_format.factor(epsilon)} times as likely, or as "
        f"unlikely, when one {unit} is added or removed, give or take a chance of "
        f"{number_format.delta(delta)}."
    )
    if delta > largest_delta(public_total):
        told += f" That chance alone allows a whole {unit} to be shown."
        word = worst
    return Rating(word, f"{word[0].upper()}{word[1:]}: {told[0].lower()}{told[1:]}")


def unit_in_words(unit: object) -> str:
    """Return what a sentence calls one unit of a plan or report: a product, or else a photo."""
    return "product" if unit == "product" else "photo"


def largest_delta(public_total: int | None) -> float:
    """Return the largest delta that means anything: one in the public total, and 0.01 at most."""
    return MAX_DELTA if public_total is None else min(MAX_DELTA, 1.0 / max(1, public_total))


def check_budget(*, epsilon: float, delta: float, public_total: int | None = None) -> None:
    """Refuse a budget that would state nothing: raise ``ConfigError`` that says why, and what to choose."""
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
