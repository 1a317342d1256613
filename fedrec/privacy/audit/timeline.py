"""Epsilon over time, a panel for each merchant: what is drawn, whatever it is drawn with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from fedrec._internal import number_format
from fedrec.privacy.audit.blocks import Line, Panel, Panels

SPENT, TRAINING = "spent, as the cap counts it", "each training alone (PLD)"
MOST_PANELS = 24
_MOST_TICKS = 4
_FAR_CAP = 4.0
"""A cap so many times higher than all that was spent would flatten the curves: it is named instead."""
_STEPS = (
    *(timedelta(seconds=n) for n in (1, 2, 5, 10, 15, 30)),
    *(timedelta(minutes=n) for n in (1, 2, 5, 10, 15, 30)),
    *(timedelta(hours=n) for n in (1, 2, 3, 6, 12)),
    *(timedelta(days=n) for n in (1, 2, 5, 7, 14, 30, 60, 90, 180, 365, 730, 1825, 3650)),
)
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def timeline(ledgers: Mapping[str, Sequence[Mapping[str, Any]]], caps: Mapping[str, float | None]) -> Panels:
    """Draw the epsilons of ledgers: entries by merchant, at least one of them with an entry.

    ``caps`` are the merchants' lifetime caps; None for no cap.
    """
    charged = {name: entries for name, entries in ledgers.items() if entries}
    times = [datetime.fromisoformat(entry["created_at"]) for entries in charged.values() for entry in entries]
    start, end = min(times), max(times)
    spent = {name: _infinite(entries[-1]["epsilons"]["spent_after"]) for name, entries in charged.items()}
    order = sorted(charged, key=lambda name: -spent[name])[:MOST_PANELS]
    shown = [name for name in charged if name in order]
    panels = [
        Panel(
            name=name,
            curves={
                SPENT: _curve(charged[name], "spent_after", start=start, end=end),
                TRAINING: _curve(charged[name], "own_epsilon", start=start, end=end),
            },
            cap=caps.get(name),
            last=number_format.epsilon(charged[name][-1]["epsilons"]["spent_after"])
            if charged[name][-1]["epsilons"]["spent_after"] is not None
            else "no bound",
        )
        for name in shown
    ]
    highest = max((y for panel in panels for line in panel.curves.values() for _, y in line), default=0.0)
    highest = highest or 1.0
    notes = []
    far = {name: cap for name in shown if (cap := caps.get(name)) is not None and cap > _FAR_CAP * highest}
    near = [cap for name in shown if (cap := caps.get(name)) is not None and name not in far]
    if far and len(set(far.values())) == 1 and len(far) == len(shown):
        notes.append(f"The lifetime cap, {next(iter(far.values())):g}, lies far above.")
    elif far:
        named = ", ".join(f"{name} {cap:g}" for name, cap in far.items())
        notes.append(f"Lifetime caps that lie far above: {named}.")
    if len(charged) > len(shown):
        notes.append(
            f"The {len(shown)} of {len(charged)} merchants that spent most; the table above has all of them."
        )
    ticks, title = _time_ticks(start, end)
    return Panels(
        title="Lifetime epsilon over time",
        x_title=title,
        y_title="epsilon",
        x_ticks=ticks,
        y_ticks=number_format.nice_ticks(max([highest, *near]), about=4),
        panels=tuple(panels),
        note=" ".join(notes),
    )


def _infinite(value: float | None) -> float:
    return float("inf") if value is None else value


def _curve(entries: Sequence[Mapping[str, Any]], key: str, *, start: datetime, end: datetime) -> Line:
    values = [entry["epsilons"][key] for entry in entries]
    if any(value is None for value in values):
        return ()
    span = (end - start).total_seconds()
    # Charges of one second stand apart by their order: a curve that goes straight up shows nothing.
    places = [
        (datetime.fromisoformat(entry["created_at"]) - start).total_seconds() / span
        if span
        else k / len(entries)
        for k, entry in enumerate(entries, start=1)
    ]
    before = entries[0]["epsilons"]["spent_before"] or 0.0 if key == "spent_after" else 0.0
    first = (places[0] if span else 0.0, before)
    return (first, *zip(places, values, strict=True))


def _time_ticks(start: datetime, end: datetime) -> tuple[tuple[tuple[float, str], ...], str]:
    """Return round moments between two, as (how far across, label), and the axis' title."""
    day = f"{start.day} {_MONTHS[start.month - 1]} {start.year}"
    span = end - start
    if not span:
        return (), f"in order of charging, all at {start:%H:%M:%S} UTC on {day}"
    step = next((step for step in _STEPS if span / step <= _MOST_TICKS), _STEPS[-1])
    origin = datetime(start.year, 1, 1, tzinfo=UTC)
    moment = origin + step * -((origin - start) // step)
    ticks = []
    while moment <= end:
        ticks.append(((moment - start) / span, _label(moment, step)))
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
