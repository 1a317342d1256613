"""Charts of epsilon over time: a small one for each merchant, on common axes."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal

from fedrec._internal import number_format
from fedrec.privacy.accounting.ledger_entries import SpendingEntry
from fedrec.privacy.audit.bundled_ledger import or_infinite
from fedrec.report.charts import Band, Chart, Line, Tick, y_axis
from fedrec.report.document import Key, Plot, Plots

_KEY: Key = (
    ("spent, as the cap counts it", "blue"),
    ("each training alone, without the declared counts (PLD)", "orange"),
    ("the merchant's lifetime cap", "limit"),
)
MOST_PANELS = 24

Curve = tuple[tuple[float, float], ...]
"""Points: horizontal position in [0, 1], and epsilon."""
_MOST_TICKS = 4
FEWEST = 4
"""From so many merchants on, curves that are nearly the same are drawn as one."""
_ALIKE, _BAND_PLACES = 0.15, 60
"""The largest distance of such curves, as a share of the highest value or of the time; how finely the area
between them is drawn."""
_FAR_CAP = 4.0
"""A cap this many times above all that was spent would flatten the curves: it is stated in words instead."""
_STEPS = (
    *(timedelta(seconds=n) for n in (1, 2, 5, 10, 15, 30)),
    *(timedelta(minutes=n) for n in (1, 2, 5, 10, 15, 30)),
    *(timedelta(hours=n) for n in (1, 2, 3, 6, 12)),
    *(timedelta(days=n) for n in (1, 2, 5, 7, 14, 30, 60, 90, 180, 365, 730, 1825, 3650)),
)
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def timeline(ledgers: Mapping[str, Sequence[SpendingEntry]], caps: Mapping[str, float | None]) -> Plots:
    """Draw the epsilons of ledgers over time.

    Args:
        ledgers: entries by merchant, at least one of them with an entry.
        caps: the merchants' lifetime caps; None for no cap.

    Returns:
        The charts of the ``MOST_PANELS`` merchants that spent most; one of all of them where their curves are
        nearly the same.
    """
    charged = {name: entries for name, entries in ledgers.items() if entries}
    times = [datetime.fromisoformat(entry.created_at) for entries in charged.values() for entry in entries]
    start, end = min(times), max(times)
    spent = {name: or_infinite(entries[-1].epsilons.spent_after) for name, entries in charged.items()}
    order = sorted(charged, key=lambda name: -spent[name])[:MOST_PANELS]
    shown = [name for name in charged if name in order]
    lines = {
        name: (
            Line(_curve(charged[name], of="own", start=start, end=end), "orange"),
            Line(_curve(charged[name], of="spent", start=start, end=end), "blue"),
        )
        for name in charged
    }
    highest = max((y for drawn in lines.values() for line in drawn for _, y in line.points), default=0.0)
    highest = highest or 1.0
    far = {name: cap for name in shown if (cap := caps.get(name)) is not None and cap > _FAR_CAP * highest}
    near = [cap for name in shown if (cap := caps.get(name)) is not None and name not in far]
    x_ticks, x_title = _time_ticks(start, end)
    y_ticks = y_axis(max([highest, *near]), about=4)
    caption = f"Lifetime epsilon over time. Upward: epsilon, the same scale for all. Across: {x_title}. "
    # A cap that isn't there, or lies far above, has no line to explain.
    key = _KEY if near else _KEY[:-1]
    same_cap = len({caps.get(name) for name in charged}) == 1
    if len(charged) >= FEWEST and same_cap and _are_alike(lines.values(), highest):
        drawn = _band_chart(lines.values(), x_ticks=x_ticks, y_ticks=y_ticks, limit=caps.get(shown[0]))
        value = f"{number_format.epsilon(max(spent.values()))} at most"
        plot = Plot(drawn, f"{len(charged)} merchants", "the least and the most of them", value=value)
        caption += _notes(far, shown=len(shown), charged=len(shown))
        return Plots((plot,), caption=caption.strip(), small=True, key=key)
    plots = []
    for name in shown:
        last = charged[name][-1].epsilons.spent_after
        value = "no bound" if last is None else number_format.epsilon(last)
        chart = Chart(
            describes=f"{name}: {value} spent",
            x_range=(0.0, 1.0),
            x_ticks=x_ticks,
            y_ticks=y_ticks,
            lines=lines[name],
            limit=caps.get(name),
            small=True,
        )
        plots.append(Plot(chart, name, value=value))
    caption += _notes(far, shown=len(shown), charged=len(charged))
    return Plots(tuple(plots), caption=caption.strip(), small=True, key=key)


def _are_alike(lines: Iterable[tuple[Line, ...]], highest: float) -> bool:
    """Test whether the curves of all merchants are so nearly the same that one picture shows them all.

    Charge by charge, their values and times lie close together. At one moment their values may not: in a
    round that is under way some merchants are charged for it already.

    Args:
        lines: the curves of each merchant.
        highest: the highest value of all.

    Returns:
        Whether they are.
    """
    for kind in zip(*lines, strict=True):
        curves = [line.points for line in kind]
        if len({len(points) for points in curves}) != 1 or not curves[0]:
            return False
        for same in zip(*curves, strict=True):
            places, values = zip(*same, strict=True)
            if max(places) - min(places) > _ALIKE or max(values) - min(values) > _ALIKE * highest:
                return False
    return True


def _band_chart(
    lines: Iterable[tuple[Line, ...]],
    *,
    x_ticks: tuple[Tick, ...],
    y_ticks: tuple[Tick, ...],
    limit: float | None,
) -> Chart:
    """Draw the curves of several merchants as one area for each kind, with the mean as a line."""
    kinds = list(zip(*lines, strict=True))
    highest = y_ticks[-1].at
    bands = [(_band(kind, highest=highest), kind[0].colour) for kind in kinds]
    return Chart(
        describes=f"{len(kinds[0])} merchants: the least and the most of them at any time",
        x_range=(0.0, 1.0),
        x_ticks=x_ticks,
        y_ticks=y_ticks,
        bands=tuple(Band(places, colour) for places, colour in bands),
        lines=tuple(
            Line(tuple((at, (low + high) / 2) for at, low, high in places), colour, dots=False)
            for places, colour in bands
        ),
        limit=limit,
        small=True,
    )


def _band(lines: Sequence[Line], *, highest: float) -> tuple[tuple[float, float, float], ...]:
    """Return the least and the largest of several curves, at evenly spaced places."""
    places = [place / _BAND_PLACES for place in range(_BAND_PLACES + 1)]
    values = [[_at(line.points, place) for place in places] for line in lines]
    return tuple(
        (place, min(column), min(max(column), highest))
        for place, column in zip(places, zip(*values, strict=True), strict=True)
    )


def _at(points: Curve, place: float) -> float:
    """Return a curve's value at a place, on the line between its points; its ends go on level.

    Where several points share the place (charges of one second), the last of them counts.

    Args:
        points: the curve, at least one point, in order of place.
        place: horizontal position.

    Returns:
        The value.
    """
    after = bisect_right(points, place, key=lambda point: point[0])
    if after == 0 or after == len(points):
        return points[max(after - 1, 0)][1]
    (left, low), (right, high) = points[after - 1], points[after]
    return low + (high - low) * (place - left) / (right - left)


def _notes(far: Mapping[str, float], *, shown: int, charged: int) -> str:
    """State the caps that lie too far above to be drawn, and how many merchants are left out."""
    notes = []
    if far and len(set(far.values())) == 1 and len(far) == shown:
        notes.append(f"The lifetime cap, {next(iter(far.values())):g}, lies far above.")
    elif far:
        named = ", ".join(f"{name} {cap:g}" for name, cap in far.items())
        notes.append(f"Lifetime caps that lie far above: {named}.")
    if charged > shown:
        notes.append(f"The {shown} of {charged} merchants that spent most; the table above has all of them.")
    return " ".join(notes)


def _curve(
    entries: Sequence[SpendingEntry], *, of: Literal["own", "spent"], start: datetime, end: datetime
) -> Curve:
    """Return one epsilon of a ledger over time.

    Args:
        entries: its costs, in order.
        of: that of each training by itself, or what the lifetime filter counts for all.
        start: the time of the first point on the axis.
        end: the time of the last one.

    Returns:
        The points; none where an epsilon has no bound.
    """
    found = [entry.epsilons.own_epsilon if of == "own" else entry.epsilons.spent_after for entry in entries]
    values = [value for value in found if value is not None]
    if len(values) < len(found):
        return ()
    span = (end - start).total_seconds()
    # Charges within one second are spread by their order, since a vertical line would show nothing.
    places = [
        (datetime.fromisoformat(entry.created_at) - start).total_seconds() / span
        if span
        else k / len(entries)
        for k, entry in enumerate(entries, start=1)
    ]
    before = entries[0].epsilons.spent_before or 0.0 if of == "spent" else 0.0
    first = (places[0] if span else 0.0, before)
    return (first, *zip(places, values, strict=True))


def _time_ticks(start: datetime, end: datetime) -> tuple[tuple[Tick, ...], str]:
    """Return round moments between two times, as positions from 0 to 1, and the axis' title."""
    day = f"{start.day} {_MONTHS[start.month - 1]} {start.year}"
    span = end - start
    if not span:
        return (), f"in order of charging, all at {start:%H:%M:%S} UTC on {day}"
    step = next((step for step in _STEPS if span / step <= _most_ticks(step)), _STEPS[-1])
    origin = datetime(start.year, 1, 1, tzinfo=UTC)
    moment = origin + step * -((origin - start) // step)
    ticks = []
    while moment <= end:
        ticks.append(Tick((moment - start) / span, _label(moment, step)))
        moment += step
    title = "date (UTC)" if step >= timedelta(days=1) else f"time (UTC), from {day}"
    if step >= timedelta(days=1) and start.year == end.year and step < timedelta(days=30):
        title = f"date in {start.year} (UTC)"
    return tuple(ticks), title


def _most_ticks(step: timedelta) -> float:
    """Return how many labels have room beside each other in a small chart: some are twice as wide."""
    wide = step < timedelta(minutes=1) or step >= timedelta(days=30)
    return _MOST_TICKS / 2 if wide else _MOST_TICKS


def _label(moment: datetime, step: timedelta) -> str:
    if step >= timedelta(days=30):
        return f"{_MONTHS[moment.month - 1]} {moment.year}"
    if step >= timedelta(days=1):
        return f"{moment.day} {_MONTHS[moment.month - 1]}"
    return f"{moment:%H:%M}" if step >= timedelta(minutes=1) else f"{moment:%H:%M:%S}"
