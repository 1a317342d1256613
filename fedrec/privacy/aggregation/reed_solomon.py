"""Locate the errors of a Reed-Solomon word with Berlekamp and Welch's decoder (1986), on Python integers.

A word has one symbol per committee member, so that cubic time is negligible. The decoder runs only after
shares have contradicted each other.
"""

from __future__ import annotations

from collections.abc import Mapping


def locate(word: Mapping[int, int], *, threshold: int, errors: int, prime: int) -> tuple[int, ...] | None:
    """Find the points at which a word is wrong.

    A correct word is the values of a polynomial P of degree below ``threshold``. With an error locator E,
    monic of degree ``errors``, and Q = P * E, every point satisfies Q(x) = y * E(x). These are as many linear
    equations as points, in threshold + 2 * errors unknowns.

    Args:
        word: values below the prime, by distinct points that are not zero modulo the prime.
        threshold: the degree of P is below it.
        errors: most wrong points; 2 * errors + threshold must not exceed the length of the word, or the
            result would not be unique.
        prime: the field's modulus.

    Returns:
        The wrong points in ascending order; None if ``errors`` of them don't explain the word.

    Raises:
        ValueError: the word is too short for so many errors.
    """
    unknowns = threshold + 2 * errors
    if unknowns > len(word):
        raise ValueError(f"{errors} errors can't be told among {len(word)} symbols of dimension {threshold}")
    rows = []
    for x, y in word.items():
        powers = [pow(x, k, prime) for k in range(threshold + errors)]
        locator = [-y * powers[k] % prime for k in range(errors)]
        rows.append([*powers, *locator, y * pow(x, errors, prime) % prime])
    solution = _solve(rows, unknowns=unknowns, prime=prime)
    if solution is None:
        return None
    locator = [*solution[threshold + errors :], 1]
    return tuple(sorted(x for x in word if _value(locator, x, prime=prime) == 0))


def _value(coefficients: list[int], x: int, *, prime: int) -> int:
    out = 0
    for coefficient in reversed(coefficients):
        out = (out * x + coefficient) % prime
    return out


def _solve(rows: list[list[int]], *, unknowns: int, prime: int) -> list[int] | None:
    """Solve linear equations (coefficients, then the right side) by Gaussian elimination.

    If the solution is not unique, the free unknowns are 0: every solution has the same ratio Q / E.

    Returns:
        The solution; None if the equations are inconsistent.
    """
    pivots: list[int] = []
    for column in range(unknowns):
        top = len(pivots)
        found = next((i for i in range(top, len(rows)) if rows[i][column]), None)
        if found is None:
            continue
        rows[top], rows[found] = rows[found], rows[top]
        inverse = pow(rows[top][column], -1, prime)
        rows[top] = [value * inverse % prime for value in rows[top]]
        for i, row in enumerate(rows):
            if i != top and row[column]:
                factor = row[column]
                rows[i] = [(a - factor * b) % prime for a, b in zip(row, rows[top], strict=True)]
        pivots.append(column)
    if any(row[-1] for row in rows[len(pivots) :]):
        return None
    solution = [0] * unknowns
    for row, column in zip(rows, pivots, strict=False):
        solution[column] = row[-1]
    return solution
