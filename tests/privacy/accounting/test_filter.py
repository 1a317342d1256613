"""The lifetime cap against a server that chooses each next training after seeing what came of the last."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from fedrec.errors import ConfigError
from fedrec.privacy.accounting.events import Event
from fedrec.privacy.accounting.loss_composition import LossSum
from fedrec.privacy.accounting.pld import epsilon_pld
from fedrec.privacy.accounting.privacy_filter import (
    ARM_PART,
    RELEASES_PART,
    FilterReading,
    TrainingCost,
    delta_share,
    read_filter,
)
from fedrec.privacy.accounting.privacy_loss import Mixture, step_losses
from fedrec.privacy.accounting.rdp import ORDERS, epsilons_from_rdp, rdp_vector
from fedrec.privacy.audit.verify.lifetime_filter import TrainingSpend, lifetime_epsilon

CAP, DELTA = 8.0, 1e-5
FIRST = Event(0.05, 1.0, 300)
NEXT = (Event(0.01, 0.6, 1), Event(0.2, 1.6, 1), Event(1.0, 12.0, 1))
"""Kinds of steps that the server may go on with: a rare large loss, a middling one, many small ones."""
COUNT = Event(1.0, math.sqrt(20**2 - 9), 1)


def training(step: Event, *, planned: int, charged: int | None = None, beta: float = 0.0) -> TrainingCost:
    charged = planned if charged is None else charged
    return TrainingCost(replace(step, steps=1), planned=planned, charged=charged, beta=beta)


def done(event: Event) -> TrainingCost:
    return training(event, planned=event.steps, charged=event.steps)


def most(fits: object, *, above: int = 20_000) -> int:
    """The largest number that fits, by bisection."""
    low, high = 0, above
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)  # type: ignore[operator]
    return low


def adaptive_delta(first: Event, choices: list[Event], *, epsilon: float) -> float:
    """Delta at ``epsilon`` of a server that sees the first training's loss, then takes the worst choice."""
    interval = 1 / 128

    def losses(event: Event) -> tuple[np.ndarray, np.ndarray, float]:
        step = step_losses(Mixture.sampled(event.sample_rate), event.noise_multiplier, interval)
        composed = LossSum(((step.removed, event.steps),)).composed()
        return composed.indices() * interval, composed.masses, composed.infinite

    at, masses, infinite = losses(first)
    worst = np.zeros(at.shape)
    # Losses of no mass to speak of; the rest is what the next training still has to give.
    counted = np.flatnonzero(masses > 1e-15)
    for choice in choices:
        later, weights, never = losses(choice)
        order = np.searchsorted(later, epsilon - at[counted])
        above = np.append(np.cumsum(weights[::-1])[::-1], 0.0)[order]
        # Relative to epsilon: exp(epsilon - loss) stays small where it counts.
        scaled = np.append(np.cumsum((weights * np.exp(-np.minimum(later, 700.0)))[::-1])[::-1], 0.0)[order]
        delta = never + above - np.exp(np.minimum(epsilon - at[counted], 700.0)) * scaled
        worst[counted] = np.maximum(worst[counted], delta)
    return infinite + float(masses @ worst)


def test_the_filter_refuses_what_composing_plds_would_wrongly_allow() -> None:
    """Each continuation alone keeps within (8, 1e-5) by PLD; choosing between them afterwards does not."""

    def composed(step: Event, steps: int) -> float:
        return epsilon_pld([FIRST, replace(step, steps=steps)], delta=DELTA)

    def filtered(step: Event, steps: int) -> FilterReading:
        return read_filter([done(FIRST), training(step, planned=steps)], epsilon=CAP, delta=DELTA)

    by_pld = [replace(step, steps=most(lambda n, s=step: composed(s, n) <= CAP)) for step in NEXT]
    assert all(epsilon_pld([FIRST, step], delta=DELTA) <= CAP for step in by_pld)
    assert adaptive_delta(FIRST, by_pld, epsilon=CAP) > 1.4 * DELTA
    # No single one of them does harm (but for this test's coarse grid): the choice does.
    for step in by_pld:
        assert adaptive_delta(FIRST, [step], epsilon=CAP) <= 1.02 * DELTA
        assert not filtered(step, step.steps).fits
    allowed = [replace(step, steps=most(lambda n, s=step: filtered(s, n).fits)) for step in NEXT]
    assert all(step.steps > 0 for step in allowed)
    assert adaptive_delta(FIRST, allowed, epsilon=CAP) < DELTA / 2


def test_both_parts_of_the_filter_follow_the_rule() -> None:
    """The rule written out once more, over a lifetime of several trainings, betas and two noised counts."""
    step, beta = Event(0.1, 1.3, 1), 1e-10
    trainings = [
        training(step, planned=200, charged=150, beta=beta),
        training(Event(0.02, 0.8, 1), planned=400, charged=400, beta=beta),
        training(Event(0.3, 4.0, 1), planned=100, charged=20, beta=beta),
    ]
    reading = read_filter(trainings, releases=[COUNT, COUNT], epsilon=20.0, delta=DELTA)
    releases = sum(epsilon_pld([COUNT], delta=DELTA / 16 / part) for part in (2, 6))
    assert reading.releases == pytest.approx(releases, rel=1e-12)
    basic = sum(
        epsilon_pld([replace(t.step, steps=t.planned)], delta=DELTA * 15 / 32 / part - beta * t.planned)
        for t, part in zip(trainings, (2, 6, 12), strict=True)
    )
    assert reading.basic == pytest.approx(basic, rel=1e-12)
    # This arm counts what was charged, the other all that was planned.
    rdp = sum(rdp_vector(replace(t.step, steps=n)) for t, n in zip(trainings, (150, 400, 20), strict=True))
    by_order = epsilons_from_rdp(np.asarray(rdp), delta=DELTA * 15 / 32 - 570 * beta)
    assert reading.order is not None
    assert reading.renyi == pytest.approx(by_order[ORDERS.tolist().index(reading.order)], rel=1e-9)
    assert reading.spent == reading.releases + min(reading.renyi, reading.basic)
    assert reading.left == max(0.0, 20.0 - reading.spent) and reading.fits == (reading.spent <= 20.0)


def test_the_order_is_fixed_by_the_first_training_and_no_later_one() -> None:
    """A filter at one order is none at the best of several: a server could steer which is best."""
    first = done(Event(0.05, 1.0, 50))
    alone = read_filter([first], epsilon=CAP, delta=DELTA)
    for later in (Event(0.01, 0.5, 30), Event(1.0, 30.0, 30), Event(0.5, 9.0, 30)):
        assert read_filter([first, done(later)], epsilon=CAP, delta=DELTA).order == alone.order
        # Neither does a release, which comes before any training.
        assert read_filter([first], releases=[COUNT], epsilon=CAP, delta=DELTA).order == alone.order
    # It is the order at which most steps of the first kind fit.
    step = replace(first.step, steps=1)
    room = CAP - epsilons_from_rdp(np.zeros(ORDERS.shape), delta=DELTA * ARM_PART)
    assert alone.order == ORDERS[np.argmax(room / rdp_vector(step))]


def test_recorded_epsilons_only_grow() -> None:
    """Charging, planning and releasing more never lower what is spent: what was refused stays refused."""
    history = [done(Event(0.05, 1.0, 100)), training(Event(0.1, 2.0, 1), planned=100, charged=60)]
    before = read_filter(history, epsilon=CAP, delta=DELTA)
    for more in (
        [*history, training(Event(0.01, 0.9, 1), planned=10)],
        [history[0], replace(history[1], charged=61)],
        [*history, training(Event(0.01, 0.9, 1), planned=1)],
    ):
        assert read_filter(more, epsilon=CAP, delta=DELTA).spent > before.spent
    assert read_filter(history, releases=[COUNT], epsilon=CAP, delta=DELTA).spent > before.spent
    # A training that ends early costs arm (a) what was charged; arm (b) counts it whole.
    whole = read_filter([history[0], replace(history[1], charged=100)], epsilon=CAP, delta=DELTA)
    assert before.renyi < whole.renyi and before.basic == whole.basic
    longer = read_filter([history[0], replace(history[1], planned=101)], epsilon=CAP, delta=DELTA)
    assert longer.renyi == before.renyi and longer.basic > before.basic


def test_the_first_training_is_admitted_by_its_own_epsilon() -> None:
    """Arm (b) costs a first training a quarter of delta, not what RDP loses; later ones need arm (a)."""
    sigma, planned = 0.6441, 60
    first = training(Event(0.05, sigma, 1), planned=planned, beta=1e-12)
    reading = read_filter([first], epsilon=10.0, delta=DELTA)
    assert reading.basic < reading.renyi
    own = epsilon_pld([Event(0.05, sigma, planned)], delta=DELTA)
    assert own < reading.basic < own + 1
    step = Event(0.25, 6.73, 300)
    many = read_filter([done(step)] * 6, epsilon=10.0, delta=DELTA)
    assert many.fits and many.renyi <= many.basic and many.basic > 10


def test_deltas_add_up_to_that_of_the_cap() -> None:
    for count in (1, 2, 10, 1000):
        assert math.fsum(delta_share(DELTA, position) for position in range(count)) <= DELTA * count / (
            count + 1
        ) * (1 + 1e-12)
    assert RELEASES_PART + 2 * ARM_PART == 1.0


def test_readings_of_an_empty_and_of_a_full_ledger() -> None:
    empty = read_filter([], epsilon=CAP, delta=DELTA)
    assert (empty.spent, empty.left, empty.order, empty.fits) == (0.0, CAP, None, True)
    bare = read_filter([training(Event(0.1, 0.0, 1), planned=5)], epsilon=CAP, delta=DELTA)
    assert bare.spent == math.inf and not bare.fits and bare.left == 0
    # Betas may use up either arm's delta.
    spent = read_filter([training(Event(0.1, 5.0, 1), planned=10**5, beta=1e-10)], epsilon=CAP, delta=DELTA)
    assert spent.renyi == spent.basic == math.inf
    for cap, delta in ((0.0, DELTA), (math.inf, DELTA), (math.nan, DELTA), (CAP, 0.0), (CAP, 1.0)):
        with pytest.raises(ConfigError):
            read_filter([], epsilon=cap, delta=delta)
    for charged, beta in ((2, 0.0), (1, 1.0), (-1, 0.0)):
        with pytest.raises(ConfigError):
            training(Event(0.1, 1.0, 1), planned=1, charged=charged, beta=beta)


def test_the_verifiers_own_filter_gives_the_same_reading() -> None:
    """The verifier's filter is written again, on dp-accounting's PLD and another rule of integration."""
    kinds = [Event(0.05, 0.7, 60), Event(0.25, 3.0, 100), Event(1.0, 40.0, 20)]
    for order, cap in itertools.product(itertools.permutations(kinds, 2), (6.0, 12.0)):
        trainings = [
            training(event, planned=event.steps, charged=event.steps // 2, beta=1e-11) for event in order
        ]
        ours = read_filter(trainings, releases=[COUNT], epsilon=cap, delta=DELTA)
        theirs = lifetime_epsilon(
            [TrainingSpend(e.sample_rate, e.noise_multiplier, e.steps, e.steps // 2, 1e-11) for e in order],
            [(COUNT.sample_rate, COUNT.noise_multiplier)],
            epsilon=cap,
            delta=DELTA,
        )
        assert theirs == pytest.approx(ours.spent, rel=1e-3)
