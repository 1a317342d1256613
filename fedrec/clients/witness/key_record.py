"""Keep a witness's exchanges of its identity key, which a merchant has in its ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import FailFast, Field

from fedrec._internal.files import write_atomically
from fedrec.errors import ConfigError
from fedrec.protocol.roster_statements import SignedRotation
from fedrec.protocol.schema import Strict
from fedrec.protocol.stored_record import read_record

_MOST = 10_000


class KeyRecord(Strict):
    """All exchanges of a witness's identity key, the oldest first."""

    rotations: Annotated[tuple[SignedRotation, ...], FailFast(), Field(max_length=_MOST)] = ()

    @classmethod
    def read(cls, path: Path) -> KeyRecord:
        """Read the file; an empty record if there is none, ``ConfigError`` if it can't be used."""
        return read_record(path, cls, error=ConfigError)

    def ends_with(self, public: bytes) -> bool:
        """Tell whether the last exchange led to a public key."""
        return bool(self.rotations) and self.rotations[-1].statement.new_key == public.hex()

    def with_exchange(self, signed: SignedRotation) -> KeyRecord:
        """Return the record with another exchange."""
        return self.model_copy(update={"rotations": (*self.rotations, signed)})

    def write(self, path: Path) -> None:
        """Replace the file, durably."""
        write_atomically(path, self.canonical_bytes())
