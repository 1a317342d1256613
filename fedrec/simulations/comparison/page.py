"""Lay out a comparison as a document: a plot, a table, the baselines, and what must be known to read them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fedrec._internal import number_format
from fedrec._internal.text import counted, listed
from fedrec.report.document import (
    Alert,
    Block,
    Bullets,
    Cell,
    Column,
    Document,
    Facts,
    Named,
    Plots,
    Section,
    Table,
    named_figures,
)
from fedrec.simulations.comparison.plot import accuracy_plot
from fedrec.simulations.comparison.rows import COMPARISON_SCHEMA, Comparison, Mean, Row


def comparison_document(comparison: Comparison) -> Document:
    """Lay out a comparison as a page."""
    rows = comparison.rows
    plot = accuracy_plot(comparison)
    runs = counted(sum(row.runs for row in rows), "run")
    return Document(
        title="fedrec comparison",
        subtitle=f"{counted(len(rows), 'setting')} · {runs}",
        blocks=(
            *_alarms(rows),
            *(() if plot is None else (Section("Accuracy", (Plots((plot,)),)),)),
            Section("Settings", (_table(rows),)),
            Section("Baselines", (_baselines(comparison),)),
            *((Section("How to read this", (Bullets(comparison.notes),)),) if comparison.notes else ()),
            Section("Runs", (_folders(rows),)),
        ),
        footer=COMPARISON_SCHEMA,
    )


def alarms_by_text(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Return each reason why rows are not private, with the labels of those rows."""
    found: dict[str, list[str]] = {}
    for row in rows:
        for alarm in row.alarms:
            found.setdefault(alarm, []).append(row.label)
    return found


def mean_with_interval(mean: Mean | None) -> tuple[str, str]:
    """Format a mean of shares, and its interval over runs; empty without one."""
    if mean is None:
        return number_format.MISSING, ""
    return number_format.percent(mean.value), (
        "" if mean.interval is None else number_format.percent_interval(mean.interval)
    )


def interval_of_records(row: Row) -> str:
    """Format the interval that the number of records allows; empty without one."""
    return "" if row.accuracy_of_records is None else number_format.percent_interval(row.accuracy_of_records)


def _alarms(rows: Sequence[Row]) -> Iterator[Block]:
    texts = tuple(f"{listed(labels)}: {alarm}" for alarm, labels in alarms_by_text(rows).items())
    if texts:
        yield Alert(texts, label="NOT PRIVATE")


def _table(rows: Sequence[Row]) -> Table:
    columns = named_figures(
        "Setting", "Accuracy", "Macro F1", "Epsilon", "If aggregation were broken", "Rounds",
        "A merchant sent in all", "and received in all", "Time in all",
    )  # fmt: skip
    cells = tuple(_cells(number, row) for number, row in enumerate(rows, start=1))
    return Table(columns, cells, stacks=True)


def _cells(number: int, row: Row) -> tuple[Cell, ...]:
    accuracy, over_runs = mean_with_interval(row.accuracy)
    notes = [f"{over_runs} over runs"] if over_runs else []
    notes += [f"{interval_of_records(row)} for {row.records:,} records"] if row.accuracy_of_records else []
    macro_f1 = (
        ""
        if row.macro_f1 is None or row.macro_f1.interval is None
        else "{:.3f} to {:.3f}".format(*row.macro_f1.interval)
    )
    said = counted(row.runs, "run") + ("; NOT PRIVATE" if row.alarms else "")
    delta = "" if row.delta is None else f"δ = {number_format.delta(row.delta)}"
    return (
        Named(f"{number}. {row.label}", said, "bad" if row.alarms else "plain"),
        Named(accuracy, "; ".join(notes)),
        Named(number_format.ratio(None if row.macro_f1 is None else row.macro_f1.value), macro_f1),
        Named(number_format.epsilon(row.epsilon) if row.private else "none", delta),
        number_format.epsilon(row.epsilon_broken) if row.private else "none",
        number_format.general(row.rounds),
        number_format.size(row.bytes_up),
        number_format.size(row.bytes_down),
        number_format.duration(None if row.seconds is None else row.seconds.value),
    )


def _baselines(comparison: Comparison) -> Facts:
    majority = comparison.majority
    guessed = number_format.MISSING
    if majority is not None:
        guessed = (
            f"{number_format.percent(majority.accuracy)}, macro F1 {number_format.ratio(majority.macro_f1)} "
            f"({majority.label})"
        )
    row = next((row for row in comparison.rows if row.label == comparison.without_noise), None)
    without = (
        "no such run is given" if row is None else f"{mean_with_interval(row.accuracy)[0]} ({row.label})"
    )
    return Facts((("Largest class alone", guessed), ("Without noise", without)))


def _folders(rows: Sequence[Row]) -> Table:
    lines = tuple((row.label, folder) for row in rows for folder in row.folders)
    return Table((Column("Setting"), Column("Folder")), lines, stacks=True)
