"""Vouch for a new merchant: sign its entry of the roster after a person compared its fingerprint."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from fedrec._internal.files import write_atomically
from fedrec.clients.merchant_home import MerchantHome
from fedrec.errors import ConfigError
from fedrec.privacy.endorsements import sign_vouch
from fedrec.privacy.identity import verify
from fedrec.protocol.enrolment import ENROLMENT_CONTEXT, Enrolment
from fedrec.protocol.roster_statements import SignedVouch, Vouch
from fedrec.protocol.schema import sha256_hex


def check_enrolment(home: MerchantHome, enrolment: Enrolment) -> None:
    """Check that a merchant may vouch for an enrolment.

    Args:
        home: the merchant's folder.
        enrolment: the new merchant's enrolment.

    Raises:
        ConfigError: the enrolment isn't signed with its key, is this merchant's own, has a key or a name of
            another merchant on the approved roster, or this merchant has joined no server.
    """
    stated, joined, own = enrolment.statement, home.joined(), home.identity().public.hex()
    signature = bytes.fromhex(enrolment.signature)
    if not verify(
        bytes.fromhex(stated.signing_key), stated.canonical_bytes(), signature, context=ENROLMENT_CONTEXT
    ):
        raise ConfigError(
            f"the enrolment of '{stated.name}' is not signed with the key that it names: don't vouch for it"
        )
    if stated.role != "merchant":
        raise ConfigError(f"'{stated.name}' is a {stated.role}: merchants vouch for merchants alone")
    if stated.name == home.settings().name or stated.signing_key == own:
        raise ConfigError("this is this merchant's own name or key: nobody vouches for itself")
    for peer in joined.roster:
        if (peer.name == stated.name) != (peer.signing_key == stated.signing_key):
            raise ConfigError(
                f"the roster that you approved has '{peer.name}' with the key {peer.signing_key[:16]}...: "
                "this file has that name with another key, or that key under another name"
            )


def vouch_for(home: MerchantHome, enrolment: Enrolment, *, days: int) -> tuple[Path, SignedVouch]:
    """Sign a vouch, and write it to a file for the operator.

    Args:
        home: the merchant's folder.
        enrolment: the new merchant's enrolment; a person compared its fingerprint.
        days: days after which the vouch no longer counts.

    Returns:
        The file, and the vouch.

    Raises:
        ConfigError: as :func:`check_enrolment`.
    """
    check_enrolment(home, enrolment)
    stated, identity = enrolment.statement, home.identity()
    statement = Vouch(
        federation=home.joined().federation,
        peer=stated.peer,
        node_key_hash=sha256_hex(stated.node_key.encode()),
        voucher=home.settings().name,
        voucher_key=identity.public.hex(),
        last_day=(datetime.now(UTC).date() + timedelta(days=days)).isoformat(),
    )
    signed = sign_vouch(statement, voucher=identity)
    # A merchant's name may have any script and isn't always a file's name.
    path = home.folder / f"vouch-{stated.signing_key[:16]}.json"
    write_atomically(path, signed.canonical_bytes())
    return path, signed
