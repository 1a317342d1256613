"""Whom a merchant trusts under an aggregation scheme: who opens sums, and who can read a single update.

A plan carries this statement, so that whoever reads the plan needs no list of schemes. A merchant holds it
against the specification of the scheme that it has installed itself.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import ValidationError, model_validator

from fedrec.protocol.schema import Strict

OpenedBy = Literal["nobody", "committee", "holder"]
"""Who has to answer before a sum opens: nobody, a threshold of a committee, or the one that holds the key."""
Reader = Literal["nobody_below_threshold", "key_holder", "server"]
"""Who can read a single update: nobody unless a threshold of the committee breaks the rules, the holder of
the key and whoever colludes with it, or the server by itself."""


class TrustModel(Strict):
    """What a scheme says of single updates, and so which epsilon holds.

    ``epsilon_of`` is the noise that the reported epsilon counts: that of the "sum" of all honest merchants,
    or that of one merchant's own "share". The sum's counts only where nobody can read a single update, and a
    committee refuses to open the sum of too few.
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
        """Whether the server by itself can't read a single update."""
        return self.reads_single_updates != "server"

    @classmethod
    def read(cls, value: Any) -> TrustModel | None:
        """Read what a report states; None for anything else, which whoever shows it is alarmed by."""
        try:
            return cls.model_validate(value)
        except ValidationError:
            return None
