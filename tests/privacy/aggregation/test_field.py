"""Products modulo 2**31 - 1 against the same in Python's integers."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from fedrec.privacy.aggregation.field import MAX_INNER, MAX_TERMS, PRIME, multiply, powers, products_with

UInt64Array = NDArray[np.uint64]


def numbers(shape: tuple[int, ...], *, kind: str) -> UInt64Array:
    """Random numbers, or the largest ones, at which a sum would be rounded first."""
    if kind == "largest":
        return np.full(shape, PRIME - 1, dtype=np.uint64)
    if kind == "low halves":
        return np.full(shape, 2**16 - 1, dtype=np.uint64)
    generator = np.random.default_rng(7)
    return generator.integers(0, PRIME, shape, dtype=np.uint64)


def slowly(left: UInt64Array, right: UInt64Array) -> list[list[int]]:
    """Multiply in Python's integers."""
    columns = right.T.tolist()
    return [
        [sum(a * b for a, b in zip(row, column, strict=True)) % PRIME for column in columns]
        for row in left.tolist()
    ]


@pytest.mark.parametrize("kind", ["random", "largest", "low halves"])
@pytest.mark.parametrize(("m", "k", "n"), [(1, 1, 1), (3, 2, 5), (40, 27, 200), (5, 3000, 3), (2, 0, 4)])
def test_products_equal_those_of_integers(kind: str, m: int, k: int, n: int) -> None:
    left, right = numbers((m, k), kind=kind), numbers((k, n), kind=kind)
    assert multiply(left, right).tolist() == slowly(left, right)
    # Rows that lie apart in memory, as a transposed matrix has them.
    assert multiply(right.T, left.T).tolist() == slowly(right.T, left.T)
    if k:
        assert products_with(left, right[:, 0]).tolist() == [row[0] for row in slowly(left, right)]


def test_the_longest_sums_are_exact() -> None:
    for kind in ("largest", "low halves"):
        row = numbers((1, MAX_INNER), kind=kind)
        expected = int(row[0, 0]) ** 2 * MAX_INNER % PRIME
        assert multiply(row, row.T).tolist() == [[expected]]
        row = numbers((1, MAX_TERMS), kind=kind)
        assert products_with(row, row[0]).tolist() == [int(row[0, 0]) ** 2 * MAX_TERMS % PRIME]
    with pytest.raises(ValueError, match="multiplied"):
        multiply(numbers((1, MAX_INNER + 1), kind="random"), numbers((MAX_INNER + 1, 1), kind="random"))
    with pytest.raises(ValueError, match="multiplied"):
        products_with(numbers((1, MAX_TERMS + 1), kind="random"), numbers((MAX_TERMS + 1,), kind="random"))
    with pytest.raises(ValueError, match="multiplied"):
        multiply(numbers((2, 3), kind="random"), numbers((2, 3), kind="random"))


def test_powers_of_points() -> None:
    assert powers(40, 27).tolist() == [[pow(x, k, PRIME) for k in range(27)] for x in range(1, 41)]
