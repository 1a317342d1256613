"""Lay out the server's status for its operator: tiles, charts, cohort, refusals and rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from fedrec._internal import number_format
from fedrec._internal.moments import ago, moment, seconds_between
from fedrec._internal.text import counted, listed
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
    Tone,
)
from fedrec.server.round_records import lost_rounds
from fedrec.server.status_types import (
    PartyStatus,
    RoundStatus,
    ServerStatus,
    TrainingStatus,
    TrainingSummary,
    UploadWindow,
)
from fedrec.server.status_words import interrupted_text, waiting_text

TITLE = "fedrec server"
_SHOWN = 50
_WORTH_SECONDS = 10.0
_MOODS: Mapping[str, Literal["good", "bad"]] = {"failed": "bad", "done": "good"}
_TONES: Mapping[str, Tone] = {"failed": "bad", "done": "good", "running": "good"}


def status_blocks(status: ServerStatus) -> tuple[Block, ...]:
    """Lay out a status."""
    training = status.training
    enrolled, witnesses = counted(len(status.enrolled), "merchant"), status.witnesses
    if witnesses:
        enrolled += f" and {counted(len(witnesses), 'witness', plural='witnesses')}"
    standing = (
        f"{enrolled} enrolled, {counted(status.waiting, 'training')} waiting; up since "
        f"{moment(status.started)}"
    )
    merchants = Section("Merchants", (_merchants(status),))
    refusals, damaged = _refusals(status), _damaged(status)
    if training is None:
        tiles = Figures((_connected(status), Figure("Training", "none", "nothing has been run yet")))
        return *damaged, Paragraph(standing, "note"), tiles, merchants, *refusals
    plots = [*([_accuracy(training)] if training.accuracy is not None else ()), _epsilon(training)]
    return (
        *_alarms(training.alarms),
        *damaged,
        Paragraph(standing, "note"),
        *_waits(status),
        Figures(_tiles(status, training)),
        Section("By round", (Plots((*plots, _seconds(training))),)),
        merchants,
        *refusals,
        Section("Rounds", (_rounds(training.rounds),)),
        *_earlier(status.trainings, shown=training.number),
    )


def _waits(status: ServerStatus) -> tuple[Block, ...]:
    """Say what the training waits for; a wait of a moment, as in every round, is left out."""
    waiting = status.waiting_for
    if waiting is None or waiting.since is None:
        return ()
    if seconds_between(waiting.since, status.time) < _WORTH_SECONDS:
        return ()
    return (Alert((waiting_text(waiting, now=status.time),), tone="warn"),)


def _alarms(reasons: Sequence[str]) -> tuple[Block, ...]:
    return (Alert(tuple(reasons), label="NOT PRIVATE"),) if reasons else ()


def _damaged(status: ServerStatus) -> tuple[Block, ...]:
    lines = tuple(f"Training {damaged.number} can't be read: {damaged.reason}" for damaged in status.damaged)
    return (Alert(lines, tone="bad"),) if lines else ()


def _connected(status: ServerStatus) -> Figure:
    away = [merchant.name for merchant in status.merchants if not merchant.connected]
    return Figure(
        "Connected",
        f"{len(status.merchants) - len(away)} of {len(status.merchants)}",
        f"away: {listed(away, most=5)}" if away else "all are",
    )


def _tiles(status: ServerStatus, training: TrainingStatus) -> tuple[Figure, ...]:
    rounds = training.rounds
    last = rounds[-1] if rounds else None
    lost = lost_rounds((line.round, line.opened) for line in rounds)
    under_way = training.in_flight
    told = (f"round {under_way} under way" if under_way else "", interrupted_text(training))
    kind = f"{training.model}, {training.mode}, {training.scheme}"
    accuracy = None if last is None else last.accuracy
    return (
        Figure(
            f"Training {training.number}",
            training.state,
            training.reason or kind,
            _MOODS.get(training.state, "plain"),
        ),
        _connected(status),
        Figure(
            "Round",
            f"{last.round if last else 0} of {training.rounds_planned}",
            "; ".join(filter(None, told)) or f"{lost} lost",
        ),
        Figure(
            "Contributors",
            f"{last.contributors} of {len(training.cohort)}" if last else number_format.MISSING,
            f"at least {training.min_contributors} needed",
        ),
        *_time_left(training),
        *_window(training.window),
        Figure(
            "Epsilon",
            _shown_epsilon(training.epsilon),
            f"of {_shown_epsilon(training.epsilon_planned)} planned, per {training.unit}; "
            f"{_shown_epsilon(training.epsilon_aggregation_broken)} against whoever breaks the encryption",
            "epsilon",
        ),
        Figure(
            "Bytes from merchants",
            number_format.size(sum(line.bytes_up for line in rounds)),
            f"{number_format.size(sum(line.bytes_down for line in rounds))} to them",
        ),
        *([] if accuracy is None else [_accuracy_figure(training)]),
    )


def _accuracy_figure(training: TrainingStatus) -> Figure:
    best = training.best_round
    highest = next(line.accuracy for line in training.rounds if line.round == best)
    note = f"on the operator's own photos; {number_format.percent(highest)} at best, in round {best}"
    return Figure("Accuracy", number_format.percent(training.accuracy), note, "accuracy")


def _time_left(training: TrainingStatus) -> tuple[Figure, ...]:
    left = training.seconds_left
    if left is None:
        return ()
    return (Figure("Time left", number_format.duration(left), "at the pace of the last rounds"),)


def _window(window: UploadWindow | None) -> tuple[Figure, ...]:
    if window is None:
        return ()
    uploaded = len(window.uploaded)
    return (Figure("Uploads", f"{uploaded} of {uploaded + len(window.missing)}", window.text),)


def _accuracy(training: TrainingStatus) -> Plot:
    points = tuple(
        (float(line.round), line.accuracy) for line in training.rounds if line.accuracy is not None
    )
    end = number_format.percent(training.accuracy)
    chart = Chart(
        describes=f"accuracy by round on the operator's own photos: {end} after the last one",
        x_range=(0, training.rounds_planned),
        x_ticks=round_axis(0, training.rounds_planned),
        x_title="round",
        y_ticks=y_axis(1.0, percent=True),
        lines=(Line(points),),
        end_text=end,
    )
    return Plot(chart, "Accuracy", "on the operator's own photos")


def _epsilon(training: TrainingStatus) -> Plot:
    planned, rounds = training.epsilon_planned, training.rounds_planned
    note = f"no guarantee: mode {training.mode}"
    points: tuple[tuple[float, float], ...] = ()
    if planned is not None:
        note = f"at delta {number_format.delta(training.delta)}"
        spent = [(line.round, line.epsilon) for line in training.rounds]
        points = ((0.0, 0.0), *((float(at), value) for at, value in spent if value is not None))
    chart = Chart(
        describes=f"epsilon {note}: {_shown_epsilon(training.epsilon)} of {_shown_epsilon(planned)}",
        x_range=(0, rounds),
        x_ticks=round_axis(0, rounds),
        x_title="round",
        y_ticks=y_axis(max(1.08 * (planned or 1.0), 1e-9)),
        lines=(Line(points, "violet", filled=True),),
        limit=planned,
        end_text=_shown_epsilon(training.epsilon) if len(points) > 1 else "",
    )
    return Plot(chart, "Epsilon", note, key=(("the whole plan", "limit"),) if planned is not None else ())


def _seconds(training: TrainingStatus) -> Plot:
    shown = training.rounds[-_SHOWN:]
    first = shown[0].round if shown else 1
    last = max(first + 7, shown[-1].round if shown else 1)
    train = tuple((float(line.round), 0.0, line.seconds_train) for line in shown)
    unmask = tuple(
        (float(line.round), line.seconds_train, line.seconds_train + line.seconds_unmask) for line in shown
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


def _merchants(status: ServerStatus) -> Table:
    training = status.training
    heads = {} if training is None else {head.merchant: head for head in training.heads}
    rows = []
    for merchant in status.merchants:
        head = heads.get(merchant.name)
        rounds = merchant.rounds_contributed
        last = "" if head is None else f"{head.head} (round {head.round})"
        rows.append(
            (
                Named(merchant.name, _role(merchant)),
                _connection(merchant, now=status.time),
                _latency(merchant.round_trip_seconds),
                number_format.duration(merchant.reply_seconds),
                number_format.count(rounds),
                "" if head is None else Code(last),
                merchant.noted,
            )
        )
    columns = (
        Column("merchant or witness"),
        Column("connection"),
        Column("there and back", "number"),
        Column("last reply", "number"),
        Column("rounds", "number"),
        Column("last ledger head"),
        Column("noted"),
    )
    return Table(columns, tuple(rows), empty="nobody is enrolled", stacks=True)


def _role(merchant: PartyStatus) -> str:
    if merchant.role == "witness":
        return "witness, on the committee" if merchant.on_committee else "witness"
    return "on the committee" if merchant.on_committee else ""


def _connection(merchant: PartyStatus, *, now: str) -> Named:
    if merchant.connected:
        return Named("connected", f"since {moment(merchant.since)}", "good")
    if merchant.last_seen is None:
        return Named("away", "not seen since the server was set up", "warn")
    return Named("away", f"last seen {ago(merchant.last_seen, now=now)}", "warn")


def _latency(seconds: float | None) -> str:
    return number_format.MISSING if seconds is None else f"{1000 * seconds:.3g} ms"


def _refusals(status: ServerStatus) -> tuple[Block, ...]:
    """Return the section of refusals; none where nothing was refused."""
    training, count = status.training, status.turned_away.count
    rows = () if training is None else tuple((line.where, line.reason) for line in training.refusals)
    table = (Table((Column("where"), Column("reason")), rows, stacks=True),) if rows else ()
    blocks = (*table, *((_turned_away(status),) if count else ()))
    return (Section("Refusals", blocks),) if blocks else ()


def _earlier(trainings: Sequence[TrainingSummary], *, shown: str) -> tuple[Block, ...]:
    """Return the section of all other trainings, the newest first; none where there is no other."""
    rows = tuple(
        (
            training.number,
            Named(training.state, training.reason, _TONES.get(training.state, "plain")),
            "" if training.started is None else moment(training.started),
            training.model,
            f"{training.rounds} of {training.rounds_planned}",
            number_format.count(training.lost),
            number_format.percent(training.best_accuracy),
            _shown_epsilon(training.epsilon),
        )
        for training in reversed(trainings)
        if training.number != shown
    )
    if not rows:
        return ()
    columns = (
        Column("training"),
        Column("state"),
        Column("began"),
        Column("model"),
        Column("rounds", "number"),
        Column("lost", "number"),
        Column("best accuracy", "number"),
        Column("epsilon", "number"),
    )
    return (Section("Other trainings", (Table(columns, rows, stacks=True),)),)


def _turned_away(status: ServerStatus) -> Paragraph:
    count, last = status.turned_away.count, status.turned_away.last
    text = f"{counted(count, 'request')} turned away by the public listener"
    if last:
        text += f"; the last: {last[-1].path} from {last[-1].address} at {last[-1].time}"
    return Paragraph(text, "note")


def _rounds(rounds: Sequence[RoundStatus]) -> Table:
    rows = tuple(
        (
            str(line.round),
            Tag("opened", "good") if line.opened else Named("lost", line.reason or "", "bad"),
            number_format.count(line.contributors),
            number_format.count(line.dropouts),
            f"{line.seconds_train:.2f}",
            f"{line.seconds_unmask:.2f}",
            number_format.size(line.bytes_up),
            number_format.size(line.bytes_down),
            _shown_epsilon(line.epsilon),
            number_format.percent(line.accuracy),
        )
        for line in reversed(rounds[-_SHOWN:])
    )
    figures = (
        "contributors", "dropouts", "train s", "unmask s", "up", "down", "epsilon", "accuracy",
    )  # fmt: skip
    columns = (Column("round"), Column("outcome"), *(Column(name, "number") for name in figures))
    return Table(columns, rows, empty="no round is finished yet", stacks=True)


def _shown_epsilon(value: float | None) -> str:
    return "none" if value is None else number_format.epsilon(value)
