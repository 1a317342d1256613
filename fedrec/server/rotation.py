"""Whom rounds do without, in turns, after sums that didn't open for a reason that names nobody.

A round that is lost at its opening shows that one of its suspects (contributors, and members whose answers it
was opened with) is at fault, not which: a dealer whose shares fit together and belong to another key looks as
honest as the others. So the rounds that follow leave merchants out, as many as the minimum of contributors
allows, and note what happens without them. A round lost without a merchant speaks for it; a round opened
without it speaks against it. Those with the least lost without them are left out next. Where one merchant is
at fault, whatever its strategy, every lost round clears others and never that one, so that fewer rounds than
there are merchants are lost until it is left out. Where no single one explains them all, groups are left out,
as large as they may be.

Nobody is guilty: a saboteur that spoils sums beside one other merchant makes both look alike, and both are
left out in turns. Nobody is cleared for good, and nobody is left out for good: after some rounds a merchant
is asked again, once another lost round would keep the share of lost rounds below one in twenty.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

FIRST_TERM, LONGEST_TERM = 20, 80
"""Opened rounds after which a merchant that is left out is asked again: at first, and at most."""
_GROUP_TERM = 3
"""Opened rounds after which half of a group comes back."""
_TRIAL = 5
"""Opened rounds after which a return has succeeded."""
_ROUNDS_PER_LOSS = 20
"""A return may bring the share of lost rounds to one in so many."""


@dataclass
class Rotation:
    """What is known after a training's rounds so far; ``order`` holds all merchants, the first to try first.

    ``cleared`` counts the rounds lost without a merchant, ``relieved`` those opened without it since the
    first loss, ``failed`` its returns that a lost round followed. ``aside`` are left out now, and ``run``
    counts the rounds that have been opened since; ``returned`` names who came back on trial. With
    ``choosing`` somebody else is due, and in a ``recess`` everybody is asked: too few were there.
    """

    order: tuple[str, ...]
    cleared: dict[str, int] = field(default_factory=dict)
    relieved: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    aside: tuple[str, ...] = ()
    returned: str | None = None
    run: int = 0
    rounds: int = 0
    losses: int = 0
    choosing: bool = False
    recess: bool = False

    @classmethod
    def from_state(cls, state: Mapping[str, Any] | None, *, order: Iterable[str]) -> Rotation:
        """Return what :meth:`state` wrote; nobody is suspected where there is none."""
        rotation = cls(order=tuple(order))
        if state is None:
            return rotation
        return replace(
            rotation,
            cleared=dict(state["cleared"]),
            relieved=dict(state["relieved"]),
            failed=dict(state["failed"]),
            aside=tuple(state["aside"]),
            returned=state["returned"],
            run=int(state["run"]),
            rounds=int(state["rounds"]),
            losses=int(state["losses"]),
            choosing=bool(state["choosing"]),
            recess=bool(state["recess"]),
        )

    def state(self) -> dict[str, Any]:
        """Return all of it, but for the order, as JSON values."""
        state = asdict(self)
        del state["order"]
        return state

    @property
    def undecided(self) -> frozenset[str]:
        """Who was a suspect of every round lost so far; empty once no single merchant explains them all."""
        return frozenset(name for name in self.order if not self.cleared.get(name))

    def left_out(self, there: Collection[str], *, room: int) -> frozenset[str]:
        """Return whom the next round does without: ``room`` at most of those that are ``there``."""
        if self.recess or room <= 0:
            return frozenset()
        if self.choosing:
            self.aside, self.choosing = tuple(self._due(there)[:room]), False
        return frozenset([name for name in self.aside if name in there][:room])

    def opened(self, contributors: Collection[str]) -> None:
        """Note a round that was opened, with these contributors; may ask somebody back."""
        self.rounds += 1
        self.recess = False
        if not self.losses:
            return
        for name in self.order:
            if name not in contributors:
                self.relieved[name] = self.relieved.get(name, 0) + 1
        if not self.aside and self.returned is None:
            return
        self.run += 1
        undecided = self.undecided
        if self.returned is not None:
            if self.run >= _TRIAL:
                self._set_aside(() if undecided else self.aside)
            return
        if undecided and len(self.aside) > 1:
            if self.run >= _GROUP_TERM:
                self._set_aside(self.aside[: len(self.aside) // 2])
            return
        back = min(self.aside, key=lambda name: self.failed.get(name, 0))
        if not self._may_return(back):
            return
        if undecided:
            # In its place another one that may be at fault: a saboteur may have framed who comes back.
            others = [name for name in self._ranked(undecided) if name != back][:1]
        else:
            others = [name for name in self.aside if name != back]
        self._set_aside(tuple(others), returned=back)

    def lost(self, suspects: Collection[str]) -> bool:
        """Note a round that was lost at its opening; returns whether that told more than rounds before."""
        self.rounds += 1
        self.losses += 1
        self.recess = False
        before = len(self.undecided)
        for name in self.order:
            if name not in suspects:
                self.cleared[name] = self.cleared.get(name, 0) + 1
        if self.returned is not None:
            self.failed[self.returned] = self.failed.get(self.returned, 0) + 1
        self._set_aside(())
        self.choosing = True
        return self.losses == 1 or len(self.undecided) < before

    def lost_for_contributors(self) -> None:
        """Note a round that too few took part in: the next one asks everybody."""
        self.rounds += 1
        self.recess = True

    def lost_otherwise(self) -> None:
        """Note a round that was lost for a reason that says nothing here."""
        self.rounds += 1

    def _set_aside(self, names: tuple[str, ...], *, returned: str | None = None) -> None:
        self.aside, self.returned, self.run = names, returned, 0

    def _may_return(self, name: str) -> bool:
        term = min(LONGEST_TERM, FIRST_TERM << min(self.failed.get(name, 0), 10))
        return self.run >= term and (self.losses + 1) * _ROUNDS_PER_LOSS <= self.rounds

    def _share(self, name: str) -> float:
        """Share of the rounds without a merchant that were lost, an unknown round counted as opened."""
        cleared = self.cleared.get(name, 0)
        return cleared / (cleared + self.relieved.get(name, 0) + 1)

    def _due(self, there: Collection[str]) -> list[str]:
        """Return who may be left out next, the first first: none whom more speaks for than for another."""
        undecided = self.undecided.intersection(there)
        if undecided:
            known = [name for name in undecided if self.relieved.get(name)]
            return self._ranked(known or undecided)
        # Several are at fault: groups of whoever least speaks for, in another order each time.
        return sorted(there, key=lambda name: (self._share(name), self._shuffled(name)))

    def _shuffled(self, name: str) -> bytes:
        return hashlib.sha256(f"{self.losses}:{name}".encode()).digest()

    def _ranked(self, names: Collection[str]) -> list[str]:
        """Put who was left out for fewer rounds first."""
        return sorted(names, key=lambda name: (self.relieved.get(name, 0), self.order.index(name)))
