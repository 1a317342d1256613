"""Define the trust model of an aggregation scheme: who opens sums, and who can read a single update.

A plan contains this statement, so that a reader of the plan needs no list of schemes. A merchant compares it
with the specification of the scheme in its own installation.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from fedrec.protocol.schema import Strict

OpenedBy = Literal["nobody", "committee", "holder"]
"""Who must answer to open a sum: nobody, a threshold of a committee, or the holder of the key."""
Reader = Literal["nobody_below_threshold", "key_holder", "server"]
"""Who can read a single update: nobody unless a threshold of the committee is corrupt; the holder of the key
and any party that colludes with it; or the server alone."""


class TrustModel(Strict):
    """What a scheme states about single updates, which determines the epsilon that holds.

    ``epsilon_of`` is the noise that the reported epsilon accounts for: that of the "sum" of all honest
    merchants, or that of one merchant's own "share". The noise of the sum counts only if nobody can read a
    single update and a committee refuses to open the sum of too few merchants.
    """

    opened_by: OpenedBy
    reads_single_updates: Reader
    epsilon_of: Literal["sum", "share"]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        closed = self.reads_single_updates == "nobody_below_threshold"
        if closed and self.opened_by != "committee":
            raise ValueError("single updates are closed to all only where a committee opens sums")
        if self.reads_single_updates == "key_holder" and self.opened_by != "holder":
            raise ValueError("only a scheme whose sums are opened by the holder of a key has such a holder")
        if self.epsilon_of == "sum" and not closed:
            raise ValueError(
                "the noise of the whole sum can't be counted where a single update can be read: epsilon is "
                "that of one share"
            )
        return self

    @property
    def encrypted(self) -> bool:
        """Whether updates are hidden from the server acting alone."""
        return self.reads_single_updates != "server"
