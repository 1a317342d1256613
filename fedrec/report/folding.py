"""Shorten tables: equal rows become one with their number, and columns without a value are left out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from fedrec._internal import number_format
from fedrec._internal.text import counted, listed
from fedrec.report.document import Cell, Named, Table

FEWEST = 4
"""Fewer equal rows than this stay as they are."""


def folded(table: Table, *, noun: str, loose: Collection[str] = ()) -> Table:
    """Put rows that differ in their name alone into one row with the names and their number.

    Args:
        table: the table; its first column names the row.
        noun: what a row is of, such as "merchant".
        loose: titles of columns of numbers that may differ, and are shown as a range.

    Returns:
        The table; rows stay in the order of the first of each.
    """
    may_differ = {place for place, column in enumerate(table.columns) if column.title in loose}
    groups: dict[tuple[Cell, ...], list[tuple[Cell, ...]]] = {}
    for row in table.rows:
        same = tuple(cell for place, cell in enumerate(row) if place and place not in may_differ)
        groups.setdefault(same, []).append(row)
    rows: list[tuple[Cell, ...]] = []
    for group in groups.values():
        if len(group) < FEWEST:
            rows += group
            continue
        names = listed([_text(row[0]) for row in group], most=12)
        first: Cell = Named(f"{counted(len(group), noun)}", names)
        rest = (
            _range([_text(row[place]) for row in group]) if place in may_differ else group[0][place]
            for place in range(1, len(table.columns))
        )
        rows.append((first, *rest))
    return replace(table, rows=tuple(rows))


def without_empty_columns(table: Table) -> Table:
    """Leave out columns, but for the first, in which no row has a value."""
    kept = [
        place
        for place in range(len(table.columns))
        if not place or any(_text(row[place]) not in ("", number_format.MISSING) for row in table.rows)
    ]
    if not table.rows or len(kept) == len(table.columns):
        return table
    return replace(
        table,
        columns=tuple(table.columns[place] for place in kept),
        rows=tuple(tuple(row[place] for place in kept) for row in table.rows),
    )


def _text(cell: Cell) -> str:
    if isinstance(cell, str):
        return cell
    return str(getattr(cell, "name", None) or getattr(cell, "text", ""))


def _range(texts: Sequence[str]) -> str:
    """Return the smallest and the largest of numbers that were formatted as whole ones."""

    def value(text: str) -> float:
        try:
            return float(text.replace(",", ""))
        except ValueError:
            return float("inf")

    low, high = min(texts, key=value), max(texts, key=value)
    return low if low == high else f"{low} to {high}"
