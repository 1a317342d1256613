"""Define the explanation of a plan that isn't filed: ``--json`` prints it as it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from fedrec.server.report.figures_json import ForeseenFigures

SCHEMA: Final = "fedrec.plan-explanation/1"


@dataclass(frozen=True)
class PrivacyForeseen:
    """The guarantee of all rounds, site figures and declared counts included.

    Attributes:
        mode: the plan's privacy mode.
        unit: its unit of differential privacy.
        delta: its delta.
        epsilon: in the server's view; None without a guarantee.
        epsilon_aggregation_broken: likewise, for somebody who sees every upload in clear.
        rating: what they mean, in a sentence.
    """

    mode: str
    unit: str
    delta: float
    epsilon: float | None
    epsilon_aggregation_broken: float | None
    rating: str


@dataclass(frozen=True)
class Absences:
    """Who may be absent.

    Attributes:
        merchants: how many merchants there are.
        contributors_needed: how many must contribute to a sum.
        merchants_that_may_be_absent: how many needn't.
        key_holder: the one merchant that opens sums; None where a committee does, or nobody need.
        committee: how many members the committee has.
        answers_needed: how many of them must answer.
        members_that_may_be_absent: how many needn't.
        limits: what this cohort can't do, a sentence each.
    """

    merchants: int
    contributors_needed: int
    merchants_that_may_be_absent: int
    key_holder: str | None
    committee: int
    answers_needed: int
    members_that_may_be_absent: int
    limits: tuple[str, ...]


@dataclass(frozen=True)
class PolicyGroup:
    """Merchants with as many earlier charges, and what the default policy says of the plan then.

    Attributes:
        merchants: their names.
        earlier_charges: the rounds that each was charged for, by the number of the training.
        refusals: why they would refuse; empty where they would join.
    """

    merchants: tuple[str, ...]
    earlier_charges: Mapping[str, int]
    refusals: tuple[str, ...]


@dataclass(frozen=True)
class PlanCost:
    """Time and bytes, where merchants have machines like this one.

    Attributes:
        bytes_are_counted: whether a trial counted the bytes; otherwise they are estimated.
        seconds_step: how long the largest merchant computes for its upload.
        seconds_answer: how long a member computes for its answer.
        seconds_server: how long the server computes.
        seconds_exchanges: how long a round's messages take by themselves.
        seconds_round: how long a round takes.
        seconds: how long all rounds take; None with an upload window, which says when it ends.
        seconds_upload_at_10_mbit: how much longer a round takes at 10 Mbit/s of uplink.
        merchant_bytes_up: bytes that a merchant sends in a round.
        merchant_bytes_down: bytes that it receives.
        member_bytes_up: bytes that a member of the committee sends beside these.
        member_bytes_down: bytes that it receives beside these.
        join_and_close_bytes_up: bytes that a merchant sends at the join and at the end.
        join_and_close_bytes_down: bytes that it receives then.
        round_bytes_up: bytes that the server receives in a round.
        round_bytes_down: bytes that it sends.
        bytes_up: bytes that it receives in all rounds.
        bytes_down: bytes that it sends in all rounds.
    """

    bytes_are_counted: bool
    seconds_step: float
    seconds_answer: float
    seconds_server: float
    seconds_exchanges: float
    seconds_round: float
    seconds: float | None
    seconds_upload_at_10_mbit: float
    merchant_bytes_up: float
    merchant_bytes_down: float
    member_bytes_up: float
    member_bytes_down: float
    join_and_close_bytes_up: float
    join_and_close_bytes_down: float
    round_bytes_up: float
    round_bytes_down: float
    bytes_up: float
    bytes_down: float


@dataclass(frozen=True)
class Explanation:
    """What a plan costs, and what can stop it.

    Attributes:
        schema: name and version of this form.
        filed: False: nothing was.
        model: name of the model.
        parameters: how many it has.
        merchants: names of the merchants.
        witnesses: names of the witnesses.
        rounds: rounds of the plan.
        upload_window_seconds: length of its upload window; None without one.
        privacy: the guarantee.
        site_figures: what its site figures will cost and show; None where it asks for none.
        absences: who may be absent.
        policies: who would join by the default policy, and why the others wouldn't.
        cost: time and bytes.
        photo_bytes_kept: bytes that a merchant's feature cache keeps of a photo; 0 for a model of pictures.
    """

    schema: str
    filed: bool
    model: str
    parameters: int
    merchants: tuple[str, ...]
    witnesses: tuple[str, ...]
    rounds: int
    upload_window_seconds: int | None
    privacy: PrivacyForeseen
    site_figures: ForeseenFigures | None
    absences: Absences
    policies: tuple[PolicyGroup, ...]
    cost: PlanCost
    photo_bytes_kept: int
