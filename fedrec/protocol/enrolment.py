"""Define the files that a party and the operator exchange: enrolment, join and vouch files."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal, Self, TypeVar

from pydantic import FailFast, Field, StringConstraints, model_validator

from fedrec._internal.files import read_regular
from fedrec._internal.look_alikes import look_alikes, shown
from fedrec.errors import ConfigError, ProtocolError
from fedrec.protocol.plan import Peer, Unit
from fedrec.protocol.reading import read_json
from fedrec.protocol.roster_statements import (
    MAX_OWN_ROTATIONS,
    RosterUpdate,
    SignedRotation,
    SignedVouch,
    federation_id,
)
from fedrec.protocol.schema import Hash, PartyName, Signature, Strict, sha256_hex
from fedrec.protocol.shape import shape_of

ENROLMENT_CONTEXT = b"fedrec/enrolment/1"

Pem = Annotated[str, StringConstraints(max_length=10_000, pattern=r"^-----BEGIN [A-Z ]+-----\n")]
Address = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9_.\-\[\]:]{1,255}:[0-9]{1,5}$", max_length=261)
]


Role = Literal["merchant", "witness"]
"""What a party does: a merchant trains on its photos; a witness, without any, helps to open sums."""


class Statement(Strict):
    """A party's application: its role, its two public keys and a merchant's size; no secrets.

    ``size`` is a differentially private count of a merchant's distinct units, released once and charged to
    its ledger. ``unit`` is what it counts, the same unit as the ledger's. A witness has neither.
    """

    version: Literal[1] = 1
    name: PartyName
    signing_key: Hash
    node_key: Pem
    role: Role = "merchant"
    unit: Unit | None = None
    size: Annotated[int, Field(ge=1, le=10**9)] | None = None

    @model_validator(mode="after")
    def _only_merchants_have_a_size(self) -> Self:
        counted = (self.unit is not None, self.size is not None)
        if counted != ((self.role == "merchant"),) * 2:
            raise ValueError("a merchant states its unit and its size, a witness neither")
        return self

    @property
    def peer(self) -> Peer:
        """The party's name and signing key, as in plans."""
        return Peer(name=self.name, signing_key=self.signing_key)


class Enrolment(Strict):
    """A :class:`Statement` and its signature by the key that it names: proof of possession of that key.

    ``rotations`` are the merchant's last exchanges of its identity key, the newest of which gave it this key.
    """

    statement: Statement
    signature: Signature
    rotations: Annotated[tuple[SignedRotation, ...], FailFast(), Field(max_length=MAX_OWN_ROTATIONS)] = ()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the statement, 64 hexadecimal digits, which people compare before they vouch for it."""
        return sha256_hex(b"fedrec/enrolment-file/1\n" + self.statement.canonical_bytes())


class JoinFile(RosterUpdate):
    """The server's address, the authority and the key to trust, the roster of all merchants, and witnesses.

    People compare :attr:`fingerprint` out of band. The fingerprint of a plan's roster is another value,
    :func:`fedrec.protocol.roster_fingerprints.roster_fingerprint`.
    """

    is_common: ClassVar[bool] = True
    version: Literal[1] = 1
    address: Address
    authority: Pem
    server_key: Hash

    @model_validator(mode="after")
    def _no_look_alikes(self) -> Self:
        if alike := look_alikes(peer.name for peer in self.roster + self.witnesses):
            raise ValueError(f"names {', '.join(map(shown, alike[0]))} look alike")
        return self

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the whole file, 64 hexadecimal digits; it changes with any change to the file.

        It covers the address too, because the operator's authority may issue certificates to other machines.
        """
        return sha256_hex(b"fedrec/join/1\n" + self.canonical_bytes())

    @property
    def federation(self) -> str:
        """What identifies the federation in vouches, 64 hexadecimal digits."""
        return federation_id(authority=self.authority, server_key=self.server_key)

    @property
    def update(self) -> RosterUpdate:
        """The roster and its statements alone."""
        return RosterUpdate(
            roster=self.roster,
            witnesses=self.witnesses,
            vouches=self.vouches,
            rotations=self.rotations,
        )


def grouped(digest: str) -> str:
    """Split a fingerprint into groups of four digits, for reading aloud."""
    return " ".join(digest[start : start + 4] for start in range(0, len(digest), 4))


Kind = TypeVar("Kind", bound=Strict)


def read_file(path: Path, kind: type[Kind]) -> Kind:
    """Read an enrolment, join or vouch file.

    Args:
        path: the file.
        kind: :class:`Enrolment`, :class:`JoinFile` or :class:`SignedVouch`.

    Returns:
        The content of the file.

    Raises:
        ConfigError: the file can't be read or has another format; one line.
    """
    try:
        return read_json(read_regular(path, most=shape_of(kind).bytes + 1), kind)
    except IsADirectoryError:
        raise ConfigError(f"{path} is a folder: name the file in it, {_FILES[kind]}") from None
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}") from None
    except ProtocolError as error:
        what, other = _NAMES[kind], _other_kind(path, kind)
        if other is not None:
            raise ConfigError(f"{path} is {other}; this wants {what}, {_FILES[kind]}") from None
        raise ConfigError(f"{path} is not {what} of this version: {error}") from None


def _other_kind(path: Path, kind: type[Strict]) -> str | None:
    """Return what a file is that was taken for one of ``kind``; None if it is none of the others."""
    for other in _NAMES:
        if other is not kind:
            with suppress(ConfigError, OSError, ProtocolError):
                read_json(read_regular(path, most=shape_of(other).bytes + 1), other)
                return _NAMES[other]
    return None


_NAMES: Final[Mapping[type[Strict], str]] = {
    Enrolment: "an enrolment file",
    JoinFile: "a join file",
    SignedVouch: "a vouch file",
}
_FILES: Final[Mapping[type[Strict], str]] = {
    Enrolment: "enrolment.json, which 'fedrec client init' makes for the operator",
    JoinFile: "join.json, which the operator sends once a merchant is enrolled",
    SignedVouch: "such as vouch-1234.json, which 'fedrec client vouch' makes",
}
"""Where each comes from."""
