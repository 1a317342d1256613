"""When a training that merchants refuse, or that too few came for, is tried again."""

from __future__ import annotations

from itertools import pairwise

import pytest

from fedrec.server.presence import AWAY_SECONDS, Presence
from fedrec.server.retries import FIRST_SECONDS, LONGEST_SECONDS, Retries


def test_a_training_that_everybody_refuses_is_asked_for_less_and_less() -> None:
    now, tried = [0.0], list[float]()
    retries, there = Retries(clock=lambda: now[0]), frozenset({"anna", "bert"})
    for now[0] in map(float, range(3600)):
        if retries.due("0001", names=there):
            tried.append(now[0])
            retries.failed("0001", names=there)
    # 5, 10, 20, 40 and then 60 s: an hour has 63 attempts, where one every 5 s would be 720.
    gaps = [after - before for before, after in pairwise(tried)]
    assert gaps[:5] == [FIRST_SECONDS, 10, 20, 40, LONGEST_SECONDS]
    assert set(gaps[4:]) == {LONGEST_SECONDS} and len(tried) < 70
    # Another training has its own times, and one that began is tried at once if it has to wait again.
    assert retries.due("0002", names=there)
    retries.succeeded("0001")
    assert retries.due("0001", names=there)


class Watched:
    """A server that looks every second, and counts a training's attempts."""

    def __init__(self) -> None:
        self.now, self.tried = 0.0, list[float]()
        self.presence = Presence(now=lambda: self.now, wall=lambda: 1000.0 + self.now)
        self._retries = Retries(clock=lambda: self.now)

    def look(self) -> None:
        self.presence.changes()
        there = self.presence.names()
        if self._retries.due("0001", names=there):
            self.tried.append(self.now)
            self._retries.failed("0001", names=there)
        self.now += 1

    def looks_until(self, second: float) -> None:
        while self.now < second:
            self.look()


def test_whoever_comes_is_asked_within_seconds() -> None:
    server = Watched()
    server.presence.seen("anna")
    server.looks_until(AWAY_SECONDS)
    assert server.tried == [0, 5, 15]  # and then at 35, had nobody come
    server.presence.seen("anna")
    server.presence.seen("bert")
    server.looks_until(AWAY_SECONDS + 20)
    assert server.tried[3:] == [AWAY_SECONDS, AWAY_SECONDS + 5, AWAY_SECONDS + 15]
    # Nobody is asked any sooner because somebody has left.
    server.presence.seen("bert", leaves=True)
    server.looks_until(AWAY_SECONDS + 34)
    assert len(server.tried) == 6


@pytest.mark.parametrize("pattern", ["here", "away", "both"])
def test_a_merchant_that_leaves_and_returns_all_the_time_brings_on_no_attempts(pattern: str) -> None:
    server = Watched()
    for _ in range(600):
        server.presence.seen("anna")
        if pattern == "here":  # it is there at every look, each time with another connection
            server.presence.seen("bert", leaves=True)
            server.presence.seen("bert")
        else:  # it takes turns, by the look, or by whether a training was tried
            last = bool(server.tried) and server.tried[-1] == server.now - 1
            leaves = last if pattern == "both" else bool(server.now % 2)
            server.presence.seen("bert", leaves=leaves)
        server.look()
    gaps = [after - before for before, after in pairwise(server.tried)]
    assert min(gaps) >= FIRST_SECONDS
    # Who is there whenever it is asked, whatever it does in between, is not new.
    assert pattern != "here" or gaps[:5] == [5, 10, 20, 40, LONGEST_SECONDS]
