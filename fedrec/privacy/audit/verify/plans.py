"""Define what the checks use of a plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .modes import MODES, Mode


@dataclass(frozen=True)
class Peer:
    """A merchant or a witness: its name, and its public key, 64 hexadecimal digits."""

    name: str
    signing_key: str


@dataclass(frozen=True)
class FiguresAsked:
    """The site figures that a plan asks for: their noise multiplier, None without noise."""

    noise_multiplier: float | None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A training's plan; its fields are those of ``docs/training-file.md`` and what follows from them.

    Attributes:
        nonce: what tells two plans of the same terms apart.
        server_key: the server's public key.
        roster: the merchants.
        witnesses: parties without photos that have a seat on the committee.
        committee: names of the members that open sums.
        threshold: how many of them must answer.
        corrupt_members: how many of them may be corrupt.
        corrupt_witnesses: how many of these are witnesses.
        seat_risk: the probability that more are drawn.
        trust: who opens sums, who reads single updates, and whose noise epsilon counts.
        scheme: the aggregation scheme.
        min_contributors: the fewest uploads in a sum that is opened.
        colluders: merchants whose noise isn't counted.
        noise_levels: numbers of contributors at which a layer of noise is removed.
        mode: the privacy mode.
        unit: the unit of differential privacy.
        delta: delta.
        noise_multiplier: the noise that is planned for a sum; None without noise.
        sample_rate: the sampling rate of a step.
        clip: the norm to which a record's gradient is clipped.
        clipping: the rule of that.
        rounds: number of rounds.
        local_steps: number of steps in a round.
        site_figures: the site figures after the last round; None without.
        model: the model's name.
        model_code: hash of the code of an installed model; None for one of fedrec.
        initial_model_hash: hash of the initial parameters.
        dimension: number of parameters.
        classes: names of the classes.
        image_size: side of a picture.
        record_values: numbers of a view of a record.
        views: views of a record.
        records_total: the sum of all declared sizes.
        records_largest: the largest of them.
    """

    nonce: str
    server_key: str
    roster: tuple[Peer, ...]
    witnesses: tuple[Peer, ...] = ()
    committee: tuple[str, ...]
    threshold: int
    corrupt_members: int
    corrupt_witnesses: int = 0
    seat_risk: float
    trust: Mapping[str, str]
    scheme: str
    min_contributors: int
    colluders: int
    noise_levels: tuple[int, ...] = ()
    mode: str
    unit: str
    delta: float
    noise_multiplier: float | None
    sample_rate: float
    clip: float
    clipping: str
    rounds: int
    local_steps: int
    site_figures: FiguresAsked | None = None
    model: str
    model_code: str | None
    initial_model_hash: str
    dimension: int
    classes: tuple[str, ...]
    image_size: int
    record_values: int
    views: int
    records_total: int
    records_largest: int

    @property
    def figures_noise(self) -> float:
        """The noise multiplier of the site figures; 0 without noise, and where there are none."""
        asked = self.site_figures
        return 0.0 if asked is None else asked.noise_multiplier or 0.0

    @property
    def privacy(self) -> Mode:
        """The privacy mode; a ``KeyError`` for one that isn't known."""
        return MODES[self.mode]
