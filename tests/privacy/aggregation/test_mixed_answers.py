"""What a server learns that asks honest members about different survivor sets, by linear algebra.

A key's scalar is the value at zero of a dealer's polynomial. The adversary has every dealer's values at the
corrupt members, and each honest member's one sum over the dealers of the set that it was asked about. What
follows of the keys is what the space of these equations has in common with that of the values at zero.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from itertools import combinations, product

import pytest

from fedrec.privacy.aggregation.scalar_sharing import ORDER, share_of

Row = list[int]


def rank(rows: Iterable[Row]) -> int:
    """The rank modulo the order of the group."""
    pivots: dict[int, Row] = {}
    for row in rows:
        for column, pivot in pivots.items():
            if factor := row[column]:
                row = [(value - factor * other) % ORDER for value, other in zip(row, pivot, strict=True)]
        first = next((column for column, value in enumerate(row) if value), None)
        if first is not None:
            inverse = pow(row[first], -1, ORDER)
            pivots[first] = [value * inverse % ORDER for value in row]
    return len(pivots)


class View:
    """An adversary's equations about the polynomials of honest dealers 0, 1, ..."""

    def __init__(self, *, dealers: int, threshold: int, corrupt: Sequence[int]) -> None:
        self.dealers, self.threshold = dealers, threshold
        self.rows = [self.at(member, {dealer}) for member in corrupt for dealer in range(dealers)]

    def at(self, member: int, dealers: Iterable[int]) -> Row:
        """The sum over dealers of their polynomials' values at a member, as a function of coefficients."""
        powers = [
            share_of([[int(power == other)] for other in range(self.threshold)], member=member)[0]
            for power in range(self.threshold)
        ]
        return [value for dealer in range(self.dealers) for value in self._of(dealer in set(dealers), powers)]

    def key(self, dealers: Iterable[int]) -> Row:
        """The sum of dealers' keys."""
        at_zero = [1] + [0] * (self.threshold - 1)
        return [
            value for dealer in range(self.dealers) for value in self._of(dealer in set(dealers), at_zero)
        ]

    def _of(self, taken: bool, values: Row) -> Row:
        return values if taken else [0] * self.threshold

    def known(self, keys: Sequence[Row] = ()) -> int:
        """How many independent functions of the keys follow, once some sums of keys are given."""
        rows, every = self.rows + list(keys), [self.key({dealer}) for dealer in range(self.dealers)]
        return rank(rows) + self.dealers - rank(rows + every)


def seen(asked: dict[int, frozenset[int]], *, dealers: int, threshold: int, corrupt: Sequence[int]) -> View:
    """What comes of asking each honest member about a set."""
    view = View(dealers=dealers, threshold=threshold, corrupt=corrupt)
    view.rows += [view.at(member, honest) for member, honest in asked.items()]
    return view


@pytest.mark.parametrize("corrupt", [1, 2, 3, 4])
def test_four_merchants_show_one_sum_or_nothing_whatever_each_member_is_asked(corrupt: int) -> None:
    # Dealers 0 to 2 are honest; the corrupt one, which any set may have, is no unknown.
    sets = [frozenset(found) for size in (2, 3) for found in combinations(range(3), size)]
    members = [member for member in range(1, 5) if member != corrupt]
    for chosen in product(sets, repeat=3):
        view = seen(dict(zip(members, chosen, strict=True)), dealers=3, threshold=3, corrupt=[corrupt])
        opened = [found for found in sets if chosen.count(found) + 1 >= 3]
        assert view.known() == len(opened) <= 1
        assert view.known([view.key(found) for found in opened]) == len(opened)


@pytest.mark.parametrize(("members", "threshold", "bad"), [(5, 4, 1), (7, 5, 2), (8, 6, 3), (8, 6, 1)])
def test_sets_drawn_for_each_member_show_nothing_beside_the_opened_one(
    members: int, threshold: int, bad: int
) -> None:
    chance = random.Random(members * 100 + bad)
    for opens in (False, True, False, True, False):
        seats = chance.sample(range(1, members + 1), members)
        sets = [frozenset(chance.sample(range(5), 4)) for _ in seats]
        quorum = threshold - bad if opens else 0
        asked = {seat: sets[0 if place < quorum else place] for place, seat in enumerate(seats[bad:])}
        view = seen(asked, dealers=5, threshold=threshold, corrupt=seats[:bad])
        counts = {one: list(asked.values()).count(one) + bad for one in asked.values()}
        opened = [one for one, answers in counts.items() if answers >= threshold]
        assert view.known() == view.known([view.key(one) for one in opened]) == len(opened) <= 1


def test_two_disjoint_sets_may_show_what_links_their_sums_and_nothing_within_one() -> None:
    """The one thing that answers tell where no set has enough: a record is in one of these sums alone."""
    halves = frozenset({0, 1}), frozenset({2, 3})
    asked = dict(zip(range(3, 8), (*halves, halves[0] | halves[1], *halves), strict=True))
    view = seen(asked, dealers=4, threshold=5, corrupt=[1, 2])
    assert all(list(asked.values()).count(one) + 2 < 5 for one in asked.values())
    assert view.known() == 1
    sums = [view.key(half) for half in halves]
    # The relation is between the two sums: with one of them it gives the other, with both nothing is new.
    assert rank([*view.rows, *sums]) == rank([*view.rows, sums[0]]) == rank(view.rows) + 1
    assert view.known(sums) == 2
