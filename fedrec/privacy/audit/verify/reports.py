"""Define what the checks use of a training's report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .forms import KEY


@dataclass(frozen=True)
class RunStated:
    """Which training a report is of."""

    training_id: str


@dataclass(frozen=True)
class AggregationStated:
    """How a report says that sums were encrypted, and whom that trusts."""

    scheme: str
    trust: Mapping[str, str]


@dataclass(frozen=True)
class RatingStated:
    """What a report calls its budget."""

    word: str


@dataclass(frozen=True)
class MerchantLine:
    """What a report says that one merchant spent; an epsilon is None without a bound."""

    merchant: str
    epsilon: float | None
    epsilon_lifetime: float | None
    rounds_charged: int | None


@dataclass(frozen=True, kw_only=True)
class PrivacyStated:
    """The guarantee that a report states; an epsilon is None without a bound.

    Attributes:
        mode: the privacy mode.
        unit: the unit of differential privacy.
        adjacency: which data sets are neighbours.
        duplicate_policy: what is done with copies of a record.
        sample_rate: the sampling rate of a step.
        clip: the norm to which a record's gradient is clipped.
        colluders: merchants whose noise isn't counted.
        min_contributors: the fewest uploads in a sum that is opened.
        delta: delta; None without noise.
        noise_multiplier: noise over sensitivity, in the server's view; None without noise.
        seeded: whether noise came from a seed.
        steps: charged steps.
        epsilon: in the server's view, at ``delta``.
        epsilon_aggregation_broken: likewise, for somebody who reads single updates.
        epsilon_at_usual_delta: in the server's view, at 1e-5.
        epsilon_of_copies: that of a record with so many copies.
        rating: what the budget is called.
        events: all that was charged, in the forms of which the check knows each field.
        cross_checks: epsilon by other accountants.
        per_merchant: what each merchant spent.
    """

    mode: str
    unit: str
    adjacency: str
    duplicate_policy: str
    sample_rate: float
    clip: float
    colluders: int
    min_contributors: int
    delta: float | None
    noise_multiplier: float | None
    seeded: bool
    steps: int
    epsilon: float | None
    epsilon_aggregation_broken: float | None
    epsilon_at_usual_delta: float | None = field(metadata={KEY: "epsilon_at_1e-5"})
    epsilon_of_copies: Mapping[str, float | None]
    rating: RatingStated
    events: tuple[Mapping[str, Any], ...]
    cross_checks: Mapping[str, float | None]
    per_merchant: tuple[MerchantLine, ...]


@dataclass(frozen=True)
class Report:
    """A report, as far as it is checked; site figures are checked by their paths."""

    run: RunStated
    privacy: PrivacyStated
    secure_aggregation: AggregationStated
    site_figures: Mapping[str, Any] | None = None
