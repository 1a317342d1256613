"""When a training that merchants refuse, or that too few came for, is tried again."""

from __future__ import annotations

from itertools import pairwise

from fedrec.server.presence import AWAY_SECONDS, Presence
from fedrec.server.retries import FIRST_SECONDS, LONGEST_SECONDS, Retries


def test_a_training_that_everybody_refuses_is_asked_for_less_and_less() -> None:
    now, tried = [0.0], list[float]()
    retries, there = Retries(clock=lambda: now[0]), frozenset({("anna", 1.0), ("bert", 2.0)})
    for now[0] in map(float, range(3600)):
        if retries.due("0001", connections=there):
            tried.append(now[0])
            retries.failed("0001", connections=there)
    # 5, 10, 20, 40 and then 60 s: an hour has 63 attempts, where one every 5 s would be 720.
    gaps = [after - before for before, after in pairwise(tried)]
    assert gaps[:5] == [FIRST_SECONDS, 10, 20, 40, LONGEST_SECONDS]
    assert set(gaps[4:]) == {LONGEST_SECONDS} and len(tried) < 70
    # Another training has its own times, and one that began is tried at once if it has to wait again.
    assert retries.due("0002", connections=there)
    retries.succeeded("0001")
    assert retries.due("0001", connections=there)


def test_whoever_comes_goes_or_comes_back_is_asked_at_once() -> None:
    now, clock = [0.0], [1000.0]
    retries = Retries(clock=lambda: now[0])
    presence = Presence(now=lambda: now[0], wall=lambda: clock[0] + now[0])

    def tried() -> bool:
        there = presence.connections()
        due = retries.due("0001", connections=there)
        if due:
            retries.failed("0001", connections=there)
        return due

    presence.seen("anna")
    assert tried() and not tried()
    presence.seen("anna")
    assert not tried()
    presence.seen("bert")
    assert tried() and not tried()
    # A daemon that was started again, between two looks.
    now[0] += 1
    presence.seen("bert", leaves=True)
    now[0] += 1
    presence.seen("bert")
    assert tried() and not tried()
    now[0] += 2
    for _ in range(3):
        now[0] += AWAY_SECONDS / 2
        presence.seen("anna")
        presence.changes()
    # Bert was silent for so long that he counts as gone.
    assert {name for name, _ in presence.connections()} == {"anna"}
    assert tried()
