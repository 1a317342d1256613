"""Sign and check merchants' statements about keys: vouches for others, and exchanges of their own."""

from __future__ import annotations

from datetime import date

from fedrec.privacy.accounting import key_rotation
from fedrec.privacy.identity import SigningIdentity, verify
from fedrec.protocol.roster_statements import (
    MOST_VOUCH_DAYS,
    ROTATION_CONTEXT,
    VOUCH_CONTEXT,
    Rotation,
    SignedRotation,
    SignedVouch,
    Vouch,
)


def sign_vouch(vouch: Vouch, *, voucher: SigningIdentity) -> SignedVouch:
    """Sign a vouch.

    Args:
        vouch: the statement; it must name the voucher's key.
        voucher: the merchant that vouches.

    Returns:
        The signed vouch.
    """
    signature = voucher.sign(vouch.canonical_bytes(), context=VOUCH_CONTEXT)
    return SignedVouch(statement=vouch, signature=signature.hex())


def vouch_holds(signed: SignedVouch, *, federation: str, today: date) -> bool:
    """Return whether a vouch is signed by the key that it names, for this federation, and counts on this day.

    Whether that key is the voucher's, and what the voucher's word counts, is for the caller to decide.

    Args:
        signed: the vouch.
        federation: from :func:`fedrec.protocol.roster_statements.federation_id`.
        today: the day in UTC.

    Returns:
        Whether it holds.
    """
    vouch = signed.statement
    left = (date.fromisoformat(vouch.last_day) - today).days
    return (
        vouch.federation == federation
        # A day more, since the voucher's day may have begun while it is the day before here.
        and 0 <= left <= MOST_VOUCH_DAYS + 1
        and vouch.voucher_key != vouch.peer.signing_key
        and vouch.voucher != vouch.peer.name
        and verify(
            bytes.fromhex(vouch.voucher_key),
            vouch.canonical_bytes(),
            bytes.fromhex(signed.signature),
            context=VOUCH_CONTEXT,
        )
    )


def sign_rotation(merchant: str, *, old: SigningIdentity, new: SigningIdentity) -> SignedRotation:
    """Sign the exchange of a merchant's identity key with both keys.

    Args:
        merchant: the merchant's name.
        old: its key until now.
        new: its key from now on.

    Returns:
        The signed exchange.
    """
    statement = Rotation(merchant=merchant, old_key=old.public.hex(), new_key=new.public.hex())
    body = statement.canonical_bytes()
    return SignedRotation(
        statement=statement,
        old_signature=old.sign(body, context=ROTATION_CONTEXT).hex(),
        new_signature=new.sign(body, context=ROTATION_CONTEXT).hex(),
    )


def rotation_holds(signed: SignedRotation) -> bool:
    """Return whether an exchange of keys is signed by both keys, which differ."""
    return key_rotation.rotation_holds(signed, verify=verify)
