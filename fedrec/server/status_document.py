"""Put together everything that a server's status shows, from its folder and from what its process knows."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache

from fedrec._internal.files import Stamp, file_stamp
from fedrec._internal.moments import iso_text, now_text
from fedrec.errors import FedrecError
from fedrec.privacy.audit import claims
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.training_report.round_line import RoundLine
from fedrec.server.live_state import Connection, LiveState
from fedrec.server.plan_epsilons import epsilon_if_broken, epsilon_planned, epsilons_by_round
from fedrec.server.round_records import last_round, lost_rounds, place_in_round
from fedrec.server.server_home import ServerHome
from fedrec.server.status_types import (
    DamagedTraining,
    PartyStatus,
    RefusalNote,
    RoundStatus,
    ServerStatus,
    TrainingStatus,
    TrainingSummary,
    TurnedAwayRequests,
    UploadWindow,
    WaitingFor,
)
from fedrec.server.training_files import Status
from fedrec.server.trainings import CANCELLED, STATE, Training, all_trainings
from fedrec.server.window.campaign_files import CampaignProgress, shown_progress

SCHEMA = "fedrec.status/1"
_EARLIER = 50
_RECENT = 9


def server_status(home: ServerHome, live: LiveState | None) -> ServerStatus:
    """Return everything that the status shows.

    Args:
        home: the server's folder.
        live: what its process knows; None where none has ever run.

    Returns:
        The status.
    """
    now = now_text()
    statuses, summaries, damaged = _read(list(all_trainings(home.trainings)))
    trainings = list(statuses)
    shown = next((t for t in trainings if statuses[t] == "running"), None)
    # Next choices: one that was tried and waits for merchants, then the last one that ran.
    shown = shown or next((t for t in trainings if statuses[t] == "filed" and t.status()[1]), None)
    shown = shown or next((t for t in reversed(trainings) if statuses[t] != "filed"), None)
    enrolled = tuple(peer.name for peer in home.roster())
    witnesses = tuple(peer.name for peer in home.witnesses())
    running = live is not None and live.is_fresh and not live.starting
    training = None if shown is None else _training(shown, live if running else None)
    return ServerStatus(
        schema=SCHEMA,
        time=now,
        running=running,
        starting=live is not None and live.is_starting,
        started=iso_text(live.started) if live is not None and (running or live.is_starting) else None,
        stopped=iso_text(live.time) if live is not None and not running else None,
        enrolled=enrolled,
        witnesses=witnesses,
        merchants=tuple(
            _party(name, live, running=running, training=training, witness=name in witnesses)
            for name in _in_order([*enrolled, *witnesses], () if training is None else training.cohort)
        ),
        waiting=sum(state == "filed" for state in statuses.values()),
        waiting_for=None if shown is None else _waiting_for(shown, live if running else None),
        turned_away=TurnedAwayRequests(
            count=0 if live is None else live.turned_away, last=() if live is None else live.last_turned_away
        ),
        training=training,
        trainings=summaries,
        damaged=damaged,
    )


def _read(
    trainings: Sequence[Training],
) -> tuple[dict[Training, Status], tuple[TrainingSummary, ...], tuple[DamagedTraining, ...]]:
    """Read all trainings, of which a damaged one hides no other.

    Returns:
        The states of those that can be read, the last ones' summaries, and the others with what is wrong.
    """
    statuses: dict[Training, Status] = {}
    summaries: list[TrainingSummary] = []
    damaged: list[DamagedTraining] = []
    for place, training in enumerate(trainings):
        try:
            status = training.status()[0]
            # What is shown at length may be an old one that waits still.
            if status in ("filed", "running") or place >= len(trainings) - _EARLIER:
                summaries.append(_summary(training))
            statuses[training] = status
        except (FedrecError, OSError) as error:
            damaged.append(DamagedTraining(training.number, str(error)))
    return statuses, tuple(summaries[-_EARLIER:]), tuple(damaged)


def _in_order(enrolled: Sequence[str], cohort: Sequence[str]) -> list[str]:
    """Return the roster's names, and those of a cohort that have left it since."""
    return [*enrolled, *(name for name in cohort if name not in enrolled)]


def _party(
    name: str, live: LiveState | None, *, running: bool, training: TrainingStatus | None, witness: bool
) -> PartyStatus:
    """Describe one merchant or witness: its connection, and its part in the training that is shown."""
    found = Connection() if live is None else live.connections.get(name, Connection())
    in_cohort = training is not None and name in training.cohort
    on_committee = training is not None and name in training.committee
    return PartyStatus(
        name=name,
        role="witness" if witness else "merchant",
        connected=found.connected if running else None,
        since=iso_text(found.since) if running else None,
        last_seen=iso_text(found.last_seen),
        round_trip_seconds=found.round_trip_seconds if running and found.connected else None,
        reply_seconds=found.reply_seconds if in_cohort or on_committee else None,
        in_cohort=in_cohort,
        on_committee=on_committee,
        rounds_contributed=training.contributed.get(name, 0) if training is not None and in_cohort else None,
        noted="" if training is None else training.noted.get(name, ""),
    )


def _training(training: Training, live: LiveState | None) -> TrainingStatus:
    plan, rounds = training.plan(), training.rounds()
    state, reason = training.status()
    done = last_round(rounds)
    progress = shown_progress(training.folder, plan)
    epsilons = epsilons_by_round(plan)
    own = _own_state(training, live)
    begun = training.last_begun()
    # A training that waits has no round under way, whatever was begun before its server ended.
    runs = own is not None and state == "running" and (not reason or progress is not None)
    under_way = max(own.in_flight or 0, begun) if own is not None and runs else 0
    return TrainingStatus(
        number=training.number,
        training_id=plan.training_id,
        state=state,
        reason=reason,
        since=iso_text(training.since()),
        started=iso_text(training.started()),
        model=plan.model,
        mode=plan.mode,
        unit=plan.unit,
        scheme=plan.scheme,
        alarms=claims.alarms(plan.privacy_mode, plan.trust),
        cohort=tuple(peer.name for peer in plan.roster),
        witnesses=tuple(peer.name for peer in plan.seated_witnesses),
        committee=plan.committee,
        threshold=plan.threshold,
        min_contributors=plan.min_contributors,
        rounds_planned=plan.rounds,
        seconds_left=seconds_left(plan, rounds) if state == "running" and live is not None else None,
        accuracy=rounds[-1].accuracy if rounds else None,
        best_round=_best(rounds),
        delta=plan.delta,
        epsilon_planned=epsilon_planned(plan),
        epsilon=epsilons[done],
        epsilon_aggregation_broken=epsilon_if_broken(plan, rounds=done),
        in_flight=under_way if under_way > done else None,
        # A campaign's only round is carried on from its files.
        interrupted=()
        if progress is not None
        else tuple(number for number in range(done + 1, begun + 1) if number != under_way),
        window=None if progress is None else _window(progress),
        refusals=refusal_notes(training.refusals()),
        noted={} if own is None else dict(own.noted),
        heads=(),
        contributed=dict(Counter(name for line in rounds for name in line.merchants)),
        rounds=tuple(_round(line, epsilon=epsilons[line.round]) for line in rounds),
    )


def _own_state(training: Training, live: LiveState | None) -> LiveState | None:
    """Return the live state if it is about this training."""
    return live if live is not None and live.training == training.number else None


def refusal_notes(refusals: Mapping[str, str]) -> tuple[RefusalNote, ...]:
    """Return refusals in the status's form, from where each was to its reason."""
    return tuple(RefusalNote(where, reason) for where, reason in refusals.items())


def _round(line: RoundLine, *, epsilon: float | None) -> RoundStatus:
    return RoundStatus(
        round=line.round,
        opened=line.opened,
        contributors=line.contributors,
        dropouts=line.dropouts,
        seconds=line.seconds,
        seconds_train=line.seconds_train,
        seconds_unmask=line.seconds_unmask,
        bytes_up=line.bytes_up,
        bytes_down=line.bytes_down,
        reason=line.reason,
        accuracy=line.accuracy,
        epsilon=epsilon,
    )


def _window(progress: CampaignProgress) -> UploadWindow:
    return UploadWindow(
        ends=iso_text(progress.ends),
        uploaded=progress.uploaded,
        missing=progress.missing,
        closed=progress.closed,
        answered=progress.answered,
        awaited=progress.awaited,
        answers_needed=progress.needed,
        text=progress.text,
    )


def seconds_left(plan: TrainingPlan, rounds: Sequence[RoundLine]) -> float | None:
    """Estimate how long the rounds that are left take, from the median of the last ones.

    Args:
        plan: the training's plan.
        rounds: the finished rounds.

    Returns:
        Seconds; None before the first round, and for a campaign, whose window says when it ends.
    """
    if not rounds or plan.upload_window is not None:
        return None
    pace = statistics.median(line.seconds for line in rounds[-_RECENT:])
    return pace * (plan.rounds - rounds[-1].round)


def _best(rounds: Sequence[RoundLine]) -> int | None:
    """Return the number of the round with the highest accuracy, the first of equals; None without any."""
    known = [(line.accuracy, -line.round) for line in rounds if line.accuracy is not None]
    return -max(known)[1] if known else None


def _waiting_for(training: Training, live: LiveState | None) -> WaitingFor | None:
    """Return what a training waits for, from whom and since when; None if it doesn't wait."""
    state, reason = training.status()
    if state not in ("filed", "running"):
        return None
    own = _own_state(training, live)
    plan = training.plan()
    progress = shown_progress(training.folder, plan)
    if own is not None and own.awaited is not None:
        return WaitingFor(own.awaited.what, own.awaited.merchants, iso_text(own.awaited.since))
    if not reason or live is None:
        return None
    since = iso_text(training.since())
    if progress is not None and state == "running":
        begun = iso_text(progress.since) or since
        return WaitingFor(_campaign_step(progress), _campaign_absent(progress), begun)
    names = [peer.name for peer in plan.roster + plan.seated_witnesses]
    absent = tuple(name for name in names if not live.connections.get(name, Connection()).connected)
    if absent:
        return WaitingFor("merchants to connect", absent, since)
    refusals = training.refusals()
    refused = tuple(name for name in names if name in refusals)
    if state == "running" and not refused:
        last = last_round(training.rounds())
        refused = tuple(name for name in names if place_in_round(last, name) in refusals)
        return WaitingFor(f"merchants to accept round {last + 1}", refused, since)
    return WaitingFor("merchants to accept the plan", refused, since)


def _campaign_step(progress: CampaignProgress) -> str:
    if progress.ends is None:
        return "the committee's keys"
    return "answers that open the sum" if progress.closed else "uploads"


def _campaign_absent(progress: CampaignProgress) -> tuple[str, ...]:
    return progress.awaited if progress.closed or progress.ends is None else progress.missing


def _summary(training: Training) -> TrainingSummary:
    """Describe a training in a line; what has been read of its files is kept while they stay the same."""
    stamps = tuple(
        file_stamp(training.folder / name) for name in (CANCELLED, STATE, "plan.json", "rounds.jsonl")
    )
    return _read_summary(training, stamps)


@lru_cache(maxsize=4 * _EARLIER)
def _read_summary(training: Training, stamps: tuple[Stamp | None, ...]) -> TrainingSummary:
    plan, rounds = training.plan(), training.rounds()
    state, reason = training.status()
    best = _best(rounds)
    return TrainingSummary(
        number=training.number,
        training_id=plan.training_id,
        state=state,
        reason=reason,
        started=iso_text(training.started()),
        since=iso_text(training.since()),
        model=plan.model,
        merchants=plan.cohort,
        rounds=last_round(rounds),
        rounds_planned=plan.rounds,
        lost=lost_rounds((line.round, line.opened) for line in rounds),
        accuracy=rounds[-1].accuracy if rounds else None,
        best_accuracy=next((line.accuracy for line in rounds if line.round == best), None),
        epsilon=rounds[-1].epsilon if rounds else None,
        delta=plan.delta,
    )
