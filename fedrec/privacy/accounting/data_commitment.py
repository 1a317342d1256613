"""Commit to the name of a dataset version, so that its merchant alone can open the commitment.

The commitment is SHA-256 over a fresh salt of 256 random bits and the name. To anybody without the salt it
looks like a random number, so nobody can tell whether two charges used the same photos, or test a guess.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

from fedrec.privacy.randomness import Randomness

_CONTEXT = b"fedrec/ledger/data/1"
_SALT_BYTES = 32


@dataclass(frozen=True)
class Opening:
    """The opening of a commitment, stored beside the chain.

    Attributes:
        salt: 32 random bytes.
        version: name of the dataset version.
    """

    salt: bytes
    version: str

    @classmethod
    def fresh(cls, version: str) -> Opening:
        """Create an opening with a fresh salt from the operating system, never from a seed."""
        return cls(Randomness.from_os().bytes(_SALT_BYTES), version)

    @property
    def commitment(self) -> str:
        """The commitment, 64 hexadecimal digits."""
        return hashlib.sha256(_CONTEXT + self.salt + self.version.encode()).hexdigest()

    def opens(self, commitment: str) -> bool:
        """Tell whether this opens a commitment."""
        return len(self.salt) == _SALT_BYTES and hmac.compare_digest(self.commitment, commitment)
