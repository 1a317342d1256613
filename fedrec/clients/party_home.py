"""Manage what the folders of merchants and witnesses have in common: keys, the server joined, the pause."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

from cryptography.hazmat.primitives.asymmetric import ec

from fedrec._internal.files import file_stamp, write_atomically
from fedrec._internal.moments import now_text
from fedrec.clients.merchant_files import Connection, private_pem, read_node_key
from fedrec.errors import ConfigError, ConnectionFault
from fedrec.privacy.identity import SigningIdentity
from fedrec.protocol.enrolment import Enrolment, JoinFile, read_file
from fedrec.protocol.roster_fingerprints import roster_fingerprint
from fedrec.protocol.roster_statements import SignedRotation
from fedrec.protocol.schema import Hash

ENROLMENT_FILE, JOIN_FILE = "enrolment.json", "join.json"
_CONNECTION_FILE, _PAUSE_FILE, _RESUMED_FILE = "connection.json", "paused", "resumed"


@dataclass(frozen=True)
class Approved:
    """What a party approved by its join file: the server, and the roster with its witnesses."""

    roster_fingerprint: Hash
    server_key: Hash


RecordExchange = Callable[[SignedRotation, SigningIdentity], object]
"""Records an exchange of identity keys, given the new identity."""


@dataclass(frozen=True)
class PartyHome:
    """The folder of a merchant or of a witness, and the paths of its files."""

    folder: Path
    party: ClassVar[str] = "merchant"
    """Whose folder it is, in messages."""
    command: ClassVar[str] = "client"
    """The group of commands that work on it."""

    @property
    def identity_file(self) -> Path:
        """The signing key, mode 0600."""
        return self.folder / "identity.key"

    @property
    def next_identity_file(self) -> Path:
        """The signing key that replaces the current one once the exchange is on record, mode 0600."""
        return self.folder / "identity.key.next"

    @property
    def name(self) -> str:
        """The party's name; ``ConfigError`` if its settings can't be used."""
        raise NotImplementedError

    @property
    def in_use(self) -> bool:
        """Whether a process works on this folder, such as the daemon."""
        raise NotImplementedError

    def identity(self) -> SigningIdentity:
        """Read the signing key; raise ``ConfigError`` if it can't be used."""
        raise NotImplementedError

    def record_exchange(self, old: SigningIdentity) -> AbstractContextManager[RecordExchange]:
        """Open the party's own record of its keys, which no other process may use meanwhile.

        Args:
            old: the present identity.

        Returns:
            A context manager whose value records an exchange, durably.

        Raises:
            LedgerError: the record can't be used, or another process has it open.
        """
        raise NotImplementedError

    def _enrolment(self, node: ec.EllipticCurvePrivateKey) -> Enrolment:
        """Make the enrolment with the present identity and this node key."""
        raise NotImplementedError

    @property
    def store(self) -> Path:
        """The store: plans, keys and replies of trainings, and past policies."""
        return self.folder / "store.sqlite"

    @property
    def requests(self) -> Path:
        """The record of the last accepted requests of each server."""
        return self.folder / "requests.bin"

    @property
    def authority(self) -> Path:
        """The certificate of the authority that issues the server's certificate."""
        return self.folder / "authority.pem"

    @property
    def node_key_file(self) -> Path:
        """The node key, which authenticates the party to Flower, mode 0600."""
        return self.folder / "node.key"

    @property
    def next_node_key_file(self) -> Path:
        """The node key that replaces the current one after the operator has enrolled it, mode 0600."""
        return self.folder / "node.key.next"

    def node_key(self) -> ec.EllipticCurvePrivateKey:
        """Read the node key; raise ``ConfigError`` if it can't be used."""
        return read_node_key(self.node_key_file)

    def next_node_key(self) -> ec.EllipticCurvePrivateKey | None:
        """Read the next node key, which the server has not admitted yet; None if there is none."""
        return read_node_key(self.next_node_key_file) if self.next_node_key_file.exists() else None

    def rotate(self) -> None:
        """Create the next node key, and an enrolment file with it.

        The old key stays in use until the server has admitted the new one; see :meth:`adopt_next_node_key`.

        Raises:
            ConfigError: the identity key can't be used.
            LedgerError: the ledger, which has a merchant's count, is missing or doesn't verify.
        """
        node = ec.generate_private_key(ec.SECP384R1())
        made = self._enrolment(node)
        write_atomically(self.next_node_key_file, private_pem(node), mode=0o600)
        write_atomically(self.folder / ENROLMENT_FILE, made.canonical_bytes())

    def adopt_next_node_key(self) -> None:
        """Replace the node key by the next one; the old key is deleted."""
        write_atomically(self.node_key_file, self.next_node_key_file.read_bytes(), mode=0o600)
        self.next_node_key_file.unlink()

    def changed_server_identity(self, join: JoinFile) -> tuple[str, ...]:
        """Return which parts of the server's identity in a join file differ from the confirmed join file."""
        if not self.has_joined:
            return ()
        kept = self.joined()
        pairs = {
            "the server's authority": (kept.authority, join.authority),
            "the server's key": (kept.server_key, join.server_key),
        }
        return tuple(name for name, (before, after) in pairs.items() if before != after)

    def keep_join_file(self, join: JoinFile) -> None:
        """Store a join file that was confirmed."""
        write_atomically(self.authority, join.authority.encode())
        write_atomically(self.folder / JOIN_FILE, join.canonical_bytes())

    @property
    def has_joined(self) -> bool:
        """Whether a join file was confirmed."""
        return (self.folder / JOIN_FILE).is_file()

    def joined(self) -> JoinFile:
        """Read the confirmed join file; raise ``ConfigError`` if there is none."""
        if not self.has_joined:
            raise ConfigError(
                f"this {self.party} has joined no server yet: run 'fedrec {self.command} join FILE'"
            )
        return read_file(self.folder / JOIN_FILE, JoinFile)

    def approved(self, *, roster_fingerprint_rule: str | None, server_key_rule: str | None) -> Approved:
        """Return what the join file approves, and hold it against the policy's own rules.

        Args:
            roster_fingerprint_rule: the rule ``roster_fingerprint`` of ``policy.toml``; None if it has none.
            server_key_rule: the rule ``server_key``; None if it has none.

        Returns:
            The approved roster and server.

        Raises:
            ConfigError: the join file can't be used, or a rule contradicts it.
        """
        join = self.joined()
        approved = Approved(roster_fingerprint(join.roster, join.witnesses), join.server_key)
        if roster_fingerprint_rule not in (None, approved.roster_fingerprint):
            raise ConfigError(
                "policy.toml: roster_fingerprint differs from that of the join file; correct or remove it"
            )
        if server_key_rule not in (None, approved.server_key):
            raise ConfigError(
                "policy.toml: server_key differs from that of the join file; correct or remove it"
            )
        return approved

    @property
    def paused(self) -> bool:
        """Whether the party is paused and takes part in nothing new."""
        return (self.folder / _PAUSE_FILE).exists()

    def pause(self) -> None:
        """Take part in nothing new until :meth:`resume`, even after a restart of the daemon."""
        write_atomically(self.folder / _PAUSE_FILE, b"", mode=0o600)

    def resume(self) -> None:
        """End the pause, and note when it ended."""
        if self.paused:
            at = now_text()
            # The record is information only: a full disk must not keep the party out.
            with suppress(OSError):
                write_atomically(self.folder / _RESUMED_FILE, at.encode(), mode=0o600)
        (self.folder / _PAUSE_FILE).unlink(missing_ok=True)

    @property
    def resumed(self) -> datetime | None:
        """When the last pause ended; None while the party is paused, or was never."""
        if self.paused:
            return None
        try:
            return datetime.fromisoformat((self.folder / _RESUMED_FILE).read_text("utf-8")).astimezone(UTC)
        except (OSError, ValueError):
            return None

    def rules_stamp(self) -> tuple[object, ...]:
        """Return a value that changes when ``policy.toml``, the join file or the pause changes."""
        return tuple(file_stamp(self.folder / name) for name in ("policy.toml", JOIN_FILE, _PAUSE_FILE))

    def note_connection(
        self, *, connected: bool, reason: str = "", fault: ConnectionFault | None = None
    ) -> None:
        """Record the state of the connection to the server, for people who ask.

        Args:
            connected: whether there is a connection.
            reason: why there is none.
            fault: the same for programs; None for what has no name.
        """
        body = Connection(connected=connected, at=now_text(), reason=reason, fault=fault).model_dump_json()
        # The record is information only: a full disk must not end the connection.
        with suppress(OSError):
            write_atomically(self.folder / _CONNECTION_FILE, body.encode(), mode=0o600)

    def connection(self) -> Connection | None:
        """Return the last state that :meth:`note_connection` recorded; None if there is none."""
        try:
            return Connection.model_validate_json((self.folder / _CONNECTION_FILE).read_bytes())
        except (OSError, ValueError):
            return None
