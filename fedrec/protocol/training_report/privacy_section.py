"""Define the section of a training's report on its privacy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from fedrec.protocol.modes import Mode
from fedrec.protocol.plan import Unit
from fedrec.protocol.schema import Strict
from fedrec.protocol.training_report.values import Amount, Count, Epsilon, Share


class RatingLine(Strict):
    """A budget in words: the word on the scale, and what it bounds."""

    word: Literal["strong", "moderate", "weak", "little protection"]
    sentence: str

    @property
    def protected(self) -> bool:
        """Whether a page may call the data protected."""
        return self.word != "little protection"


class ChargedEvent(Strict):
    """Something that merchants were charged for.

    Attributes:
        kind: noised steps of training, the round of site figures, or the count declared before.
        sample_rate: the share of records in a step.
        noise_multiplier: of the server's view; 0 without noise.
        steps: number of steps.
    """

    kind: Literal["training", "figures", "count"]
    sample_rate: Share
    noise_multiplier: Amount
    steps: Count


class MerchantLine(Strict):
    """What one merchant spent.

    Attributes:
        merchant: its name.
        records: its records, or the size that it declared; None if it declared none.
        epsilon: of this training; None without a guarantee, or if it isn't known.
        epsilon_lifetime: what the lifetime filter counts; None likewise.
        rounds_charged: rounds that it was charged for; None if that isn't known.
    """

    merchant: str
    records: Count | None
    epsilon: Epsilon | None
    epsilon_lifetime: Epsilon | None
    rounds_charged: Count | None


class PrivacySection(Strict):
    """The guarantee of a training, and what it follows from.

    Attributes:
        mode: the privacy mode.
        unit: the unit of differential privacy.
        adjacency: which data sets are neighbours.
        duplicate_policy: what becomes of exact copies.
        epsilon: in the server's view at ``delta``, by the proved accountant; None without a guarantee.
        cross_checks: what other accountants compute, by name.
        epsilon_aggregation_broken: in the view of somebody who sees every upload in clear.
        epsilon_at_usual_delta: ``epsilon`` at a delta of 1e-5; in JSON ``epsilon_at_1e-5``.
        epsilon_of_copies: ``epsilon`` of several copies of a record together, by their number.
        rating: ``epsilon`` in words.
        delta: delta of the guarantee; None without one.
        sample_rate: the share of a merchant's records in a step.
        clip: the norm that a record's gradient is clipped to.
        clipping: how it is clipped.
        noise_multiplier: noise over sensitivity, in the server's view; None without noise.
        steps: noised steps that were charged, those of lost rounds too.
        class_over_noise: how far a class of average size stands out of the noise; None without noise.
        events: everything that was charged; ``epsilon`` is that of their composition.
        colluders: merchants on the server's side that ``epsilon`` allows for.
        min_contributors: the smallest number of uploads in a sum that is opened.
        accountant: the accountants and their versions.
        seeded: whether noise came from a seed: then nothing is guaranteed.
        per_merchant: what each merchant spent.
    """

    model_config = ConfigDict(populate_by_name=True)

    mode: Mode
    unit: Unit
    adjacency: Literal["add-or-remove"]
    duplicate_policy: str
    epsilon: Epsilon | None
    cross_checks: Mapping[str, Epsilon | None]
    epsilon_aggregation_broken: Epsilon | None
    epsilon_at_usual_delta: Annotated[
        Epsilon | None, Field(validation_alias="epsilon_at_1e-5", serialization_alias="epsilon_at_1e-5")
    ]
    epsilon_of_copies: Mapping[str, Epsilon | None]
    rating: RatingLine
    delta: Share | None
    sample_rate: Share
    clip: Amount
    clipping: str
    noise_multiplier: Amount | None
    steps: Count
    class_over_noise: Amount | None
    events: tuple[ChargedEvent, ...]
    colluders: Count
    min_contributors: Annotated[int, Field(ge=1)]
    accountant: str
    seeded: bool
    per_merchant: tuple[MerchantLine, ...]

    @property
    def charged(self) -> bool:
        """Whether any round was charged; a training may be stopped before its first."""
        return self.steps > 0

    @property
    def has_figures(self) -> bool:
        """Whether the round of site figures was charged."""
        return any(event.kind == "figures" for event in self.events)
