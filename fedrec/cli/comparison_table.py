"""Print a comparison in the terminal: one line for each setting, the baselines, and the notes."""

from __future__ import annotations

from rich.table import Table

from fedrec._internal import number_format
from fedrec._internal.text import listed
from fedrec.cli.console import print_table, stdout
from fedrec.simulations.comparison.page import alarms_by_text, interval_of_records, mean_with_interval
from fedrec.simulations.comparison.rows import Comparison, Row


def print_comparison(comparison: Comparison) -> None:
    """Print the alarms, the table and the notes of a comparison on stdout."""
    for alarm, labels in alarms_by_text(comparison.rows).items():
        _say(f"warning: NOT PRIVATE, {listed(labels)}: {alarm}")
    table = Table(box=None, pad_edge=False)
    table.add_column("setting", overflow="fold")
    repeated = any(row.runs > 1 for row in comparison.rows)
    titles = (
        "runs",
        "accuracy",
        *(("over runs",) if repeated else ()),
        "for the records",
        "macro F1",
        "epsilon",
    )
    for title in (*titles, "broken", "rounds", "sent each", "time"):
        table.add_column(title, justify="right")
    for row in comparison.rows:
        table.add_row(*_cells(row, repeated=repeated))
    majority = comparison.majority
    if majority is not None:
        shares = (number_format.percent(majority.accuracy), *(("",) if repeated else ()), "")
        table.add_row("largest class alone", "", *shares, number_format.ratio(majority.macro_f1))
    print_table(table)
    for note in comparison.notes:
        _say(note)


def _cells(row: Row, *, repeated: bool) -> tuple[str, ...]:
    accuracy, over_runs = mean_with_interval(row.accuracy)
    return (
        f"{row.label} NOT PRIVATE" if row.alarms else row.label,
        str(row.runs),
        accuracy,
        *((over_runs,) if repeated else ()),
        interval_of_records(row),
        number_format.ratio(None if row.macro_f1 is None else row.macro_f1.value),
        number_format.epsilon(row.epsilon) if row.private else "none",
        number_format.epsilon(row.epsilon_broken) if row.private else "none",
        number_format.general(row.rounds),
        number_format.size(row.bytes_up + row.bytes_down),
        number_format.duration(None if row.seconds is None else row.seconds.value),
    )


def _say(line: str) -> None:
    stdout.print(line, markup=False, soft_wrap=True)
