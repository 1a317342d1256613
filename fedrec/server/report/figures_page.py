"""Lay out a report's site figures: counts by class, accuracy and loss of the merchants' own data.

Any value of the section may be null or absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedrec._internal import number_format
from fedrec.privacy.accounting.budget_rating import unit_in_words
from fedrec.report.document import Block, Column, Figure, Figures, Paragraph, Section, Table, Tag
from fedrec.server.report.tables import items, section

_ABSENT = "absent, or too few"


def site_figures(report: Mapping[str, Any]) -> tuple[Section, ...]:
    """Lay out the section ``site_figures``; nothing where the plan asked for none."""
    found = section(report, "site_figures")
    if not found:
        return ()
    if not found.get("opened"):
        charged = "Merchants were charged for it." if found.get("begun") else "Nobody was charged for it."
        text = f"There are no site figures: {number_format.general(found.get('reason'))}. {charged}"
        return (Section("Site figures", (Paragraph(text, "note"),)),)
    return (Section("Site figures", tuple(_blocks(found))),)


def _blocks(found: Mapping[str, Any]) -> list[Block]:
    unit = unit_in_words(found.get("unit"))
    lines = items(found, "classes")
    missing = sum(not line.get("found") for line in lines)
    records, accuracy, loss = (section(found, name) for name in ("records", "accuracy", "mean_loss"))
    return [
        Paragraph(_explanation(found, unit), "lead"),
        Figures(
            (
                Figure(
                    f"{unit.capitalize()}s in all",
                    number_format.count(records.get("estimate")),
                    _interval(records),
                ),
                Figure(
                    "Accuracy on them",
                    number_format.percent(accuracy.get("estimate")),
                    _interval(accuracy, percent=True),
                    "accuracy",
                ),
                Figure("Mean loss", number_format.ratio(loss.get("estimate")), _interval(loss, ratio=True)),
                Figure(
                    "Detectable count",
                    number_format.count(found.get("detectable")),
                    f"of a class; {missing or 'none'} of {len(lines)} classes not found",
                ),
            )
        ),
        _table(lines, unit),
        Paragraph(_note(found, unit), "note"),
    ]


def _explanation(found: Mapping[str, Any], unit: str) -> str:
    cost = "without noise"
    if number_format.number(found.get("epsilon")) is not None:
        broken = number_format.epsilon(found.get("epsilon_aggregation_broken"))
        cost = (
            f"with noise, for an epsilon of {number_format.epsilon(found.get('epsilon'))} by themselves "
            f"({broken} if aggregation were broken), which the headline includes"
        )
    return (
        f"Figures on the merchants' own {unit}s, those that take part in the training: one sum over "
        f"{number_format.count(found.get('contributors'))} "
        f"merchants, encrypted and charged as rounds are, {cost}."
    )


def _note(found: Mapping[str, Any], unit: str) -> str:
    return (
        f"A class with a count above {_decimal(found.get('threshold'))} is found: if nobody had any of the "
        "classes, one would be by chance in 5% of all rounds at most. A class of "
        f"{number_format.count(found.get('detectable'))} {unit}s is found with a probability of 95%. Counts "
        "are estimates: they are neither rounded nor cut off at 0, and may be negative. The intervals of all "
        "classes hold together at 95%, the others each. The loss is the cross-entropy, cut off at "
        f"{_decimal(found.get('largest_loss'))} for each {unit}."
    )


def _table(lines: list[Mapping[str, Any]], unit: str) -> Table:
    rows = tuple(
        (
            str(line.get("label")),
            _decimal(line.get("count")),
            _decimal(line.get("low")),
            _decimal(line.get("high")),
            Tag("found", "good") if line.get("found") else Tag(_ABSENT, "warn"),
        )
        for line in lines
    )
    columns = (
        Column("Class"),
        *(Column(title, "number") for title in (f"{unit.capitalize()}s, estimated", "At least", "At most")),
        Column("Found", "verdict"),
    )
    return Table(columns, rows, stacks=True)


def _interval(values: Mapping[str, Any], *, percent: bool = False, ratio: bool = False) -> str:
    """Return the 95% interval as a note."""
    ends = [values.get("low"), values.get("high")]
    if any(number_format.number(end) is None for end in ends):
        return "no 95% interval: too few to tell"
    shown = number_format.percent if percent else number_format.ratio if ratio else number_format.count
    return f"95% interval: {shown(ends[0])} to {shown(ends[1])}"


def _decimal(value: Any) -> str:
    found = number_format.number(value)
    return number_format.MISSING if found is None else f"{found:,.1f}"
