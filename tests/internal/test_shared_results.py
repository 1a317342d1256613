"""Shared results: off until asked for, never above the limit, and the same as computed ones."""

from __future__ import annotations

import pytest

from fedrec._internal.shared_results import SharedResults


def test_nothing_is_kept_until_it_is_asked_for() -> None:
    shared, calls = SharedResults(), []

    def compute() -> int:
        calls.append(1)
        return len(calls)

    assert [shared.of("a", compute, size=lambda _: 1) for _ in range(2)] == [1, 2]
    shared.share(10)
    assert [shared.of("a", compute, size=lambda _: 1) for _ in range(2)] == [3, 3]
    assert shared.of("b", compute, size=lambda _: 1) == 4
    shared.share(0)
    assert shared.of("a", compute, size=lambda _: 1) == 5


def test_the_newest_are_kept_within_the_limit() -> None:
    shared, computed = SharedResults(), []
    shared.share(10)
    for number in range(5):
        shared.of(number, lambda number=number: computed.append(number), size=lambda _: 4)  # type: ignore[misc]
    assert computed == [0, 1, 2, 3, 4]
    for number in (4, 3, 2):
        shared.of(number, lambda number=number: computed.append(number), size=lambda _: 4)  # type: ignore[misc]
    assert computed == [0, 1, 2, 3, 4, 2]
    # What is larger than the limit by itself drops nothing.
    shared.of("large", lambda: None, size=lambda _: 11)
    shared.of(2, lambda: computed.append(2), size=lambda _: 4)
    assert computed == [0, 1, 2, 3, 4, 2]


def test_a_failure_is_passed_on_and_not_kept() -> None:
    shared = SharedResults()
    shared.share(10)

    def fail() -> int:
        raise ArithmeticError("no")

    with pytest.raises(ArithmeticError):
        shared.of("a", fail, size=lambda _: 1)
    assert shared.of("a", lambda: 3, size=lambda _: 1) == 3
