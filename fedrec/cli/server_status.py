"""Describe a server's status as lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.cells import cell_len

from fedrec._internal import number_format
from fedrec._internal.moments import ago, moment
from fedrec._internal.text import counted, listed
from fedrec.protocol.enrolment import grouped
from fedrec.server.round_records import lost_rounds
from fedrec.server.status_types import PartyStatus, RoundStatus, ServerStatus, TrainingStatus, TrainingSummary
from fedrec.server.status_words import interrupted_text, waiting_text

_MERCHANTS, _EARLIER, _REFUSALS, _POINTS = 20, 10, 10, 8


def status_lines(status: ServerStatus, *, fingerprint: str | None, folder: Path) -> Iterator[str]:
    """Describe a status.

    Args:
        status: the status.
        fingerprint: of the join file, which merchants compare; None where nobody is enrolled.
        folder: the folder of all trainings.

    Yields:
        The lines.
    """
    yield f"server      {_server(status)}"
    yield f"merchants   {', '.join(status.enrolled) or 'nobody is enrolled'}"
    if status.witnesses:
        yield f"witnesses   {', '.join(status.witnesses)}"
    if fingerprint is not None:
        yield f"fingerprint {grouped(fingerprint)}"
    yield from _merchants(status)
    shown = status.training
    others = [training for training in status.trainings if shown is None or training.number != shown.number]
    for damaged in status.damaged:
        yield f"training    {damaged.number} can't be read: {damaged.reason}"
    if len(others) > _EARLIER:
        yield f"trainings   {len(others) - _EARLIER} more before these; all are in {folder}"
    for training in others[-_EARLIER:]:
        yield from _other(training, folder)
    if shown is not None:
        yield from _shown(shown, status, folder)


def _server(status: ServerStatus) -> str:
    if status.starting:
        return f"is starting, since {moment(status.started)}"
    if not status.running:
        stopped = status.stopped
        return (
            "doesn't run" if stopped is None else f"doesn't run; it last did {ago(stopped, now=status.time)}"
        )
    here = sum(bool(merchant.connected) for merchant in status.merchants)
    every, witnesses = counted(len(status.enrolled), "merchant"), status.witnesses
    if witnesses:
        every += f" and {counted(len(witnesses), 'witness', plural='witnesses')}"
    return f"runs since {moment(status.started)}; {here} of {every} connected"


def _merchants(status: ServerStatus) -> Iterator[str]:
    """Describe each merchant; of a large cohort only those that are away or noted."""
    merchants = list(status.merchants)
    if not status.running:
        merchants = [merchant for merchant in merchants if merchant.last_seen is not None]
    if len(merchants) > _MERCHANTS:
        merchants = [merchant for merchant in merchants if not merchant.connected or merchant.noted]
    width = max((cell_len(merchant.name) for merchant in merchants[:_MERCHANTS]), default=0)
    for merchant in merchants[:_MERCHANTS]:
        # A Chinese character takes two columns.
        name = merchant.name + " " * (width - cell_len(merchant.name))
        yield f"  {name}  {'; '.join(_merchant(merchant, now=status.time))}"
    if len(merchants) > _MERCHANTS:
        yield f"  and {len(merchants) - _MERCHANTS} more that are away or noted: --json lists all"


def _merchant(merchant: PartyStatus, *, now: str) -> Iterator[str]:
    seen = "never seen" if merchant.last_seen is None else f"last seen {ago(merchant.last_seen, now=now)}"
    if merchant.connected:
        yield f"connected since {moment(merchant.since)}"
        yield seen
    else:
        yield seen if merchant.connected is None else f"away; {seen}"
    if merchant.round_trip_seconds is not None:
        yield f"{1000 * merchant.round_trip_seconds:.3g} ms there and back"
    if merchant.reply_seconds is not None:
        yield f"last reply took {number_format.duration(merchant.reply_seconds)}"
    if merchant.noted:
        yield merchant.noted


def _other(training: TrainingSummary, folder: Path) -> Iterator[str]:
    why = f" ({training.reason})" if training.reason else ""
    yield f"training    {training.number} {training.state}{why}"
    if not training.rounds:
        return
    told = [f"{training.rounds} of {counted(training.rounds_planned, 'round')} of {training.model}"]
    if training.lost:
        told.append(f"{training.lost} lost")
    if training.best_accuracy is not None:
        told.append(f"accuracy {training.best_accuracy:.1%} at best")
    if training.epsilon is not None:
        epsilon, delta = number_format.epsilon(training.epsilon), number_format.delta(training.delta)
        told.append(f"epsilon {epsilon} at delta {delta}")
    yield f"  result    {', '.join(told)}"
    yield from _report(training.number, folder)


def _shown(training: TrainingStatus, status: ServerStatus, folder: Path) -> Iterator[str]:
    """Describe the training that runs, or the one that ran last."""
    window, rounds, why = training.window, training.rounds, training.reason
    if window is not None and why == window.text:
        why = ""
    yield f"training    {training.number} {training.state}" + (f" ({why})" if why else "")
    for alarm in training.alarms:
        yield f"  alarm     NOT PRIVATE: {alarm}"
    yield f"  cohort    {', '.join(training.cohort)}; at least {training.min_contributors} in a sum"
    if training.witnesses:
        yield f"  witnesses {', '.join(training.witnesses)}"
    if status.waiting_for is not None:
        yield f"  now       {waiting_text(status.waiting_for, now=status.time)}"
    if window is not None:
        yield f"  window    {window.text}"
    elif not rounds:
        yield f"  round     none of {training.rounds_planned} finished{_interrupted(training)}"
    else:
        yield from _rounds(training)
    refusals = training.refusals
    for refused in refusals[-_REFUSALS:]:
        yield f"  refused   {refused.where}: {refused.reason}"
    if len(refusals) > _REFUSALS:
        where = folder / training.number / "refusals.json"
        yield f"  refused   {len(refusals)} times in all; all are in {where}"
    yield from _report(training.number, folder)


def _interrupted(training: TrainingStatus) -> str:
    text = interrupted_text(training)
    return f"; {text}" if text else ""


def _rounds(training: TrainingStatus) -> Iterator[str]:
    rounds = training.rounds
    last, lost = rounds[-1], lost_rounds((line.round, line.opened) for line in rounds)
    accuracy = "" if last.accuracy is None else f", accuracy {last.accuracy:.1%}"
    yield (
        f"  round     {last.round} of {training.rounds_planned}: "
        f"{counted(last.contributors, 'contributor')}, {counted(lost, 'round')} lost so far{accuracy}"
        f"{_interrupted(training)}"
    )
    if last.reason is not None:
        yield f"  lost      round {last.round}: {last.reason}"
    if training.seconds_left is not None:
        left = number_format.duration(training.seconds_left)
        yield f"  left      about {left}, at the pace of the last rounds"
    yield from _curve(rounds, best=training.best_round)
    if training.epsilon is None:
        yield "  epsilon   none: privacy is off"
        return
    planned, broken = (
        number_format.epsilon(value)
        for value in (training.epsilon_planned, training.epsilon_aggregation_broken)
    )
    yield (
        f"  epsilon   {number_format.epsilon(training.epsilon)} at delta "
        f"{number_format.delta(training.delta)}, of {planned} planned; {broken} against whoever breaks "
        "the encryption"
    )


def _curve(rounds: Sequence[RoundStatus], *, best: int | None) -> Iterator[str]:
    """Describe the accuracy of a few rounds, evenly spaced, and of the best."""
    known = [(line.round, line.accuracy) for line in rounds if line.accuracy is not None]
    if len(known) < 2:
        return
    step = (len(known) - 1) / (min(_POINTS, len(known)) - 1)
    chosen = {round(step * place) for place in range(min(_POINTS, len(known)))}
    points = [f"round {known[place][0]}: {known[place][1]:.1%}" for place in sorted(chosen)]
    highest = next(accuracy for number, accuracy in known if number == best)
    yield f"  accuracy  {listed(points)}; at best {highest:.1%} in round {best}"


def _report(number: str, folder: Path) -> Iterator[str]:
    path = folder / number / "report.html"
    if path.exists():
        yield f"  report    {path}"
