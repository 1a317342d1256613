"""Draw the rounds of a training as charts: accuracy and epsilon, with lost rounds marked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fedrec._internal import number_format
from fedrec._internal.text import counted
from fedrec.report.charts import Chart, Colour, Cross, Line, round_axis, y_axis
from fedrec.report.document import Block, Paragraph, Plot, Plots
from fedrec.server.report import tables
from fedrec.server.round_records import lost_rounds


def round_blocks(report: Mapping[str, Any]) -> list[Block]:
    """Draw a report's rounds, and state how many were run and lost, and their dropouts."""
    every = tables.items(report, "rounds")
    rows = [row for row in every if number_format.number(row.get("round")) is not None]
    if not rows:
        return [Paragraph("No round was finished.", "note")]
    rows.sort(key=lambda row: float(row["round"]))
    known = any(number_format.number(row.get("accuracy")) is not None for row in rows)
    accuracy = _plot(rows, "accuracy", colour="blue", shown=number_format.percent, top=1.0)
    spent = _plot(rows, "epsilon", colour="violet", shown=number_format.epsilon)
    planned = number_format.number(tables.section(report, "run").get("rounds"))
    summary = counted(len(rows), "round")
    if planned is not None and planned > len(rows):
        summary = f"{len(rows)} of {counted(round(planned), 'round')}"
    lost = lost_rounds((int(row["round"]), row.get("opened") is not False) for row in rows)
    missed = sum(number_format.number(row.get("dropouts")) or 0.0 for row in rows)
    gone = f"{lost} lost: not opened, yet charged (×)" if lost else "none lost"
    return [
        Plots(
            (
                *((Plot(accuracy, "Accuracy", _measured_on(report)),) if known else ()),
                Plot(spent, "Epsilon", "spent so far"),
            )
        ),
        Paragraph(f"{summary}; {gone}; {counted(round(missed), 'dropout')} in all.", "note"),
    ]


def _measured_on(report: Mapping[str, Any]) -> str:
    return "on the operator's own photos" if tables.is_deployed(report) else "on validation data"


def _plot(
    rows: Sequence[Mapping[str, Any]],
    key: str,
    *,
    colour: Colour,
    shown: Callable[[float], str],
    top: float | None = None,
) -> Chart:
    """Draw one value over the rounds that have it, on an axis up to ``top`` or else to the largest value."""
    numbers = [int(row["round"]) for row in rows]
    values = [(int(row["round"]), number_format.number(row.get(key))) for row in rows]
    points = tuple((float(at), value) for at, value in values if value is not None and value >= 0)
    lost = _lost(rows)
    highest = max((value for _, value in points), default=0.0) or 1.0
    told = f"{shown(points[-1][1])} at round {points[-1][0]:.0f}" if points else "no round has a value"
    return Chart(
        describes=f"{key} over {counted(len(numbers), 'round')}; {told}"
        + (f"; {counted(len(lost), 'round')} lost" if lost else ""),
        x_range=(numbers[0], numbers[-1]),
        x_ticks=round_axis(numbers[0], numbers[-1]),
        x_title="round",
        y_ticks=y_axis(top or highest, percent=top is not None),
        lines=(Line(points, colour, filled=True),),
        crosses=tuple(Cross(number, f"round {number} was lost") for number in lost),
        end_text=shown(points[-1][1]) if points else "",
    )


def _lost(rows: Sequence[Mapping[str, Any]]) -> list[int]:
    return [int(row["round"]) for row in rows if row.get("opened") is False]
