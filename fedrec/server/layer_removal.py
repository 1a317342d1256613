"""Take off an opened sum the noise layers that its number of contributors doesn't need.

The members' answers about the sum open their shares of those layers' seeds. A layer whose seed can't be
reconstructed stays in: the sum is then noisier than it need be, and never less.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import AggregationError, ProtocolError
from fedrec.privacy.aggregation.layer_seeds import (
    SeedCommitments,
    opened_bytes,
    read_opened,
    recover_seeds,
)
from fedrec.privacy.dp.calibration import NoisePlan
from fedrec.privacy.dp.layer_noise import remove_layer
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.statements import Commitment, dealing_statement
from fedrec.protocol.transport import take_blob

_Shares = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Opened:
    """An opened sum, and the noise that stays in it.

    Attributes:
        values: the sum, int64 (d,), in grid units.
        kept_stds: deviations of the noise that stays in of each contributor, in grid units, ascending.
    """

    values: NDArray[np.int64]
    kept_stds: tuple[float, ...]

    @property
    def noise_std(self) -> float:
        """The deviation of all noise that stays in the sum, in grid units."""
        return math.hypot(*self.kept_stds)

    def honest_std(self, *, colluders: int) -> float:
        """Return the deviation of the noise of all but the ``colluders`` whose noise stays in most.

        That much comes from honest contributors, whichever those are: a dealer that cheats keeps its own
        layers in.
        """
        return math.hypot(*self.kept_stds[: len(self.kept_stds) - colluders])


@dataclass
class LayerRemoval:
    """The layers that one survivor set's sum doesn't need, and what members opened of them.

    Args:
        plan: the training's plan.
        noise: its noise plan.
        survivors: the survivors' checked commitments, in the requests' order.

    Attributes:
        faulty: why the layers of a merchant couldn't be removed though enough members opened them, by name.
    """

    plan: TrainingPlan
    noise: NoisePlan
    survivors: Sequence[Commitment]
    faulty: dict[str, str] = field(default_factory=dict)
    _opened: dict[int, _Shares] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._layers = len(self.noise.layer_stds)
        self._kept = self.noise.kept_layers(len(self.survivors)) if self._layers else 0

    @property
    def removed(self) -> int:
        """How many layers of each survivor are to be removed."""
        return self._layers - self._kept

    @property
    def possible(self) -> bool:
        """Whether enough members have opened their shares."""
        return not self.removed or len(self._opened) >= self.plan.threshold

    def take(self, member: int, blobs: Mapping[str, bytes]) -> None:
        """Check what a member opened, and keep it.

        Args:
            member: the member's number, from 1.
            blobs: the blobs of its answer.

        Raises:
            ProtocolError: the blob is missing.
            AggregationError: a share is not the one that the member was dealt; nothing of it is used.
        """
        if not self.removed:
            if "layers" in blobs:
                raise ProtocolError("it opened noise layers that the sum needs")
            return
        length = opened_bytes(self.removed)
        blob = take_blob(blobs, "layers")
        if len(blob) != length * len(self.survivors):
            raise AggregationError("its shares of noise layers have a wrong length")
        self._opened[member] = {
            commitment.merchant: read_opened(
                blob[length * place : length * (place + 1)],
                _published(commitment),
                kept=self._kept,
                member=member,
                statement=_statement(commitment),
            )
            for place, commitment in enumerate(self.survivors)
        }

    def remove(self, values: NDArray[np.int64]) -> Opened:
        """Subtract the noise of the layers from an opened sum, in place.

        Args:
            values: the sum, int64 (d,), in grid units.

        Returns:
            The sum, and the noise that stays in it.
        """
        seeds = self._seeds()
        for place, std in enumerate(self.noise.layer_stds[self._kept :]):
            # One layer of all merchants after the other: a layer's table of probabilities is built once.
            for known in seeds.values():
                remove_layer(values, known[place], std=std)
        total, clean = len(self.survivors), len(seeds) if self.removed else len(self.survivors)
        kept = self.noise.kept_std(total)
        return Opened(values, (kept,) * clean + (self.noise.added_std,) * (total - clean))

    def _seeds(self) -> dict[str, list[int]]:
        """Return the seeds of the layers to be removed, by merchant, where they could be reconstructed."""
        found: dict[str, list[int]] = {}
        if not (self.removed and self.possible):
            return found
        quorum = sorted(self._opened)[: self.plan.threshold]
        for commitment in self.survivors:
            name = commitment.merchant
            try:
                found[name] = recover_seeds(
                    {member: self._opened[member][name] for member in quorum},
                    _published(commitment),
                    kept=self._kept,
                    statement=_statement(commitment),
                )
            except AggregationError as error:
                self.faulty[name] = str(error)
        return found


def _published(commitment: Commitment) -> SeedCommitments:
    return SeedCommitments(commitment.layer_seed_hashes, commitment.layer_part_hashes)


def _statement(commitment: Commitment) -> bytes:
    return dealing_statement(
        training_id=commitment.training_id,
        round_number=commitment.round_number,
        dealer=commitment.merchant,
    )
