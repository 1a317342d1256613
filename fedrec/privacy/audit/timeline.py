"""Charts of epsilon over time: a small one for each merchant, on common axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from fedrec._internal import number_format
from fedrec.privacy.audit.bundled_ledger import or_infinite
from fedrec.report.charts import Chart, Line, Tick, y_axis
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
_FAR_CAP = 4.0
"""A cap this many times above all that was spent would flatten the curves: it is stated in words instead."""
_STEPS = (
    *(timedelta(seconds=n) for n in (1, 2, 5, 10, 15, 30)),
    *(timedelta(minutes=n) for n in (1, 2, 5, 10, 15, 30)),
    *(timedelta(hours=n) for n in (1, 2, 3, 6, 12)),
    *(timedelta(days=n) for n in (1, 2, 5, 7, 14, 30, 60, 90, 180, 365, 730, 1825, 3650)),
)
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def timeline(ledgers: Mapping[str, Sequence[Mapping[str, Any]]], caps: Mapping[str, float | None]) -> Plots:
    """Draw the epsilons of ledgers over time.

    Args:
        ledgers: entries by merchant, at least one of them with an entry.
        caps: the merchants' lifetime caps; None for no cap.

    Returns:
        The charts of the ``MOST_PANELS`` merchants that spent most.
    """
    charged = {name: entries for name, entries in ledgers.items() if entries}
    times = [datetime.fromisoformat(entry["created_at"]) for entries in charged.values() for entry in entries]
    start, end = min(times), max(times)
    spent = {name: or_infinite(entries[-1]["epsilons"]["spent_after"]) for name, entries in charged.items()}
    order = sorted(charged, key=lambda name: -spent[name])[:MOST_PANELS]
    shown = [name for name in charged if name in order]
    lines = {
        name: (
            Line(_curve(charged[name], "own_epsilon", start=start, end=end), "orange"),
            Line(_curve(charged[name], "spent_after", start=start, end=end), "blue"),
        )
        for name in shown
    }
    highest = max((y for drawn in lines.values() for line in drawn for _, y in line.points), default=0.0)
    highest = highest or 1.0
    far = {name: cap for name in shown if (cap := caps.get(name)) is not None and cap > _FAR_CAP * highest}
    near = [cap for name in shown if (cap := caps.get(name)) is not None and name not in far]
    x_ticks, x_title = _time_ticks(start, end)
    y_ticks = y_axis(max([highest, *near]), about=4)
    plots = []
    for name in shown:
        last = charged[name][-1]["epsilons"]["spent_after"]
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
    caption = (
        f"Lifetime epsilon over time. Upward: epsilon, the same scale for all. Across: {x_title}. "
        + _notes(far, shown=len(shown), charged=len(charged))
    )
    return Plots(tuple(plots), caption=caption.strip(), small=True, key=_KEY)


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


def _curve(entries: Sequence[Mapping[str, Any]], key: str, *, start: datetime, end: datetime) -> Curve:
    values = [entry["epsilons"][key] for entry in entries]
    if any(value is None for value in values):
        return ()
    span = (end - start).total_seconds()
    # Charges within one second are spread by their order, since a vertical line would show nothing.
    places = [
        (datetime.fromisoformat(entry["created_at"]) - start).total_seconds() / span
        if span
        else k / len(entries)
        for k, entry in enumerate(entries, start=1)
    ]
    before = entries[0]["epsilons"]["spent_before"] or 0.0 if key == "spent_after" else 0.0
    first = (places[0] if span else 0.0, before)
    return (first, *zip(places, values, strict=True))


def _time_ticks(start: datetime, end: datetime) -> tuple[tuple[Tick, ...], str]:
    """Return round moments between two times, as positions from 0 to 1, and the axis' title."""
    day = f"{start.day} {_MONTHS[start.month - 1]} {start.year}"
    span = end - start
    if not span:
        return (), f"in order of charging, all at {start:%H:%M:%S} UTC on {day}"
    step = next((step for step in _STEPS if span / step <= _MOST_TICKS), _STEPS[-1])
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


def _label(moment: datetime, step: timedelta) -> str:
    if step >= timedelta(days=30):
        return f"{_MONTHS[moment.month - 1]} {moment.year}"
    if step >= timedelta(days=1):
        return f"{moment.day} {_MONTHS[moment.month - 1]}"
    return f"{moment:%H:%M}" if step >= timedelta(minutes=1) else f"{moment:%H:%M:%S}"
