"""What goes between a merchant and an operator by hand: an enrolment file one way, a join file the other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import FailFast, Field, StringConstraints

from fedrec.errors import ConfigError, ProtocolError
from fedrec.protocol.plan import Peer, Unit
from fedrec.protocol.reading import read_json
from fedrec.protocol.schema import Hash, Name, Signature, Strict, sha256_hex
from fedrec.protocol.shape import shape_of

ENROLMENT_CONTEXT = b"fedrec/enrolment/1"

Pem = Annotated[str, StringConstraints(max_length=10_000, pattern=r"^-----BEGIN [A-Z ]+-----\n")]
Address = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9_.\-\[\]:]{1,255}:[0-9]{1,5}$", max_length=261)
]


class Statement(Strict):
    """Who asks to be enrolled: two public keys, and how many units it holds, noised; no secret.

    ``size`` is the one release of a count of distinct units that the merchant's ledger was charged for, and
    ``unit`` what it counts: the one unit that the ledger is of.
    """

    version: Literal[1] = 1
    name: Name
    signing_key: Hash
    node_key: Pem
    unit: Unit
    size: Annotated[int, Field(ge=1, le=10**9)]


class Enrolment(Strict):
    """A :class:`Statement`, signed with the key that it names: whoever made it holds that key."""

    statement: Statement
    signature: Signature


class JoinFile(Strict):
    """Where a merchant finds the server, whose certificate and receipts to trust, and who else takes part.

    People compare :attr:`fingerprint`; a plan's roster alone has one of its own,
    :func:`fedrec.protocol.plan.roster_fingerprint`.
    """

    version: Literal[1] = 1
    address: Address
    authority: Pem
    server_key: Hash
    roster: Annotated[tuple[Peer, ...], FailFast(), Field(min_length=1, max_length=1000)]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the whole file, 64 hexadecimal digits: whatever is swapped in it changes this.

        The address is covered, too: an authority of the operator's own gives other machines certificates.
        """
        return sha256_hex(b"fedrec/join/1\n" + self.canonical_bytes())


def grouped(digest: str) -> str:
    """Return a fingerprint in groups of four digits, to be read out."""
    return " ".join(digest[start : start + 4] for start in range(0, len(digest), 4))


Kind = TypeVar("Kind", bound=Strict)


def read_file(path: Path, kind: type[Kind]) -> Kind:
    """Read an enrolment or join file; ``ConfigError`` in one line when it isn't one."""
    try:
        with path.open("rb") as file:
            raw = file.read(shape_of(kind).bytes + 1)
        return read_json(raw, kind)
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}") from None
    except ProtocolError as error:
        what = {"Enrolment": "enrolment file", "JoinFile": "join file"}[kind.__name__]
        raise ConfigError(f"{path} is no {what} of this version: {error}") from None
