"""Define what travels with a roster: vouches for new merchants, and exchanges of identity keys."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, FailFast, Field, StringConstraints, model_validator

from fedrec.protocol.plan import Peer, Witnesses
from fedrec.protocol.schema import MAX_PEERS, Hash, PartyName, Signature, Strict, sha256_hex

VOUCH_CONTEXT = b"fedrec/vouch/1"
ROTATION_CONTEXT = b"fedrec/key-rotation/1"
MOST_VOUCH_DAYS = 90
"""A vouch counts for its last so many days at most, whatever its signer wrote."""
MAX_VOUCHES = MAX_PEERS
MAX_ROTATIONS = MAX_PEERS // 4
"""Most statements beside a roster; of more exchanges of keys, the newest go with it."""
MAX_OWN_ROTATIONS = 32
"""Most exchanges of keys in one merchant's enrolment file: the last ones."""


def _is_day(text: str) -> str:
    date.fromisoformat(text)
    return text


Day = Annotated[
    str,
    StringConstraints(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$", max_length=10),
    AfterValidator(_is_day),
]
"""A day in UTC, as in 2026-11-29."""


class Vouch(Strict):
    """A merchant states that it met a new merchant by another channel than the server.

    ``federation`` is the result of :func:`federation_id`, so that a vouch counts with one operator only.
    ``peer`` is the new merchant's entry of the roster. ``node_key_hash`` is the SHA-256 of its node key, that
    no roster has: the operator compares it. The vouch counts up to and including ``last_day``, and while
    ``voucher_key`` is the voucher's key.
    """

    version: Literal[1] = 1
    federation: Hash
    peer: Peer
    node_key_hash: Hash
    voucher: PartyName
    voucher_key: Hash
    last_day: Day


class SignedVouch(Strict):
    """A :class:`Vouch` and the Ed25519 signature over its canonical bytes by ``voucher_key``."""

    statement: Vouch
    signature: Signature


class Rotation(Strict):
    """A merchant exchanges its identity key; both keys sign this, so that nobody claims another's key."""

    version: Literal[1] = 1
    merchant: PartyName
    old_key: Hash
    new_key: Hash


class SignedRotation(Strict):
    """A :class:`Rotation` and the Ed25519 signatures over its canonical bytes by both keys."""

    statement: Rotation
    old_signature: Signature
    new_signature: Signature


class RosterUpdate(Strict):
    """The roster of all merchants, with the statements by which a merchant can accept what is new in it.

    ``witnesses`` sit on the committee beside the merchants. No statement makes a witness acceptable: people
    approve them by hand.
    """

    roster: Annotated[tuple[Peer, ...], FailFast(), Field(min_length=1, max_length=MAX_PEERS)]
    witnesses: Witnesses = ()
    vouches: Annotated[tuple[SignedVouch, ...], FailFast(), Field(max_length=MAX_VOUCHES)] = ()
    rotations: Annotated[tuple[SignedRotation, ...], FailFast(), Field(max_length=MAX_ROTATIONS)] = ()

    @model_validator(mode="after")
    def _nobody_twice(self) -> Self:
        parties = self.roster + self.witnesses
        names, keys = {peer.name for peer in parties}, {peer.signing_key for peer in parties}
        if len(names) != len(parties) or len(keys) != len(parties):
            raise ValueError("the roster names a party or a key twice")
        return self


def federation_id(*, authority: str, server_key: str) -> str:
    """Return what identifies a federation: a hash of its authority's certificate and its server's key.

    Args:
        authority: the certificate, PEM.
        server_key: the Ed25519 key, 64 hexadecimal digits.

    Returns:
        64 hexadecimal digits.
    """
    return sha256_hex(b"fedrec/federation/1\n" + server_key.encode() + b"\n" + authority.encode())


def key_chain(
    rotations: Sequence[SignedRotation], *, merchant: str, start: str, end: str
) -> tuple[SignedRotation, ...] | None:
    """Find the exchanges that lead from one key of a merchant to a later one; check no signature.

    Args:
        rotations: exchanges whose signatures were verified, in any order.
        merchant: the merchant's name.
        start: the earlier key.
        end: the later key.

    Returns:
        The exchanges in their order. None if there is no way, if a key on it has two successors, or if it
        comes back to a key.
    """
    found: list[SignedRotation] = []
    seen, key = {start}, start
    while key != end:
        following = {
            signed.statement.new_key: signed
            for signed in rotations
            if signed.statement.merchant == merchant and signed.statement.old_key == key
        }
        if len(following) != 1:
            return None
        ((key, signed),) = following.items()
        if key in seen:
            return None
        seen.add(key)
        found.append(signed)
    return tuple(found)
