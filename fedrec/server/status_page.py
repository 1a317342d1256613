"""Lay out the server's status for its operator: tiles, charts, cohort, refusals and rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedrec._internal import number_format
from fedrec._internal.text import counted
from fedrec.report.charts import Bars, Chart, Line, round_axis, y_axis
from fedrec.report.document import (
    Alert,
    Block,
    Code,
    Column,
    Figure,
    Figures,
    Named,
    Paragraph,
    Plot,
    Plots,
    Section,
    Table,
    Tag,
)

TITLE = "fedrec server"
_SHOWN = 50
_MOODS: Mapping[str, Any] = {"failed": "bad", "done": "good"}


def status_blocks(status: Mapping[str, Any]) -> tuple[Block, ...]:
    """Lay out a status from :meth:`ServerObserver.status`."""
    training = status["training"]
    enrolled, waiting = len(status["enrolled"]), status["waiting"]
    standing = (
        f"{counted(enrolled, 'merchant')} enrolled, {counted(waiting, 'training')} waiting; up since "
        f"{status['started']}"
    )
    if training is None:
        tiles = Figures((Figure("Training", "none", "nothing has been run yet"),))
        return Paragraph(standing, "note"), tiles, Section("Refusals", (_turned_away(status),))
    return (
        *_alarms(training["alarms"]),
        Paragraph(standing, "note"),
        Figures(_tiles(training)),
        Section("Epsilon and seconds by round", (Plots((_epsilon(training), _seconds(training))),)),
        Section("Cohort", (_cohort(training),)),
        Section("Refusals", (_refusals(training), _turned_away(status))),
        Section("Rounds", (_rounds(training["rounds"]),)),
    )


def _alarms(reasons: Sequence[str]) -> tuple[Block, ...]:
    return (Alert(tuple(reasons), label="NOT PRIVATE"),) if reasons else ()


def _tiles(training: Mapping[str, Any]) -> tuple[Figure, ...]:
    rounds = training["rounds"]
    last = rounds[-1] if rounds else None
    lost = sum(not line["opened"] for line in rounds)
    under_way = training["in_flight"]
    kind = f"{training['model']}, {training['mode']}, {training['scheme']}"
    accuracy = None if last is None else last["accuracy"]
    return (
        Figure(
            f"Training {training['number']}",
            training["state"],
            training["reason"] or kind,
            _MOODS.get(training["state"], "plain"),
        ),
        Figure(
            "Round",
            f"{last['round'] if last else 0} of {training['rounds_planned']}",
            f"round {under_way} under way" if under_way else f"{lost} lost",
        ),
        Figure(
            "Contributors",
            f"{last['contributors']} of {len(training['cohort'])}" if last else number_format.MISSING,
            f"at least {training['min_contributors']} needed",
        ),
        *_window(training["window"]),
        Figure(
            "Epsilon",
            _shown_epsilon(training["epsilon"]),
            f"of {_shown_epsilon(training['epsilon_planned'])} planned, per {training['unit']}; "
            f"{_shown_epsilon(training['epsilon_aggregation_broken'])} against whoever breaks the encryption",
            "epsilon",
        ),
        Figure(
            "Bytes from merchants",
            number_format.size(sum(line["bytes_up"] for line in rounds)),
            f"{number_format.size(sum(line['bytes_down'] for line in rounds))} to them",
        ),
        Figure("Accuracy", number_format.percent(accuracy), "on the operator's own photos", "accuracy"),
    )


def _window(window: Mapping[str, Any] | None) -> tuple[Figure, ...]:
    if window is None:
        return ()
    uploaded = len(window["uploaded"])
    return (Figure("Uploads", f"{uploaded} of {uploaded + len(window['missing'])}", window["text"]),)


def _epsilon(training: Mapping[str, Any]) -> Plot:
    planned, rounds = training["epsilon_planned"], training["rounds_planned"]
    note = f"no guarantee: mode {training['mode']}"
    points: tuple[tuple[float, float], ...] = ()
    if planned is not None:
        note = f"at delta {number_format.delta(training['delta'])}"
        spent = [(line["round"], line["epsilon"]) for line in training["rounds"]]
        points = ((0.0, 0.0), *((float(at), value) for at, value in spent if value is not None))
    chart = Chart(
        describes=f"epsilon {note}: {_shown_epsilon(training['epsilon'])} of {_shown_epsilon(planned)}",
        x_range=(0, rounds),
        x_ticks=round_axis(0, rounds),
        x_title="round",
        y_ticks=y_axis(max(1.08 * (planned or 1.0), 1e-9)),
        lines=(Line(points, "violet", filled=True),),
        limit=planned,
        end_text=_shown_epsilon(training["epsilon"]) if len(points) > 1 else "",
    )
    return Plot(chart, "Epsilon", note, key=(("the whole plan", "limit"),) if planned is not None else ())


def _seconds(training: Mapping[str, Any]) -> Plot:
    shown = training["rounds"][-_SHOWN:]
    first = shown[0]["round"] if shown else 1
    last = max(first + 7, shown[-1]["round"] if shown else 1)
    train = tuple((float(line["round"]), 0.0, line["seconds_train"]) for line in shown)
    unmask = tuple(
        (float(line["round"]), line["seconds_train"], line["seconds_train"] + line["seconds_unmask"])
        for line in shown
    )
    most = max((high for _, _, high in unmask), default=0.0)
    chart = Chart(
        describes="seconds of each round, training and unmasking",
        x_range=(first - 0.5, last + 0.5),
        x_ticks=round_axis(first, last),
        x_title="round",
        y_ticks=y_axis(max(most, 0.01)),
        bars=(Bars(train, 0.8, "blue"), Bars(unmask, 0.8, "orange")),
    )
    return Plot(chart, "Seconds", "of each round", key=(("train", "blue"), ("unmask", "orange")))


def _cohort(training: Mapping[str, Any]) -> Table:
    heads = {head["merchant"]: head for head in training["heads"]}
    rows: list[tuple[str | Code, ...]] = []
    for name in training["cohort"]:
        head = heads.get(name)
        rows.append(
            (
                name,
                "member" if name in training["committee"] else "",
                number_format.MISSING if head is None else Code(head["head"]),
                number_format.MISSING if head is None else str(head["round"]),
                training["noted"].get(name, ""),
            )
        )
    rows += [
        (name, "witness", number_format.MISSING, number_format.MISSING, training["noted"].get(name, ""))
        for name in training["witnesses"]
    ]
    columns = (
        Column("merchant or witness"),
        Column("committee"),
        Column("last ledger head"),
        Column("of round", "number"),
        Column("noted"),
    )
    return Table(columns, tuple(rows), empty="nobody")


def _refusals(training: Mapping[str, Any]) -> Table:
    rows = tuple((line["where"], line["reason"]) for line in training["refusals"])
    return Table((Column("where"), Column("reason")), rows, empty="none", stacks=True)


def _turned_away(status: Mapping[str, Any]) -> Paragraph:
    count, last = status["turned_away"]["count"], status["turned_away"]["last"]
    text = f"{counted(count, 'request')} turned away by the public listener"
    if last:
        text += f"; the last: {last[-1]['path']} from {last[-1]['address']} at {last[-1]['time']}"
    return Paragraph(text, "note")


def _rounds(rounds: Sequence[Mapping[str, Any]]) -> Table:
    rows = tuple(
        (
            str(line["round"]),
            Tag("opened", "good") if line["opened"] else Named("lost", line["reason"] or "", "bad"),
            number_format.count(line["contributors"]),
            number_format.count(line["dropouts"]),
            f"{line['seconds_train']:.2f}",
            f"{line['seconds_unmask']:.2f}",
            number_format.size(line["bytes_up"]),
            number_format.size(line["bytes_down"]),
            _shown_epsilon(line["epsilon"]),
            number_format.percent(line["accuracy"]),
        )
        for line in reversed(rounds[-_SHOWN:])
    )
    figures = (
        "contributors", "dropouts", "train s", "unmask s", "up", "down", "epsilon", "accuracy",
    )  # fmt: skip
    columns = (Column("round"), Column("outcome"), *(Column(name, "number") for name in figures))
    return Table(columns, rows, empty="no round is finished yet")


def _shown_epsilon(value: float | None) -> str:
    return "none" if value is None else number_format.epsilon(value)
