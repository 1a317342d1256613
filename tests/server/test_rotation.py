"""Who is left out after sums that didn't open: few rounds are lost whatever one does; nobody starves."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.server.reservation import ConductRecord
from fedrec.server.rotation import LONGEST_TERM, Evidence, Rotation

Lies = Callable[[int, frozenset[str]], bool]
"""Whether a round (its number, who takes part) is spoilt."""


def stored(evidence: Evidence) -> Evidence:
    """What comes back from the checkpoint's file."""
    kept = ConductRecord(rotation=evidence).model_dump(mode="json")
    return ConductRecord.model_validate_json(json.dumps(kept)).rotation


def play(rotation: Rotation, lies: Lies, *, rounds: int, room: int = 1) -> list[tuple[bool, frozenset[str]]]:
    """Run rounds of everybody but who is left out; returns whether each was lost, and who was left out."""
    everyone = frozenset(rotation.order)
    played = []
    for number in range(1, rounds + 1):
        # Nothing but what is kept in the checkpoint counts.
        rotation = Rotation.of(stored(rotation.evidence()), order=rotation.order)
        out = rotation.left_out(everyone, room=room)
        assert len(out) <= room
        part = everyone - out
        lost = lies(number, part)
        if lost:
            rotation.lost(part)
        else:
            rotation.opened(part)
        played.append((lost, out))
    return played


def spoilt_by(saboteur: str) -> Lies:
    return lambda number, part: saboteur in part


def names(count: int) -> tuple[str, ...]:
    return tuple(f"m{index}" for index in range(count))


@pytest.mark.parametrize("saboteur", names(10))
@pytest.mark.parametrize("honest_each", [None, 5, 2])
def test_one_saboteur_of_ten_costs_ten_rounds_at_most(saboteur: str, honest_each: int | None) -> None:
    def lies(number: int, part: frozenset[str]) -> bool:
        return saboteur in part and (honest_each is None or number % honest_each != 0)

    played = play(Rotation(order=names(10)), lies, rounds=100)
    assert sum(lost for lost, _ in played) <= 10
    if honest_each is None:
        assert not any(lost for lost, _ in played[10:20])


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(4, 30),
    room=st.integers(1, 4),
    seed=st.integers(0, 2**32),
    chance=st.sampled_from([0.02, 0.1, 0.2, 0.5, 0.9, 1.0]),
    beside=st.integers(0, 3),
)
def test_one_saboteur_costs_few_rounds_whatever_it_does(
    size: int, room: int, seed: int, chance: float, beside: int
) -> None:
    """It lies at random, or only beside certain others, or only when somebody certain is away."""
    room = min(room, size - 3)
    chosen = random.Random(seed)
    order = names(size)
    saboteur = chosen.choice(order)
    needed = frozenset(chosen.sample(order, beside))

    def lies(number: int, part: frozenset[str]) -> bool:
        return saboteur in part and needed <= part and chosen.random() < chance

    rounds = 400
    played = play(Rotation(order=order), lies, rounds=rounds, room=room)
    lost = sum(lost for lost, _ in played)
    # Each lost round clears somebody, but for the first and for returns, one in twenty rounds.
    assert lost <= size + 1 + 2 * rounds // 20
    # Once it was found, it spoils one round in ten at most.
    assert sum(lost for lost, _ in played[-200:]) <= 20


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), chance=st.sampled_from([0.05, 0.2, 1.0]), room=st.integers(1, 3))
def test_nobody_is_left_out_for_ever(seed: int, chance: float, room: int) -> None:
    """Neither an honest merchant that a saboteur frames (it lies beside that one alone), nor anybody else."""
    chosen = random.Random(seed)
    order = names(8)
    saboteur, framed = chosen.sample(order, 2)

    def lies(number: int, part: frozenset[str]) -> bool:
        return {saboteur, framed} <= part and chosen.random() < chance

    played = play(Rotation(order=order), lies, rounds=1500, room=room)
    for name in order:
        longest = run = 0
        for _, out in played:
            run = run + 1 if name in out else 0
            longest = max(longest, run)
        assert longest <= max(LONGEST_TERM, 20 * (len(order) + 2)) + 5, name
    # Both look alike, and no more than half of the rounds are for want of telling them apart held against
    # one.
    late = [out for _, out in played[-700:]]
    assert sum(framed in out for out in late) < 0.95 * len(late)


def test_a_framed_merchant_and_its_saboteur_take_turns() -> None:
    order = names(10)

    def lies(number: int, part: frozenset[str]) -> bool:
        return {"m0", "m1"} <= part

    played = play(Rotation(order=order), lies, rounds=2000)
    out = {name: sum(name in left for _, left in played) for name in order}
    assert out["m0"] > 200 and out["m1"] > 200
    assert sum(lost for lost, _ in played) < 100


@pytest.mark.parametrize("saboteur", ["m0", "m5", "m9"])
def test_what_was_found_in_one_training_holds_in_the_next(saboteur: str) -> None:
    def lies(number: int, part: frozenset[str]) -> bool:
        return saboteur in part

    found = Rotation(order=names(10))
    for number in range(15):
        part = frozenset(names(10)) - found.left_out(names(10), room=1)
        if lies(number, part):
            found.lost(part)
        else:
            found.opened(part)
    assert found.losses >= 1
    evidence = stored(found.evidence())
    # Another order of turns, one merchant less and two that are new.
    after = (*(name for name in reversed(names(10)) if name != "m3"), "new", "newer")
    second = Rotation.continued(evidence, order=after, before=names(10))
    played = play(second, lies, rounds=20)
    assert not any(lost for lost, _ in played)
    assert {name for _, out in played for name in out} == {saboteur}
    # It comes back in time, which costs a round, and no newcomer is taken for the cause.
    longer = play(second, lies, rounds=400)
    assert sum(lost for lost, _ in longer) <= 400 // 20
    assert sum("new" in out or "newer" in out for _, out in longer) == 0


@pytest.mark.parametrize(("size", "room"), [(4, 1), (10, 1), (10, 2), (20, 5)])
@pytest.mark.parametrize("trainings", [1, 2])
def test_a_saboteur_that_comes_back_under_another_name_is_found_again(
    size: int, room: int, trainings: int
) -> None:
    """Earlier lost rounds clear whoever is new, and would have every other merchant left out before it."""
    for first in range(1, size + 2):
        everyone = names(size)
        rotation = Rotation(order=everyone)
        for _ in range(first):
            part = set(everyone) - rotation.left_out(everyone, room=room)
            (rotation.lost if everyone[-1] in part else rotation.opened)(part)
        for number in range(trainings):
            later = (*names(size - 1), f"new-{number}")
            before, everyone = everyone, tuple(random.Random(first).sample(later, size))
            rotation = Rotation.continued(rotation.evidence(), order=everyone, before=before)
        saboteur = (set(everyone) - set(names(size))).pop()
        played = play(rotation, spoilt_by(saboteur), rounds=60, room=room)
        assert sum(lost for lost, _ in played) <= 2 * size, (first, played)


def test_where_the_suspects_are_gone_the_next_training_begins_without_any() -> None:
    found = Rotation(order=names(4))
    found.lost(names(4))
    for name in names(3):
        found.lost(set(names(4)) - {name})
    assert found.undecided == {"m3"}
    later = Rotation.continued(found.evidence(), order=names(3), before=names(4))
    assert later == Rotation(order=names(3))
    assert Rotation.continued(Evidence(), order=names(3), before=names(4)) == Rotation(order=names(3))


def test_a_single_accident_costs_one_round_and_everybody_is_asked_again() -> None:
    played = play(Rotation(order=names(6)), lambda number, part: number == 3, rounds=300)
    assert sum(lost for lost, _ in played) == 1
    assert not any(out for _, out in played[-200:])


def test_where_nobody_can_be_left_out_nobody_is() -> None:
    played = play(Rotation(order=names(3)), lambda number, part: "m1" in part, rounds=10, room=0)
    assert all(lost and not out for lost, out in played)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), size=st.integers(5, 12))
def test_two_saboteurs_are_recognised_as_several_when_few_can_be_left_out(seed: int, size: int) -> None:
    order = names(size)
    chosen = random.Random(seed)
    two = set(chosen.sample(order, 2))
    rotation = Rotation(order=order)
    everyone = frozenset(order)
    told = []
    for _ in range(size + 3):
        part = everyone - rotation.left_out(everyone, room=1)
        assert two & part
        told.append(rotation.lost(part))
    # The first shows that there is one, each of the next clears one; then nothing more is to be learnt.
    assert told == [True] * (size + 1) + [False] * 2
    assert not rotation.undecided


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_two_saboteurs_are_both_left_out_when_enough_can_be(seed: int) -> None:
    order = names(12)
    two = set(random.Random(seed).sample(order, 2))
    played = play(Rotation(order=order), lambda number, part: bool(two & part), rounds=100, room=6)
    assert sum(lost for lost, _ in played[:50]) <= 35
    assert sum(lost for lost, _ in played[50:]) <= 5
    assert two <= played[-1][1] or played[-1][0]


def test_a_merchant_absent_from_a_lost_round_is_cleared() -> None:
    rotation = Rotation(order=names(4))
    rotation.lost({"m1", "m2", "m3"})
    assert rotation.undecided == {"m1", "m2", "m3"}
    assert "m0" not in rotation.left_out(names(4), room=1)
