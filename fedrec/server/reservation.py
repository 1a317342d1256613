"""Define what the server stores before a round begins: its number, and what is known of the merchants."""

from __future__ import annotations

from typing import Final

from pydantic import Field, NonNegativeInt

from fedrec.protocol.schema import Hash, Strict
from fedrec.server.complaints import ComplaintsRecord
from fedrec.server.lost_rounds import Losses
from fedrec.server.rotation import Evidence
from fedrec.server.stragglers import Lateness

RESERVATION: Final = "reserved.json"


class ConductRecord(Strict):
    """What rounds have shown of a training's merchants; without values, nothing.

    Attributes:
        complaints: about dealt shares.
        rotation: the evidence from sums that didn't open.
        lateness: who replied late.
        losses: the running count of lost rounds.
        untold: that of sums that didn't open and cleared nobody.
        answered_wrongly: names of the members whose answers were wrong.
        noisy: names of the merchants that dealt noise layers that can't be removed.
    """

    complaints: ComplaintsRecord = ComplaintsRecord()
    rotation: Evidence = Field(default_factory=Evidence)
    lateness: Lateness = Field(default_factory=Lateness)
    losses: Losses = Field(default_factory=Losses)
    untold: Losses = Field(default_factory=Losses)
    answered_wrongly: tuple[str, ...] = ()
    noisy: tuple[str, ...] = ()


class Reservation(Strict):
    """The last round that was begun, which is never run again.

    Attributes:
        training_id: the training.
        round: the round's number, 0 before the first.
        conduct: what earlier rounds have shown of the merchants; None where nothing was recorded.
        survivors: the hash of the survivor set that a campaign has fixed; None before, and in rounds.
    """

    training_id: str
    round: NonNegativeInt
    conduct: ConductRecord | None = None
    survivors: Hash | None = None
