"""A network that takes much memory keeps none from another one's run."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from fedrec.errors import ConfigError
from fedrec.vision.backbones.onnx_files.shared_pool import TooLittleMemoryError, run_in_pool

pytest.importorskip("onnxruntime")


class Arena:
    """Memory of 10 units, which keeps the pieces of earlier runs until a run gives them back."""

    def __init__(self) -> None:
        self.used, self.largest_left, self.lock = 0, 10, threading.Lock()
        self.both = threading.Barrier(2)


class FakeSession:
    """Stands for a session that needs ``units`` in one piece, and leaves pieces of ``leaves``."""

    def __init__(self, arena: Arena, units: int, *, leaves: int = 10, meets: bool = False) -> None:
        self.arena, self.units, self.leaves, self.meets, self.runs = arena, units, leaves, meets, 0

    def run(self, outputs: list[str], inputs: dict[str, Any], options: object) -> list[Any]:
        arena = self.arena
        self.runs += 1
        with arena.lock:
            short = self.units > min(10 - arena.used, arena.largest_left)
            if not short:
                arena.used += self.units
        if self.meets and self.runs == 1:
            arena.both.wait(10)
        with arena.lock:
            arena.largest_left = 10 if options is not None else min(arena.largest_left, self.leaves)
            if short:
                raise RuntimeError("Available memory of 1 is smaller than requested bytes of 2")
            arena.used -= self.units
        return [np.array([self.units])]


def run(session: Any) -> int:
    return run_in_pool(session, ["y"], {}, keep=lambda found: int(found[0][0]))


def test_what_lacks_memory_beside_another_gets_it_alone() -> None:
    arena = Arena()
    sessions = [FakeSession(arena, 8, meets=True), FakeSession(arena, 7, meets=True)]
    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(run, sessions)) == [8, 7]
    assert sorted(each.runs for each in sessions) == [1, 2]


def test_pieces_that_another_has_left_are_given_back() -> None:
    arena = Arena()
    assert run(FakeSession(arena, 1, leaves=2)) == 1
    assert arena.largest_left == 2
    large = FakeSession(arena, 9)
    assert run(large) == 9 and large.runs == 3


def test_what_needs_more_than_all_is_refused_and_others_go_on() -> None:
    arena = Arena()
    with pytest.raises(TooLittleMemoryError):
        run(FakeSession(arena, 11))
    assert run(FakeSession(arena, 10)) == 10


def test_outputs_that_are_refused_and_faults_of_a_network_end_the_turn() -> None:
    def refuse(found: list[Any]) -> None:
        raise ValueError

    class Broken(FakeSession):
        def run(self, outputs: list[str], inputs: dict[str, Any], options: object) -> list[Any]:
            raise RuntimeError("no such axis")

    arena = Arena()
    session: Any = FakeSession(arena, 1)
    with pytest.raises(ValueError):
        run_in_pool(session, ["y"], {}, keep=refuse)
    with pytest.raises(ConfigError, match="no such axis"):
        run(Broken(arena, 1))
    with pytest.raises(TooLittleMemoryError):
        run(FakeSession(arena, 11))
