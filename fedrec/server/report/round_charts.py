"""Draw the rounds of a training as charts: accuracy and epsilon, with lost rounds marked."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fedrec._internal import number_format
from fedrec._internal.text import counted
from fedrec.protocol.training_report.report import TrainingReport
from fedrec.protocol.training_report.round_line import RoundLine
from fedrec.report.charts import Chart, Colour, Cross, Line, round_axis, y_axis
from fedrec.report.document import Block, Paragraph, Plot, Plots
from fedrec.server.round_records import lost_rounds


def round_blocks(report: TrainingReport) -> list[Block]:
    """Draw a report's rounds, and state how many were run and lost, and their dropouts."""
    rounds = report.rounds
    if not rounds:
        return [Paragraph("No round was finished.", "note")]
    accuracy = [(line.round, line.accuracy) for line in rounds]
    known = any(value is not None for _, value in accuracy)
    drawn = _plot(rounds, accuracy, name="accuracy", colour="blue", shown=number_format.percent, top=1.0)
    spent = _plot(
        rounds,
        [(line.round, line.epsilon) for line in rounds],
        name="epsilon",
        colour="violet",
        shown=number_format.epsilon,
    )
    planned = report.run.rounds
    summary = counted(len(rounds), "round")
    if planned > len(rounds):
        summary = f"{len(rounds)} of {counted(planned, 'round')}"
    lost = lost_rounds((line.round, line.opened) for line in rounds)
    gone = f"{lost} lost: not opened, yet charged (×)" if lost else "none lost"
    missed = counted(sum(line.dropouts for line in rounds), "dropout")
    return [
        Plots(
            (
                *((Plot(drawn, "Accuracy", _measured_on(report)),) if known else ()),
                Plot(spent, "Epsilon", "spent so far"),
            )
        ),
        Paragraph(f"{summary}; {gone}; {missed} in all.", "note"),
    ]


def _measured_on(report: TrainingReport) -> str:
    return "on the operator's own photos" if report.run.deployed else "on validation data"


def _plot(
    rounds: Sequence[RoundLine],
    values: Sequence[tuple[int, float | None]],
    *,
    name: str,
    colour: Colour,
    shown: Callable[[float], str],
    top: float | None = None,
) -> Chart:
    """Draw one value over the rounds that have it.

    Args:
        rounds: the finished rounds, at least one.
        values: the value by the round's number; None where there is none.
        name: what the value is.
        colour: of the line.
        shown: formats a value.
        top: end of the axis; None for the largest value.

    Returns:
        The chart, with lost rounds marked.
    """
    points = tuple((float(at), value) for at, value in values if value is not None)
    lost = [line.round for line in rounds if not line.opened]
    first, last = rounds[0].round, rounds[-1].round
    highest = max((value for _, value in points), default=0.0) or 1.0
    told = f"{shown(points[-1][1])} at round {points[-1][0]:.0f}" if points else "no round has a value"
    return Chart(
        describes=f"{name} over {counted(len(rounds), 'round')}; {told}"
        + (f"; {counted(len(lost), 'round')} lost" if lost else ""),
        x_range=(first, last),
        x_ticks=round_axis(first, last),
        x_title="round",
        y_ticks=y_axis(top or highest, percent=top is not None),
        lines=(Line(points, colour, filled=True),),
        crosses=tuple(Cross(number, f"round {number} was lost") for number in lost),
        end_text=shown(points[-1][1]) if points else "",
    )
