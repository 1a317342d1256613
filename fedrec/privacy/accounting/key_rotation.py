"""Define the ledger entry's content by which a merchant exchanges its identity key.

The chain of a ledger starts from the merchant's first key. An exchange of keys is an entry of the chain like
any other, signed by the key before it. The entries after it are signed by the new key, so that one chain, and
one budget, goes through all keys of a merchant.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from fedrec.protocol.roster_statements import ROTATION_CONTEXT, Rotation, SignedRotation


class Signer(Protocol):
    """Interface of an object that signs entries, such as ``fedrec.privacy.identity.SigningIdentity``."""

    @property
    def public(self) -> bytes:
        """The public key, 32 bytes."""
        ...

    def sign(self, message: bytes, *, context: bytes) -> bytes:
        """Sign a message.

        Args:
            message: the bytes to sign.
            context: domain separation: what the signature is for.

        Returns:
            The signature.
        """
        ...


class Verifier(Protocol):
    """Interface of a function that checks a signature, such as ``fedrec.privacy.identity.verify``."""

    def __call__(self, public: bytes, message: bytes, signature: bytes, *, context: bytes) -> bool:
        """Check a signature.

        Args:
            public: the public key, 32 bytes.
            message: the signed bytes.
            signature: the signature.
            context: domain separation: what the signature is for.

        Returns:
            Whether the key signed the message for the context.
        """
        ...


@dataclass(frozen=True)
class KeyRotation:
    """An exchange of a merchant's identity key, signed by both keys.

    Attributes:
        merchant: the merchant's name.
        old_key: its key until this entry, 64 hexadecimal digits.
        new_key: its key after this entry.
        old_signature: the old key's signature of a :class:`fedrec.protocol.roster_statements.Rotation`.
        new_signature: the new key's signature of the same.
    """

    merchant: str
    old_key: str
    new_key: str
    old_signature: str
    new_signature: str

    @classmethod
    def of(cls, signed: SignedRotation) -> KeyRotation:
        """Build the content of an entry from a signed statement."""
        return cls(
            **signed.statement.model_dump(exclude={"version"}),
            old_signature=signed.old_signature,
            new_signature=signed.new_signature,
        )

    @property
    def signed(self) -> SignedRotation:
        """The signed statement; ``ValueError`` if a field isn't in its range."""
        values = asdict(self)
        old, new = values.pop("old_signature"), values.pop("new_signature")
        return SignedRotation(statement=Rotation(**values), old_signature=old, new_signature=new)

    @property
    def key(self) -> str:
        """Unique key of the exchange in a ledger: no key comes twice."""
        return f"rotation/{self.new_key}"


def rotation_holds(signed: SignedRotation, *, verify: Verifier) -> bool:
    """Return whether an exchange of keys is signed by both keys, which differ.

    Args:
        signed: the signed statement.
        verify: function that checks a signature.

    Returns:
        Whether it holds.
    """
    statement = signed.statement
    body = statement.canonical_bytes()
    return statement.old_key != statement.new_key and all(
        verify(bytes.fromhex(key), body, bytes.fromhex(signature), context=ROTATION_CONTEXT)
        for key, signature in (
            (statement.old_key, signed.old_signature),
            (statement.new_key, signed.new_signature),
        )
    )


def first_key(rows: Iterable[tuple[Any, ...]], *, public: bytes) -> bytes:
    """Return the key that a chain starts from, as its first exchange of keys states it; unchecked.

    Args:
        rows: the ledger's database rows: sequence, key, payload, hash and signature.
        public: the merchant's public key now, 32 bytes, which is the first one without an exchange.

    Returns:
        The public key.
    """
    for row in rows:
        if str(row[1]).startswith("rotation/"):
            try:
                return bytes.fromhex(json.loads(row[2])["rotation"]["old_key"])
            except (ValueError, TypeError, KeyError, RecursionError):
                return public
    return public


def rotation_fault(rotation: KeyRotation, *, key: bytes, seen: Collection[bytes], verify: Verifier) -> str:
    """Return why an exchange of keys can't be the next one of a chain.

    Args:
        rotation: the exchange.
        key: the merchant's key before it, 32 bytes.
        seen: all keys of the merchant until then.
        verify: function that checks a signature.

    Returns:
        The reason; an empty text if it can.
    """
    if rotation.old_key != key.hex():
        return "it exchanges another key than the one before it"
    if bytes.fromhex(rotation.new_key) in seen:
        return "it goes back to an earlier key"
    return "" if rotation_holds(rotation.signed, verify=verify) else "it is not signed by both keys"
