"""Define the field types of messages, their limits, and the strict base class of all schemas.

A value from another party is untrusted until it has been validated against its schema and its ranges.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from fedrec._internal.party_names import LONGEST, name_problem
from fedrec._internal.text import one_line

MAX_PEERS = 1000
MAX_ROUNDS = 1_000_000
MAX_COMMITTEE = 100
"""Bounds the largest body: the commitments of 1000 survivors to so many members take 17 MB."""
MAX_CLASSES = 10_000
MAX_CLASS_NAME = 200
MAX_LAYERS = 32
"""The most layers of a merchant's noise that can be removed from a sum."""

_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)

Hash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$", max_length=64)]
Signature = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{128}$", max_length=128)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$", max_length=64)]
"""An identifier of this package: a model, a scheme, an optimizer."""


def _party_name(text: str) -> str:
    problem = name_problem(text)
    if problem is not None:
        raise ValueError(f"the name {problem}")
    return text


PartyName = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST), AfterValidator(_party_name)]
"""The name of a merchant or a witness, in any script."""
MAX_REASON = 500
Reason = Annotated[
    str,
    StringConstraints(max_length=MAX_REASON),
    AfterValidator(lambda text: one_line(text, most=MAX_REASON)),
]
"""Another party's text on why it refuses; made safe for logs and terminals."""
RoundNumber = Annotated[int, Field(ge=1, le=MAX_ROUNDS)]
Fraction = Annotated[float, Field(gt=0, le=1)]


def sha256_hex(data: bytes) -> str:
    """Return the SHA-256 of ``data`` as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


class Strict(BaseModel):
    """A frozen schema that refuses unknown fields, wrong types, NaN and infinity.

    Attributes:
        is_common: whether all merchants get the same text, so that a process that hosts many reads it once.
    """

    is_common: ClassVar[bool] = False
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def canonical_bytes(self) -> bytes:
        """Return the canonical JSON encoding, which hashes and signatures cover."""
        return _CANONICAL.encode(self.model_dump(mode="json")).encode()
