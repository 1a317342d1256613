"""Define the types of a merchant's status."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fedrec.clients.liveness import Liveness
from fedrec.privacy.accounting.budget_rating import Word

Cause = Literal["pause", "unusable_policy", "rule", "other"]
"""What a refusal comes from: the merchant's pause, a policy that can't be read, one of its rules, or else."""


@dataclass(frozen=True)
class TrainingCharges:
    """The charges of one training.

    Attributes:
        training_id: the training.
        model: name of its model.
        charges: number of charges.
        seeded: number of charges whose noise came from a seed.
        last_round: the last round that was charged.
        last_at: time of the last charge.
        epsilon: proved epsilon of the charges and the declared counts, at ``delta``; None if it is infinite.
        delta: the training's delta.
    """

    training_id: str
    model: str
    charges: int
    seeded: int
    last_round: int
    last_at: str
    epsilon: float | None
    delta: float


@dataclass(frozen=True)
class Budget:
    """The lifetime budget under the policy in force; an epsilon is None if it is infinite.

    Attributes:
        spent: epsilon that the lifetime filter computes from the ledger's entries for ``cap`` and ``delta``,
            even if those were others when the entries were written. Without a cap it is computed for a
            nominal one, at the delta of the last entry.
        spent_broken: the same, against an observer of every single upload in plaintext.
        left: epsilon left below the cap; None without a cap.
        cap: the lifetime cap; None if the policy has none.
        delta: the delta of all these epsilons.
        word: rating of ``spent`` in one word.
        sentence: rating of ``spent`` in one sentence.
        trainings: the charges of each training.
        counts: number of counts of units that were charged.
        declared: the last noised count of units.
        unit: the ledger's unit.
    """

    spent: float | None
    spent_broken: float | None
    left: float | None
    cap: float | None
    delta: float
    word: Word
    sentence: str
    trainings: tuple[TrainingCharges, ...]
    counts: int
    declared: int
    unit: str


@dataclass(frozen=True)
class PlanSummary:
    """A plan and its cost.

    Attributes:
        training_id: the training.
        model: name of its model.
        mode: its privacy mode.
        scheme: its aggregation scheme.
        unit: its unit of differential privacy.
        rounds: its number of rounds.
        merchants: size of its cohort.
        classes: its classes.
        last_round: the last round that this merchant was charged for; 0 if none.
        delta: the plan's delta.
        epsilon: proved epsilon of all rounds and the declared counts, at ``delta``. None if it is infinite or
            the plan can't be carried out.
        word: rating of ``epsilon`` in one word.
        cap_needed: the smallest lifetime cap, in hundredths and at ``lifetime_delta``, that admits the
            remaining rounds. None if there is no such cap or the plan can't be carried out.
        lifetime_delta: the delta of the lifetime budget.
        alarms: warnings if no noise is added or the server can read single updates.
        upload_window: in seconds, how long uploads may arrive; None for a training without a window.
        committee: names of the merchants that help to open sums.
        site_figures: whether a round of site figures follows those rounds; its cost is part of the others.
    """

    training_id: str
    model: str
    mode: str
    scheme: str
    unit: str
    rounds: int
    merchants: int
    classes: tuple[str, ...]
    last_round: int
    delta: float
    epsilon: float | None
    word: Word
    cap_needed: float | None
    lifetime_delta: float
    alarms: tuple[str, ...]
    upload_window: int | None
    committee: tuple[str, ...]
    site_figures: bool = False


@dataclass(frozen=True)
class RefusedRequest:
    """A request that a merchant or a witness refused.

    Attributes:
        at: time of the last refusal.
        times: how many times it was refused.
        kind: Flower's type of the request.
        reason: the reason.
        standing: whether it would be refused still.
    """

    at: str
    times: int
    kind: str
    reason: str
    standing: bool


@dataclass(frozen=True)
class RefusedByMerchant(RefusedRequest):
    """A request that a merchant refused, with what its plan would have cost.

    Attributes:
        cause: what the reason comes from.
        rule: the rule of ``policy.toml`` that the request breaks; None if it breaks none.
        plan: the refused plan; None for other requests, and if the plan was joined since.
    """

    cause: Cause
    rule: str | None
    plan: PlanSummary | None


@dataclass(frozen=True)
class NextRound:
    """The round that an open training asks for next.

    Attributes:
        number: the round.
        rounds: number of rounds of the training.
        seconds_between: seconds that lay between the last rounds; None before the second.
    """

    number: int
    rounds: int
    seconds_between: float | None


@dataclass(frozen=True)
class TrainingHistory:
    """A training that this merchant joined: what it cost, and what came of it.

    Attributes:
        training_id: the training.
        model: name of its model.
        mode: its privacy mode.
        merchants: size of its cohort.
        open: whether it goes on.
        rounds: its number of rounds.
        charged: rounds that this merchant was charged for.
        lost: charged rounds that came to nothing, as far as the models show it.
        first_at: time of the first charge, UTC; None if there is none.
        last_at: time of the last charge, UTC.
        epsilon: proved epsilon of the charges and the declared counts, at ``delta``; None if it is infinite.
        delta: the training's delta.
        seeded: number of charges whose noise came from a seed.
        uploads: uploads that were made.
        answers: answers that helped to open sums.
        bytes_sent: bytes of both.
        model_fetched: folder of the model that the page fetched; None if it wasn't.
        accuracy: accuracy that this model states.
        noise_alone: whether its last step used no photo.
        never_changed: whether it is closed, and the model was the same in all of several charged rounds.
    """

    training_id: str
    model: str
    mode: str
    merchants: int
    open: bool
    rounds: int
    charged: int
    lost: int
    first_at: str | None
    last_at: str | None
    epsilon: float | None
    delta: float
    seeded: int
    uploads: int
    answers: int
    bytes_sent: int
    model_fetched: str | None
    accuracy: float | None
    noise_alone: bool = False
    never_changed: bool = False


@dataclass(frozen=True)
class MerchantStatus(Liveness):
    """The whole status of a merchant.

    Attributes:
        merchant: its name.
        server: the server's address; None before a join file is confirmed.
        roster: names of the merchants on the confirmed roster.
        fingerprint: fingerprint of the confirmed join file.
        new_key_waits: whether a new node key waits to be enrolled.
        policy_problem: why the policy can't be used; None if it can.
        training: the open training's plan and cost.
        next_round: the round that is asked for next; None without an open training.
        photos: which photos the open training uses; None before its records are fixed.
        photo_counts: the same as numbers, as :class:`fedrec.clients.photo_counts.PhotoCounts` has them.
        changed_data: the policy's rule about photos that were added.
        paused: whether the merchant is paused.
        resumed: when its last pause ended, until it takes part in a round of the open training; else None.
        budget: its lifetime budget.
        ledger_entries: number of entries of its ledger.
        ledger_head: hash of the last entry, 64 hexadecimal digits.
        refusals: the last refused requests, the oldest first.
        history: the trainings that were joined, the newest first.
        hours: hours in which rounds are answered; None for any.
        clock: the time zone of these hours: UTC or that of this machine.
        forgotten: number of photos that the merchant has forgotten.
    """

    merchant: str
    server: str | None
    roster: tuple[str, ...]
    fingerprint: str | None
    new_key_waits: bool
    policy_problem: str | None
    training: PlanSummary | None
    next_round: NextRound | None
    photos: str | None
    photo_counts: dict[str, str | int] | None
    changed_data: str
    paused: bool
    resumed: str | None
    budget: Budget
    ledger_entries: int
    ledger_head: str
    refusals: tuple[RefusedByMerchant, ...]
    history: tuple[TrainingHistory, ...]
    hours: tuple[str, ...] | None
    clock: Literal["utc", "local"]
    forgotten: int
