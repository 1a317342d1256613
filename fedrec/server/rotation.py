"""Choose the merchants that rounds leave out, in turns, after sums that didn't open for an unknown reason.

A round that is lost at its opening shows that one of its suspects (contributors, and members whose answers
were used) is at fault, but not which: a dealer whose shares are consistent but belong to another key looks as
honest as the others. So the next rounds leave merchants out, as many as the minimum of contributors allows,
and record what happens without them. A round lost without a merchant is evidence for its honesty; a round
opened without it is evidence against it. Those that the fewest lost rounds clear are left out next. If a
single merchant is at fault, whatever its strategy, every lost round clears others and never that one, so that
fewer rounds than there are merchants are lost until it is left out. If no single merchant explains all lost
rounds, groups are left out, as large as possible.

No verdict is final. A saboteur that spoils sums only together with one other merchant makes both look alike,
and both are left out in turns. After some rounds a merchant that was left out is asked again, once another
lost round would keep the share of lost rounds below one in twenty. All of this goes on in the next training.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, field, replace

from pydantic import NonNegativeInt

FIRST_TERM, LONGEST_TERM = 20, 80
"""Opened rounds after which a merchant that is left out is asked again: at first, and at most."""
_GROUP_TERM = 3
"""Opened rounds after which half of a group returns."""
_TRIAL = 5
"""Opened rounds after which a return has succeeded."""
_ROUNDS_PER_LOSS = 20
"""A merchant may return if another lost round would keep the share of lost rounds at one in so many."""


@dataclass
class Evidence:
    """The evidence from a training's rounds so far; it is what is stored.

    Attributes:
        cleared: the number of rounds lost without a merchant.
        relieved: the number of rounds opened without it since the first loss.
        failed: the number of its returns that a lost round followed.
        aside: the merchants that are left out now.
        returned: the merchant that came back on trial, if any.
        run: how many rounds were opened since ``aside`` or ``returned`` changed.
        rounds: the number of all rounds.
        losses: the number of rounds lost at their opening.
        choosing: whether the next round leaves out other merchants.
        recess: whether the next round asks all merchants, since too few contributed to the last.
        newcomers: merchants that weren't in the earlier training that some of the evidence is from.
    """

    cleared: dict[str, NonNegativeInt] = field(default_factory=dict)
    relieved: dict[str, NonNegativeInt] = field(default_factory=dict)
    failed: dict[str, NonNegativeInt] = field(default_factory=dict)
    aside: tuple[str, ...] = ()
    returned: str | None = None
    run: NonNegativeInt = 0
    rounds: NonNegativeInt = 0
    losses: NonNegativeInt = 0
    choosing: bool = False
    recess: bool = False
    newcomers: tuple[str, ...] = ()


@dataclass
class Rotation(Evidence):
    """The evidence, and whose turn it is.

    Attributes:
        order: names of all merchants, the first to be left out first.
    """

    order: tuple[str, ...] = field(kw_only=True)

    @classmethod
    def of(cls, evidence: Evidence, *, order: Iterable[str]) -> Rotation:
        """Restore what :meth:`evidence` returned.

        Args:
            evidence: the evidence.
            order: names of all merchants, the first to be left out first.

        Returns:
            The rotation as it was.
        """
        return cls(**asdict(evidence), order=tuple(order))

    @classmethod
    def continued(cls, evidence: Evidence, *, order: Iterable[str], before: Collection[str]) -> Rotation:
        """Continue in a new training with the evidence from an earlier one.

        Otherwise a saboteur that was found would cost each training as many rounds as the first.

        Args:
            evidence: what :meth:`evidence` returned of the earlier training.
            order: names of all merchants of the new training, the first to be left out first.
            before: names of all merchants of the earlier one.

        Returns:
            The rotation. Whoever wasn't in the earlier training is cleared by each of its lost rounds, until
            a round is lost that only such a one explains: see :meth:`lost`. Where all who may have caused
            them are gone, it is one without suspects.
        """
        rotation = cls.of(evidence, order=order)
        names, suspects = set(rotation.order), {name for name in before if not rotation.cleared.get(name)}
        if suspects and not suspects & names:
            return cls(order=rotation.order)
        newcomers = names.difference(before) if rotation.losses else ()
        return replace(
            rotation,
            cleared={name: lost for name, lost in rotation.cleared.items() if name in names}
            | dict.fromkeys(newcomers, rotation.losses),
            aside=tuple(name for name in rotation.aside if name in names),
            returned=rotation.returned if rotation.returned in names else None,
            newcomers=tuple(sorted(names.intersection(rotation.newcomers).union(newcomers))),
        )

    def evidence(self) -> Evidence:
        """Return everything but the order."""
        found = asdict(self)
        del found["order"]
        return Evidence(**found)

    @property
    def undecided(self) -> frozenset[str]:
        """The merchants that were suspects of every lost round.

        Empty once no single merchant explains all of them.
        """
        return frozenset(name for name in self.order if not self.cleared.get(name))

    def left_out(self, connected: Collection[str], *, room: int) -> frozenset[str]:
        """Choose the merchants that the next round leaves out.

        Args:
            connected: names of the merchants that are connected.
            room: how many of them may be left out at most.

        Returns:
            The names.
        """
        if self.recess or room <= 0:
            return frozenset()
        if self.choosing:
            self.aside, self.choosing = tuple(self._due(connected)[:room]), False
        return frozenset([name for name in self.aside if name in connected][:room])

    def opened(self, contributors: Collection[str]) -> None:
        """Record a round that was opened, with these contributors.

        A merchant that is left out may return then.
        """
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
            # Another suspect takes its place: a saboteur may have framed the one that returns.
            others = [name for name in self._ranked(undecided) if name != back][:1]
        else:
            others = [name for name in self.aside if name != back]
        self._set_aside(tuple(others), returned=back)

    def lost(self, suspects: Collection[str]) -> bool:
        """Record a round whose sum didn't open.

        Where no merchant explains this round and those of an earlier training together, and one took part
        that is new since, the earlier ones are forgotten. They clear whoever comes back under another name,
        which would be looked for last.

        Args:
            suspects: names of merchants, at least one of which is at fault.

        Returns:
            Whether it cleared a merchant, or was the first.
        """
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
        if not self.undecided and not set(self.newcomers).isdisjoint(suspects):
            self.cleared = {name: 1 for name in self.order if name not in suspects}
            self.relieved, self.failed, self.newcomers = {}, {}, ()
            self.rounds = self.losses = 1
        return self.losses == 1 or len(self.undecided) < before

    def lost_for_contributors(self) -> None:
        """Record a round that had too few contributors; the next one asks all merchants."""
        self.rounds += 1
        self.recess = True

    def lost_otherwise(self) -> None:
        """Record a round that was lost for a reason that tells nothing about these suspects."""
        self.rounds += 1

    def _set_aside(self, names: tuple[str, ...], *, returned: str | None = None) -> None:
        self.aside, self.returned, self.run = names, returned, 0

    def _may_return(self, name: str) -> bool:
        term = min(LONGEST_TERM, FIRST_TERM << min(self.failed.get(name, 0), 10))
        return self.run >= term and (self.losses + 1) * _ROUNDS_PER_LOSS <= self.rounds

    def _share(self, name: str) -> float:
        """Return the share of rounds without a merchant that were lost, with one more counted as opened."""
        cleared = self.cleared.get(name, 0)
        return cleared / (cleared + self.relieved.get(name, 0) + 1)

    def _due(self, connected: Collection[str]) -> list[str]:
        """Return who may be left out next, in order: those first that the least evidence clears."""
        undecided = self.undecided.intersection(connected)
        if undecided:
            known = [name for name in undecided if self.relieved.get(name)]
            return self._ranked(known or undecided)
        # Several are at fault: groups with the least evidence for them, in another order each time.
        return sorted(connected, key=lambda name: (self._share(name), self._shuffled(name)))

    def _shuffled(self, name: str) -> bytes:
        return hashlib.sha256(f"{self.losses}:{name}".encode()).digest()

    def _ranked(self, names: Collection[str]) -> list[str]:
        """Sort names by the number of rounds opened without them, fewest first."""
        return sorted(names, key=lambda name: (self.relieved.get(name, 0), self.order.index(name)))
