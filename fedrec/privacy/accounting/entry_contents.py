"""Define the contents of ledger entries: a round's charge, a released count or an answer to a request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from fedrec.privacy.accounting.count_release import count_event
from fedrec.privacy.accounting.events import Event
from fedrec.privacy.accounting.privacy_spend import PrivacySpend, View


class Cost(Protocol):
    """Interface of a privacy cost: a :class:`Charge` or a :class:`Count`."""

    @property
    def delta(self) -> float:
        """The delta to account the cost at where no lifetime delta is set."""
        ...

    @property
    def delta_used(self) -> float:
        """The part of delta that the cost uses by itself, without the noise."""
        ...

    def event(self, view: View = "server") -> Event:
        """Return the event for the accountants, in one of the two views."""
        ...


def charge_key(training_id: str, round_number: int, *, step: int = 0) -> str:
    """Return the unique key of a charge in a ledger.

    Args:
        training_id: the training.
        round_number: the round.
        step: number of the charge within its round, from 0.

    Returns:
        The key.
    """
    return f"charge/{training_id}/{round_number}/{step}"


@dataclass(frozen=True)
class Charge:
    """What a merchant is about to spend on a round. The key is (training_id, round_number, step).

    The round after the training's last one is that of the site figures. Its rate, noise and dimension are its
    own, so that it is accounted for as a training of one step, beside the training that it belongs to.

    Attributes:
        training_id: the training.
        round_number: the round.
        rounds: number of planned rounds of the training, that of the site figures not counted.
        model_hash: SHA-256 of the model that the round starts from.
        mode: privacy mode, such as ``distributed``.
        unit: the protected unit, ``photo`` or ``product``.
        adjacency: the neighbouring relation.
        duplicate_policy: how duplicates were treated when units were counted.
        sample_rate: probability q of each unit to be in a step.
        clip: norm that each unit's gradient is clipped to.
        clipping: the method of clipping.
        planned_noise_multiplier: noise multiplier of the plan.
        guaranteed_noise_multiplier: noise multiplier in the server's view; 0 for no guarantee.
        broken_noise_multiplier: noise multiplier of the merchant's own share alone; 0 for no guarantee.
        beta: probability per step that rounding exceeds the sensitivity.
        scale: grid steps in one ``clip``.
        dimension: number of trainable parameters.
        sensitivity: sensitivity in grid units; it follows from ``scale``, ``dimension`` and ``beta``.
        min_contributors: fewest merchants in an opened sum.
        colluders: merchants that may collude with the server.
        delta: the training's whole delta.
        run: distinguishes trainings with otherwise equal plans.
        model: name of the model.
        code: the installed code (:mod:`fedrec.privacy.accounting.code_hash`).
        policy_hash: hash of the merchant's policy at that time.
        seeded: whether the noise came from a seed. It then protects nothing against whoever knows the seed,
            and the epsilons are those that unseeded noise would have had.
        step: number of the charge within its round, from 0.
        steps: number of noised steps that the charge covers.
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
        """Unique key of the charge in a ledger."""
        return charge_key(self.training_id, self.round_number, step=self.step)

    @property
    def is_of_figures(self) -> bool:
        """Whether the round is that of the site figures."""
        return self.round_number == self.rounds + 1

    @property
    def account(self) -> str:
        """What accountants take the charge to be part of: all charges of it are alike."""
        return figures_account(self) if self.is_of_figures else self.training_id

    @property
    def planned_steps(self) -> int:
        """Number of steps that the plan allows of :attr:`account`."""
        return self.steps if self.is_of_figures else self.rounds * self.steps

    @property
    def delta_used(self) -> float:
        """Probability that rounding exceeds the sensitivity in any of the steps."""
        return self.spend.betas

    @property
    def spend(self) -> PrivacySpend:
        """The privacy spend of the charge's steps, at its training's whole delta."""
        return PrivacySpend(
            sample_rate=self.sample_rate,
            multiplier=self.guaranteed_noise_multiplier,
            broken_multiplier=self.broken_noise_multiplier,
            steps=self.steps,
            beta=self.beta,
            delta=self.delta,
        )

    def event(self, view: View = "server") -> Event:
        """Return the event for the accountants, in one of the two views."""
        return Event(self.sample_rate, self.spend.noise_in(view), self.steps)


def figures_account(charge: Charge) -> str:
    """Return the :attr:`Charge.account` of the site figures of a charge's training."""
    return f"{charge.training_id}/figures"


@dataclass(frozen=True)
class Count:
    """A noisy count of a merchant's distinct units.

    Attributes:
        number: number of the release in its ledger, from 1; the last release is the valid one.
        unit: the counted unit, ``photo`` or ``product``.
        size: the noisy count.
        sigma: parameter of the discrete Gaussian noise, in units.
        delta: the delta of the entry's epsilons where no lifetime delta is set.
        code: the installed code.
        policy_hash: hash of the merchant's policy at that time.
        seeded: whether the noise came from a seed.
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
        """Unique key of the release in a ledger."""
        return f"count/{self.number}"

    @property
    def delta_used(self) -> float:
        """0, since no rounding is involved."""
        return 0.0

    def event(self, view: View = "server") -> Event:
        """Return the event for the accountants, the same in both views."""
        return count_event(self.sigma)


@dataclass(frozen=True)
class Answer:
    """A committee member's answer to one opening request of a round.

    It costs no privacy, since the sum that it helps to open was charged.

    Attributes:
        training_id: the training.
        round_number: the round.
        request_hash: hash of the request, which names the survivor set.
    """

    training_id: str
    round_number: int
    request_hash: str

    @property
    def key(self) -> str:
        """Unique key of the answer in a ledger: a round has one answer at most."""
        return answer_key(self.training_id, self.round_number)


def answer_key(training_id: str, round_number: int) -> str:
    """Return the key of a round's only answer.

    Args:
        training_id: the training.
        round_number: the round.

    Returns:
        The key.
    """
    return f"answer/{training_id}/{round_number}"
