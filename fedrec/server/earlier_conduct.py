"""Find what the trainings before have shown of the merchants, for the next one to go on from."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from fedrec.errors import FedrecError
from fedrec.server.checkpoint import Checkpoint
from fedrec.server.rotation import Evidence
from fedrec.server.trainings import Training, all_trainings

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EarlierConduct:
    """The record of merchants' conduct in an earlier training of the same server.

    Attributes:
        merchants: names of that training's merchants.
        rotation: the evidence from its sums that didn't open.
    """

    merchants: tuple[str, ...]
    rotation: Evidence


def earlier_conduct(trainings: Path, *, before: Training) -> EarlierConduct | None:
    """Read the record of the last training before this one that kept one.

    Args:
        trainings: the folder of all trainings.
        before: this training.

    Returns:
        The record; None if there is none. A campaign with an upload window keeps none, since it has no rounds
        to search in. One that can't be read is passed over: it saves rounds, and nothing rests on it.
    """
    if before.folder.parent != trainings:  # a simulation's: its folder holds one training
        return None
    for training in reversed(list(all_trainings(trainings))):
        if int(training.number) < int(before.number) and (training.folder / "server").is_dir():
            try:
                plan = training.plan()
                conduct = Checkpoint(training.folder / "server", training_id=plan.training_id).conduct()
            except (FedrecError, OSError) as error:
                _log.warning("what training %s showed of merchants can't be read: %s", training.number, error)
                continue
            if conduct is not None:
                return EarlierConduct(tuple(peer.name for peer in plan.roster), conduct.rotation)
    return None
