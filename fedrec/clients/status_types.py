"""Define the types of a merchant's status."""

from __future__ import annotations

from dataclasses import dataclass

from fedrec.privacy.accounting.budget_rating import Word


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


@dataclass(frozen=True)
class RefusedRequest:
    """A refused request.

    Attributes:
        at: time of the last refusal.
        times: how many times it was refused.
        kind: Flower's type of the request.
        reason: the reason.
        plan: the refused plan; None for other requests, and if the plan was joined since.

    """

    at: str
    times: int
    kind: str
    reason: str
    plan: PlanSummary | None


@dataclass(frozen=True)
class MerchantStatus:
    """The whole status of a merchant.

    Attributes:
        merchant: its name.
        running: whether its daemon runs.
        connected: whether the daemon is connected to the server.
        connection_at: time of the last change of the connection; None if there was none.
        connection_reason: why there is no connection.
        server: the server's address; None before a join file is confirmed.
        roster: names of the merchants on the confirmed roster.
        fingerprint: fingerprint of the confirmed join file.
        new_key_waits: whether a new node key waits to be enrolled.
        policy_problem: why the policy can't be used; None if it can.
        training: the open training's plan and cost.
        photos: which photos the open training uses; None before its records are fixed.
        paused: whether the merchant is paused.
        budget: its lifetime budget.
        ledger_entries: number of entries of its ledger.
        ledger_head: hash of the last entry, 64 hexadecimal digits.
        refusals: the last refused requests, the oldest first.

    """

    merchant: str
    running: bool
    connected: bool
    connection_at: str | None
    connection_reason: str
    server: str | None
    roster: tuple[str, ...]
    fingerprint: str | None
    new_key_waits: bool
    policy_problem: str | None
    training: PlanSummary | None
    photos: str | None
    paused: bool
    budget: Budget
    ledger_entries: int
    ledger_head: str
    refusals: tuple[RefusedRequest, ...]
