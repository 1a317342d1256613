"""Lay out a report's site figures: counts by class, accuracy and loss of the merchants' own data."""

from __future__ import annotations

from collections.abc import Callable

from fedrec._internal import number_format
from fedrec.privacy.accounting.budget_rating import unit_in_words
from fedrec.protocol.training_report.figures_section import (
    FigureLine,
    MissingFigures,
    OpenedFigures,
    SiteFigures,
)
from fedrec.report.document import Block, Column, Figure, Figures, Paragraph, Section, Table, Tag

_ABSENT = "absent, or too few"


def site_figures(found: SiteFigures | None) -> tuple[Section, ...]:
    """Lay out the section on site figures; nothing where the plan asked for none."""
    if found is None:
        return ()
    if isinstance(found, MissingFigures):
        charged = "Merchants were charged for it." if found.begun else "Nobody was charged for it."
        text = f"There are no site figures: {found.reason}. {charged}"
        return (Section("Site figures", (Paragraph(text, "note"),)),)
    return (Section("Site figures", tuple(_blocks(found))),)


def _blocks(found: OpenedFigures) -> list[Block]:
    unit = unit_in_words(found.unit)
    missing = sum(not line.found for line in found.classes)
    return [
        Paragraph(_explanation(found, unit), "lead"),
        Figures(
            (
                Figure(
                    f"{unit.capitalize()}s in all",
                    number_format.count(found.records.estimate),
                    _interval(found.records, number_format.count),
                ),
                Figure(
                    "Accuracy on them",
                    number_format.percent(found.accuracy.estimate),
                    _interval(found.accuracy, number_format.percent),
                    "accuracy",
                ),
                Figure(
                    "Mean loss",
                    number_format.ratio(found.mean_loss.estimate),
                    _interval(found.mean_loss, number_format.ratio),
                ),
                Figure(
                    "Detectable count",
                    number_format.count(found.detectable),
                    f"of a class; {missing or 'none'} of {len(found.classes)} classes not found",
                ),
            )
        ),
        _table(found, unit),
        Paragraph(_note(found, unit), "note"),
    ]


def _explanation(found: OpenedFigures, unit: str) -> str:
    cost = "without noise"
    if found.epsilon is not None:
        broken = number_format.epsilon(found.epsilon_aggregation_broken)
        cost = (
            f"with noise, for an epsilon of {number_format.epsilon(found.epsilon)} by themselves "
            f"({broken} if aggregation were broken), which the headline includes"
        )
    return (
        f"Figures on the merchants' own {unit}s, those that take part in the training: one sum over "
        f"{number_format.count(found.contributors)} "
        f"merchants, encrypted and charged as rounds are, {cost}."
    )


def _note(found: OpenedFigures, unit: str) -> str:
    return (
        f"A class with a count above {found.threshold:,.1f} is found: if nobody had any of the "
        "classes, one would be by chance in 5% of all rounds at most. A class of "
        f"{number_format.count(found.detectable)} {unit}s is found with a probability of 95%. Counts "
        "are estimates: they are neither rounded nor cut off at 0, and may be negative. The intervals of all "
        "classes hold together at 95%, the others each. The loss is the cross-entropy, cut off at "
        f"{found.largest_loss:,.1f} for each {unit}."
    )


def _table(found: OpenedFigures, unit: str) -> Table:
    rows = tuple(
        (
            line.label,
            _decimal(line.count),
            _decimal(line.low),
            _decimal(line.high),
            Tag("found", "good") if line.found else Tag(_ABSENT, "warn"),
        )
        for line in found.classes
    )
    columns = (
        Column("Class"),
        *(Column(title, "number") for title in (f"{unit.capitalize()}s, estimated", "At least", "At most")),
        Column("Found", "verdict"),
    )
    return Table(columns, rows, stacks=True)


def _interval(values: FigureLine, shown: Callable[[float], str]) -> str:
    """Return the 95% interval as a note."""
    if values.low is None or values.high is None:
        return "no 95% interval: too few to tell"
    return f"95% interval: {shown(values.low)} to {shown(values.high)}"


def _decimal(value: float | None) -> str:
    return number_format.MISSING if value is None else f"{value:,.1f}"
