"""Plot a comparison: accuracy and macro F1 of each row, with intervals and baselines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedrec._internal import number_format
from fedrec._internal.text import counted
from fedrec.report.charts import Bars, Chart, Colour, Line, Tick, zoomed_axis
from fedrec.report.document import Key, Plot
from fedrec.simulations.comparison.rows import Comparison, Mean, Row

_LONGEST_TICK = 10
_WHISKER = 0.03
"""Width of an interval's bar, of the distance between two rows."""


@dataclass(frozen=True)
class _XAxis:
    """Where rows stand; ``joined`` if their values have an order, so that a line may join them."""

    places: tuple[int, ...]
    ticks: tuple[Tick, ...]
    title: str
    joined: bool


def accuracy_plot(comparison: Comparison) -> Plot | None:
    """Plot the rows; the baseline without noise is a line, unless there is nothing else to show.

    Returns:
        The plot, or None if no row was measured.
    """
    measured = [row for row in comparison.rows if row.accuracy is not None]
    baseline = next((row for row in measured if row.label == comparison.without_noise), None)
    rows = [row for row in measured if row is not baseline] or measured
    if not rows:
        return None
    axis = _x_axis(comparison, rows)
    repeated = all(row.accuracy is not None and row.accuracy.interval is not None for row in rows)
    accuracy = _points(axis, [row.accuracy for row in rows])
    macro_f1 = _points(axis, [row.macro_f1 for row in rows])
    whiskers = [
        (float(place), *interval)
        for place, row in zip(axis.places, rows, strict=True)
        if (interval := _interval(row, repeated=repeated)) is not None
    ]
    across = _points(
        _XAxis((0,), (), "", False), [None if baseline in rows or not baseline else baseline.accuracy]
    )
    heights = [y for _, y in (*accuracy, *macro_f1, *across)] + [y for _, *ends in whiskers for y in ends]
    margin = max(0.01, 0.05 * (max(heights) - min(heights)))
    y_ticks = zoomed_axis(max(0.0, min(heights) - margin), min(1.0, max(heights) + margin), percent=True)
    majority = None if comparison.majority is None else comparison.majority.accuracy
    if majority is not None and not y_ticks[0].at <= majority <= y_ticks[-1].at:
        majority = None
    left, right = min(axis.places) - 0.5, max(axis.places) + 0.5
    level = tuple(Line(((left, y), (right, y)), "orange", dots=False) for _, y in across)
    of_what = "over runs" if repeated else "for the records measured on"
    chart = Chart(
        describes=f"accuracy and macro F1 of {counted(len(rows), 'setting')}, with 95% intervals {of_what}",
        x_range=(left, right),
        x_ticks=axis.ticks,
        y_ticks=y_ticks,
        lines=(*level, *_curve(macro_f1, "violet", axis), *_curve(accuracy, "blue", axis)),
        bars=(Bars(tuple(whiskers), _WHISKER),),
        limit=majority,
        x_title=axis.title,
    )
    accuracy_key: Key = ((f"accuracy, with its 95% interval {of_what}", "blue"), ("macro F1", "violet"))
    level_key: Key = (("accuracy without noise", "orange"),) if across else ()
    majority_key: Key = () if majority is None else (("largest class alone", "limit"),)
    return Plot(chart, "Accuracy and macro F1", key=accuracy_key + level_key + majority_key)


def _x_axis(comparison: Comparison, rows: Sequence[Row]) -> _XAxis:
    """Place rows by the one option in which they differ, if it has short values, else by their numbers."""
    varied = comparison.varied
    values = [row.options.get(varied[0]) for row in rows] if len(varied) == 1 else []
    numbers = [number_format.number(value) for value in values]
    ordered = [number for number in numbers if number is not None]
    if values and len(set(ordered)) == len(rows):
        ranks = {number: rank for rank, number in enumerate(sorted(ordered))}
        places = tuple(ranks[number] for number in ordered)
        ticks = tuple(Tick(rank, f"{number:g}") for number, rank in ranks.items())
        return _XAxis(places, ticks, _title(varied[0]), joined=True)
    if len(set(map(str, values))) == len(rows) and all(len(str(value)) <= _LONGEST_TICK for value in values):
        places = tuple(range(len(rows)))
        return _XAxis(places, tuple(Tick(i, str(values[i])) for i in places), _title(varied[0]), joined=False)
    places = tuple(comparison.rows.index(row) + 1 for row in rows)
    return _XAxis(places, tuple(Tick(i, str(i)) for i in places), "row of the table", joined=False)


def _title(option: str) -> str:
    return option.replace("_", " ")


def _points(axis: _XAxis, means: Sequence[Mean | None]) -> list[tuple[float, float]]:
    """Return the points of the means that there are, sorted by x."""
    pairs = zip(axis.places, means, strict=True)
    return sorted((float(place), mean.value) for place, mean in pairs if mean is not None)


def _interval(row: Row, *, repeated: bool) -> tuple[float, float] | None:
    """Return the interval to draw, as far as it lies between 0 and 1."""
    found = row.accuracy_of_records
    if repeated and row.accuracy is not None:
        found = row.accuracy.interval
    return None if found is None else (max(found[0], 0.0), min(found[1], 1.0))


def _curve(points: Sequence[tuple[float, float]], colour: Colour, axis: _XAxis) -> tuple[Line, ...]:
    """Return one line, or a dot for each point where rows have no order."""
    if axis.joined:
        return (Line(tuple(points), colour),)
    return tuple(Line((point,), colour) for point in points)
