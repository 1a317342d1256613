"""The table of docs/secure-aggregation.md: who must collude for what, from the planner's own defaults."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

from fedrec.privacy.aggregation.seats import choose_seats
from fedrec.server.cohort_defaults import default_colluders, default_min_contributors

PAGE = Path(__file__).resolve().parents[3] / "docs" / "secure-aggregation.md"


def least_for_two_sets(*, members: int, threshold: int) -> int:
    """The fewest corrupt members with which two sets open, by trying every split of the honest ones."""
    return next(
        corrupt
        for corrupt in range(members + 1)
        if any(
            min(part, members - corrupt - part) + corrupt >= threshold
            for part in range(members - corrupt + 1)
        )
    )


def rows() -> Iterator[str]:
    for merchants in (3, 4, 8, 20, 100):
        colluders = default_colluders(merchants)
        minimum = default_min_contributors(merchants=merchants, colluders=colluders, drop=Fraction(0))
        for count in (0, 5):
            seats = choose_seats(cohort=merchants, colluders=colluders, witnesses=count)
            both = least_for_two_sets(members=seats.members, threshold=seats.threshold)
            among = f" ({seats.corrupt_witnesses} of them witnesses)" if count else ""
            absent = min(seats.members - seats.threshold, merchants)
            yield (
                f"| {merchants} | {count} | {seats.members} | {seats.threshold} | {seats.corrupt}{among} | "
                f"{seats.threshold} members | {both} members | {minimum - 1} merchants | "
                f"{merchants - minimum} | {absent} |"
            )


def test_the_documented_table_is_what_the_defaults_give() -> None:
    text = PAGE.read_text("utf-8")
    found = list(rows())
    assert len(found) == 10
    for row in found:
        assert row in text, f"docs/secure-aggregation.md lacks: {row}"


def test_what_the_page_says_beside_the_table_follows_from_the_same_numbers() -> None:
    """Which numbers keep all witnesses together, without a merchant, from opening two sets."""
    cases = [
        # merchants, witnesses, options, t, m, answers that may be missing, whether witnesses alone suffice
        (3, 5, {}, 6, 8, 2, True),
        (4, 5, {}, 7, 9, 2, True),
        (8, 5, {}, 9, 13, 4, True),
        (20, 5, {}, 11, 15, 4, False),
        (3, 5, {"corrupt": 5}, 7, 8, 1, False),
        (4, 5, {"corrupt": 5}, 8, 9, 1, False),
        (8, 5, {"corrupt_witnesses": 5}, 10, 13, 3, False),
        (3, 1, {}, 4, 4, 0, False),
        (3, 2, {}, 4, 5, 1, False),
    ]
    for merchants, count, options, threshold, members, missing, alone in cases:
        seats = choose_seats(
            cohort=merchants, colluders=default_colluders(merchants), witnesses=count, **options
        )
        assert (seats.threshold, seats.members) == (threshold, members)
        assert members - threshold == missing
        assert (least_for_two_sets(members=members, threshold=threshold) <= count) == alone
