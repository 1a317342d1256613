"""Names of dataset versions: an entry holds a commitment to one, which its merchant alone can open.

The commitment is SHA-256 over a fresh salt of 256 random bits and the name. Without the salt it is no more
than a random number: nobody can tell whether two charges were of the same photos, or try out a guess.
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
    """What opens a commitment: the salt, and the name of the dataset version (kept beside the chain)."""

    salt: bytes
    version: str

    @classmethod
    def fresh(cls, version: str) -> Opening:
        """Draw a salt from the operating system, never from a seed."""
        return cls(Randomness.from_os().bytes(_SALT_BYTES), version)

    @property
    def commitment(self) -> str:
        """The commitment, 64 hexadecimal digits."""
        return hashlib.sha256(_CONTEXT + self.salt + self.version.encode()).hexdigest()

    def opens(self, commitment: str) -> bool:
        """Tell whether this is what a commitment was made from."""
        return len(self.salt) == _SALT_BYTES and hmac.compare_digest(self.commitment, commitment)
