"""Define the types of a server's status, as JSON has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from fedrec.server.live_state import TurnedAway
from fedrec.server.training_files import Status


@dataclass(frozen=True)
class PartyStatus:
    """A merchant or a witness: its connection, and its part in the training that is shown.

    Attributes:
        name: its name on the roster.
        role: what it is.
        connected: whether it is connected; None while the server doesn't run.
        since: since when it is or isn't, UTC.
        last_seen: when it was last heard of, UTC; None for never.
        round_trip_seconds: how long a packet to it and back takes; None if that isn't known.
        reply_seconds: how long its last reply took; None if it gave none in this training.
        in_cohort: whether it is in the training's cohort.
        on_committee: whether it is on the training's committee.
        rounds_contributed: rounds that it contributed to; None if it isn't in the cohort.
        noted: what the server noted about it; empty for nothing.
    """

    name: str
    role: Literal["merchant", "witness"]
    connected: bool | None
    since: str | None
    last_seen: str | None
    round_trip_seconds: float | None
    reply_seconds: float | None
    in_cohort: bool
    on_committee: bool
    rounds_contributed: int | None
    noted: str


@dataclass(frozen=True)
class WaitingFor:
    """What a training waits for, from whom, and since when (UTC; None if that isn't known)."""

    what: str
    merchants: tuple[str, ...]
    since: str | None


@dataclass(frozen=True)
class TurnedAwayRequests:
    """How many requests the public listener refused, and the last of them."""

    count: int
    last: tuple[TurnedAway, ...]


@dataclass(frozen=True)
class UploadWindow:
    """How far a training with an upload window is.

    Attributes:
        ends: when the window ends, UTC; None while the committee's keys are missing.
        uploaded: the merchants whose uploads are stored.
        missing: those whose uploads aren't, in the roster's order.
        closed: whether the survivor set is fixed.
        answered: the committee's members whose answers are stored.
        awaited: those whose answers aren't.
        answers_needed: how many answers open the sum.
        text: all of that in one line.
    """

    ends: str | None
    uploaded: tuple[str, ...]
    missing: tuple[str, ...]
    closed: bool
    answered: tuple[str, ...]
    awaited: tuple[str, ...]
    answers_needed: int
    text: str


@dataclass(frozen=True)
class RefusalNote:
    """A refusal or failure: which merchant or round it is about, and the reason."""

    where: str
    reason: str


@dataclass(frozen=True)
class SignedHead:
    """The beginning of the last ledger head that a merchant signed, and its round."""

    merchant: str
    round: int
    head: str


@dataclass(frozen=True)
class RoundStatus:
    """A finished round; epsilon counts all rounds up to it, and accuracy is None where it wasn't measured.

    The other fields are those of :class:`fedrec.protocol.training_report.round_line.RoundLine`.
    """

    round: int
    opened: bool
    contributors: int
    dropouts: int
    seconds: float
    seconds_train: float
    seconds_unmask: float
    bytes_up: int
    bytes_down: int
    reason: str | None
    accuracy: float | None
    epsilon: float | None


@dataclass(frozen=True)
class TrainingStatus:
    """The training that runs, or else one that waits or the one that ran last.

    Attributes:
        number: its number.
        training_id: hash of its plan.
        state: whether it waits, runs or is over.
        reason: why it is in this state; empty for no special one.
        since: since when it is, UTC.
        started: when its first round began, UTC; None before.
        model: name of its model.
        mode: its privacy mode.
        unit: its unit of differential privacy.
        scheme: its aggregation scheme.
        alarms: warnings if no noise is added or the server can read single updates.
        cohort: names of its merchants.
        witnesses: names of the witnesses on its committee.
        committee: names of the members that help to open sums.
        threshold: how many of them are needed.
        min_contributors: the smallest number of uploads in a sum that is opened.
        rounds_planned: rounds of the plan.
        seconds_left: estimate of the time left; None if there is none.
        accuracy: accuracy after the last round, on the operator's photos; None if it wasn't measured.
        best_round: the round with the highest accuracy.
        delta: the plan's delta.
        epsilon_planned: epsilon of the whole plan; None if there is no guarantee.
        epsilon: epsilon of the finished rounds.
        epsilon_aggregation_broken: the same, against an observer of every single upload in plaintext.
        in_flight: the round under way; None if there is none.
        interrupted: the rounds since the last finished one that were begun, and are neither finished nor
            under way; merchants may be charged for them.
        window: how far its upload window is; None without one.
        refusals: refusals and failures of its merchants.
        noted: notes on merchants that are late or left out, by name.
        heads: the last ledger heads that its merchants signed.
        contributed: number of rounds that each merchant contributed to, by name.
        rounds: its finished rounds.
    """

    number: str
    training_id: str
    state: Status
    reason: str
    since: str | None
    started: str | None
    model: str
    mode: str
    unit: str
    scheme: str
    alarms: tuple[str, ...]
    cohort: tuple[str, ...]
    witnesses: tuple[str, ...]
    committee: tuple[str, ...]
    threshold: int
    min_contributors: int
    rounds_planned: int
    seconds_left: float | None
    accuracy: float | None
    best_round: int | None
    delta: float
    epsilon_planned: float | None
    epsilon: float | None
    epsilon_aggregation_broken: float | None
    in_flight: int | None
    interrupted: tuple[int, ...]
    window: UploadWindow | None
    refusals: tuple[RefusalNote, ...]
    noted: Mapping[str, str]
    heads: tuple[SignedHead, ...]
    contributed: Mapping[str, int]
    rounds: tuple[RoundStatus, ...]


@dataclass(frozen=True)
class TrainingSummary:
    """A training in a line; the fields mean what those of :class:`TrainingStatus` mean.

    Attributes:
        number: its number.
        training_id: hash of its plan.
        state: whether it waits, runs or is over.
        reason: why it is in this state.
        started: when its first round began, UTC.
        since: since when it is in this state, UTC.
        model: name of its model.
        merchants: size of its cohort.
        rounds: number of the last finished round; 0 before the first.
        rounds_planned: rounds of the plan.
        lost: how many rounds were not opened.
        accuracy: accuracy after the last round.
        best_accuracy: the highest accuracy.
        epsilon: epsilon of the finished rounds.
        delta: the plan's delta.
    """

    number: str
    training_id: str
    state: Status
    reason: str
    started: str | None
    since: str | None
    model: str
    merchants: int
    rounds: int
    rounds_planned: int
    lost: int
    accuracy: float | None
    best_accuracy: float | None
    epsilon: float | None
    delta: float


@dataclass(frozen=True)
class DamagedTraining:
    """A training whose files can't be read, and why."""

    number: str
    reason: str


@dataclass(frozen=True)
class ServerStatus:
    """Everything that a server's status shows; times are UTC.

    Attributes:
        schema: name and version of this document.
        time: when it was made.
        running: whether the server runs.
        starting: whether it is still loading; it doesn't run yet.
        started: when it started; None if it neither runs nor loads.
        stopped: when it was last heard of; None if it runs, or never ran.
        enrolled: names of the merchants on the roster.
        witnesses: names of the witnesses on the roster.
        merchants: each merchant and witness.
        waiting: how many trainings are filed and wait.
        waiting_for: what the shown training waits for; None if it doesn't wait.
        turned_away: requests that the public listener refused.
        training: the training that is shown; None if there is none.
        trainings: the last trainings, the oldest first.
        damaged: those whose files can't be read.
    """

    schema: str
    time: str
    running: bool
    starting: bool
    started: str | None
    stopped: str | None
    enrolled: tuple[str, ...]
    witnesses: tuple[str, ...]
    merchants: tuple[PartyStatus, ...]
    waiting: int
    waiting_for: WaitingFor | None
    turned_away: TurnedAwayRequests
    training: TrainingStatus | None
    trainings: tuple[TrainingSummary, ...]
    damaged: tuple[DamagedTraining, ...]
