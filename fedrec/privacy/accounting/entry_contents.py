"""What an entry of a ledger is about: a round's charge, a released count, or an answer about a sum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from fedrec.privacy.accounting.count_release import count_event
from fedrec.privacy.accounting.events import Event
from fedrec.privacy.accounting.privacy_spend import PrivacySpend, View


class Cost(Protocol):
    """What is spent: a :class:`Charge` or a :class:`Count`."""

    @property
    def delta(self) -> float:
        """The delta that goes with it where no lifetime delta is set."""
        ...

    @property
    def delta_used(self) -> float:
        """What it takes of delta by itself."""
        ...

    def event(self, view: View = "server") -> Event:
        """Return what it costs in one of the two views."""
        ...


@dataclass(frozen=True)
class Charge:
    """What a merchant is about to spend on a round; its key is (training_id, round_number, step).

    ``rounds`` is how many rounds the training is planned for. ``step`` numbers the charges of one round from
    0, ``steps`` says how many noised steps this one
    covers. ``guaranteed_noise_multiplier`` is that of the server's view, ``broken_noise_multiplier``
    that of the merchant's own share alone; 0 means no guarantee. ``scale`` (grid steps in one ``clip``)
    and ``sensitivity`` are in grid units; the latter follows from scale, ``dimension`` (trainable
    parameters) and ``beta``. ``delta`` is the training's whole delta. ``run`` tells apart
    trainings of otherwise equal plans. ``code`` names the installed code, ``policy_hash`` the merchant's
    rules of the time. Where the noise was ``seeded`` it hides nothing from
    whoever knows the seed: multipliers and epsilons are then those that unseeded noise would have had.
    """

    training_id: str
    round_number: int
    rounds: int
    model_hash: str
    mode: str
    unit: str
    adjacency: str
    duplicate_policy: str
    sample_rate: float
    clip: float
    clipping: str
    planned_noise_multiplier: float
    guaranteed_noise_multiplier: float
    broken_noise_multiplier: float
    beta: float
    scale: int
    dimension: int
    sensitivity: float
    min_contributors: int
    colluders: int
    delta: float
    run: str
    model: str
    code: str
    policy_hash: str
    seeded: bool
    step: int = 0
    steps: int = 1

    @property
    def key(self) -> str:
        """What this charge is known by: it is written once."""
        return f"charge/{self.training_id}/{self.round_number}/{self.step}"

    @property
    def delta_used(self) -> float:
        """The chance that rounding passes the sensitivity in one of the steps."""
        return self.spend.betas

    @property
    def spend(self) -> PrivacySpend:
        """What the charge's steps spend, at its training's whole delta."""
        return PrivacySpend(
            sample_rate=self.sample_rate,
            multiplier=self.guaranteed_noise_multiplier,
            broken_multiplier=self.broken_noise_multiplier,
            steps=self.steps,
            beta=self.beta,
            delta=self.delta,
        )

    def event(self, view: View = "server") -> Event:
        """Return what this costs in one of the two views, for the accountants."""
        return Event(self.sample_rate, self.spend.noise_in(view), self.steps)


@dataclass(frozen=True)
class Count:
    """The number of distinct units that a merchant declares: ``size``, with noise of parameter ``sigma``.

    ``number`` counts a ledger's releases from 1; the last one holds. ``delta`` is what the entry's epsilons
    are taken at where no lifetime delta is set.
    """

    number: int
    unit: str
    size: int
    sigma: float
    delta: float
    code: str
    policy_hash: str
    seeded: bool

    @property
    def key(self) -> str:
        """What this release is known by."""
        return f"count/{self.number}"

    @property
    def delta_used(self) -> float:
        """Nothing: no rounding is in it."""
        return 0.0

    def event(self, view: View = "server") -> Event:
        """Return what this costs, in either view."""
        return count_event(self.sigma)


@dataclass(frozen=True)
class Answer:
    """That a committee member answers one request of a round; ``request_hash`` names its survivor set.

    It costs nothing: the sum that it helps to open was charged.
    """

    training_id: str
    round_number: int
    request_hash: str

    @property
    def key(self) -> str:
        """What this answer is known by: a round has one."""
        return answer_key(self.training_id, self.round_number)


def answer_key(training_id: str, round_number: int) -> str:
    """Return the key of a round's only answer."""
    return f"answer/{training_id}/{round_number}"
