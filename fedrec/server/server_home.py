"""The operator's folder: keys, certificates, the roster of enrolled merchants, and the trainings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import tomli_w

from fedrec._internal.files import write_atomically, write_secret
from fedrec._internal.look_alikes import look_alikes, shown
from fedrec._internal.new_folders import require_new_folder
from fedrec._internal.toml_files import read_settings
from fedrec.errors import ConfigError, ServiceError
from fedrec.privacy.identity import SigningIdentity, verify
from fedrec.protocol.enrolment import ENROLMENT_CONTEXT, Enrolment, JoinFile, Statement
from fedrec.protocol.plan import Peer, Unit
from fedrec.protocol.roster_fingerprints import roster_fingerprint
from fedrec.protocol.roster_statements import RosterUpdate, SignedVouch, federation_id
from fedrec.protocol.tls import Certificates
from fedrec.server.certificates import (
    check_certificates,
    make_authority,
    make_server_certificate,
    renew_server_certificate,
)
from fedrec.server.node_keys import flower_key
from fedrec.server.roster_file import Roster, RosterFile
from fedrec.server.server_address import ServerSettings, parse_address
from fedrec.server.statement_book import StatementBook

JOIN_FILE = "join.json"


@dataclass(frozen=True)
class ServerHome:
    """The paths of the folder's files, and what they hold; see :meth:`create`."""

    folder: Path

    @property
    def authority(self) -> Path:
        """The certificate that merchants trust."""
        return self.folder / "authority.pem"

    @property
    def certificate(self) -> Path:
        """The server's certificate."""
        return self.folder / "server.pem"

    @property
    def key(self) -> Path:
        """The server's private key, mode 0600."""
        return self.folder / "server.key"

    @property
    def trainings(self) -> Path:
        """The folder that holds a folder per training."""
        return self.folder / "trainings"

    @property
    def identity_file(self) -> Path:
        """The key that signs requests and receipts, mode 0600."""
        return self.folder / "identity.key"

    @property
    def receipts(self) -> Path:
        """Every receipt that was given to a merchant."""
        return self.folder / "receipts.sqlite"

    @property
    def requests(self) -> Path:
        """The reserved part of the counter of signed requests."""
        return self.folder / "requests.json"

    @classmethod
    def create(
        cls,
        folder: Path,
        *,
        address: str,
        listen: str | None,
        certificates: Certificates | None = None,
    ) -> ServerHome:
        """Make the folder (mode 0700) of a new server.

        Args:
            folder: the folder; it may exist if it is empty.
            address: where merchants reach the server, HOST:PORT.
            listen: the host to listen on; None for the host of ``address``.
            certificates: the operator's own, PEM files; None makes an authority.

        Returns:
            The new folder.

        Raises:
            ConfigError: the address isn't HOST:PORT, no merchant would accept the certificates there, or the
                folder isn't empty.
        """
        authority, port = parse_address(address)
        host = authority.strip("[]")
        if certificates is not None:
            check_certificates(certificates, host=host)
        require_new_folder(folder, party="server")
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        home = cls(folder)
        if certificates is None:
            make_authority(certificate=home.authority, key=folder / "authority.key")
            make_server_certificate(
                hosts=(host,),
                authority=home.authority,
                authority_key=folder / "authority.key",
                certificate=home.certificate,
                key=home.key,
            )
        else:
            for source, target in (
                (certificates.authority, home.authority),
                (certificates.certificate, home.certificate),
                (certificates.key, home.key),
            ):
                write_atomically(target, _read(source), mode=0o600)
        home.trainings.mkdir()
        write_secret(home.identity_file, SigningIdentity.generate().private_bytes())
        config = {"address": f"{authority}:{port}", "listen": listen or host, "port": port}
        write_atomically(folder / "server.toml", tomli_w.dumps(config).encode())
        write_atomically(home._roster_file.path, b"[]")
        return home

    @classmethod
    def open(cls, folder: Path) -> ServerHome:
        """Open a folder that :meth:`create` made; raise ``ConfigError`` if it isn't one."""
        if not (folder / "server.toml").is_file():
            raise ConfigError(f"{folder} holds no server: make one with 'fedrec server init'")
        return cls(folder)

    def settings(self) -> ServerSettings:
        """Read ``server.toml``; raise ``ConfigError`` if it can't be used."""
        return read_settings(self.folder / "server.toml", ServerSettings)

    def certificates(self) -> Certificates:
        """Return the server's certificate and key, and the authority that merchants trust."""
        return Certificates(authority=self.authority, certificate=self.certificate, key=self.key)

    def checked_certificates(self) -> Certificates:
        """Return the certificates, checked.

        Raises:
            ConfigError: no merchant would accept them, or others can read the private key.
        """
        address = self.settings().address
        given = self.certificates()
        check_certificates(given, host=address.rpartition(":")[0].strip("[]"))
        if self.key.stat().st_mode & 0o077:
            raise ConfigError(f"{self.key} can be read by others: chmod 600 it")
        return given

    def renew(self) -> None:
        """Make a new server certificate; raise as :func:`renew_server_certificate` does."""
        address = self.settings().address
        host = address.rpartition(":")[0].strip("[]")
        renew_server_certificate(self.certificates(), authority_key=self.folder / "authority.key", host=host)

    def identity(self) -> SigningIdentity:
        """Read the private key that signs requests and receipts."""
        try:
            return SigningIdentity.from_private_bytes(self.identity_file.read_bytes())
        except (OSError, ValueError) as error:
            raise ServiceError(f"{self.identity_file} can't be used: {error}") from None

    def enrolled(self) -> tuple[Statement, ...]:
        """Return the enrolment statements of all enrolled merchants, sorted by name."""
        return self._roster().enrolled

    @property
    def _roster_file(self) -> RosterFile:
        return RosterFile(self.folder)

    def _roster(self) -> Roster:
        return self._roster_file.read()

    def sizes(self, unit: Unit) -> tuple[int, ...]:
        """Return the noised number of units that each enrolled merchant declared.

        Raises:
            ConfigError: a merchant's ledger is of another unit: an epsilon holds for one unit only.
        """
        sizes: list[int] = []
        for entry in self.enrolled():
            if entry.size is None:
                continue
            if entry.unit != unit:
                raise ConfigError(
                    f"unit = '{unit}' can't be planned: the ledger of '{entry.name}' is of the unit "
                    f"'{entry.unit}', chosen by 'fedrec client init'"
                )
            sizes.append(entry.size)
        return tuple(sizes)

    def roster(self) -> tuple[Peer, ...]:
        """Return the enrolled merchants as entries of a plan's roster."""
        return self._roster().merchants

    def witnesses(self) -> tuple[Peer, ...]:
        """Return the enrolled witnesses as entries of a plan."""
        return self._roster().witnesses

    def fingerprint(self) -> str:
        """Return the fingerprint of the roster and its witnesses, as plans have it."""
        return roster_fingerprint(self.roster(), self.witnesses())

    @property
    def statements_file(self) -> Path:
        """What merchants state about keys: vouches, and exchanges of their own."""
        return self.folder / "roster-statements.json"

    def statements(self) -> StatementBook:
        """Read what merchants state about keys; ``ServiceError`` if the file can't be used."""
        return StatementBook.read(self.statements_file)

    def update(self) -> RosterUpdate | None:
        """Return the roster with the merchants' statements; None if nobody is enrolled."""
        if not self._roster_file.path.exists() or not self.enrolled():
            return None
        return self.statements().update(self.roster(), self.witnesses())

    def vouch(self, signed: SignedVouch) -> None:
        """Add a merchant's vouch for another one to the roster; raise ``ConfigError`` if it can't count."""
        with self._roster_file.changing():
            book = self.statements().with_vouch(
                signed,
                enrolled=self.enrolled(),
                roster=self.roster(),
                federation=federation_id(
                    authority=self.authority.read_text("ascii"), server_key=self.identity().public.hex()
                ),
                today=datetime.now(UTC).date(),
            )
            book.write(self.statements_file)
            self._write_roster(self.enrolled())

    def exchanges_key(self, enrolment: Enrolment) -> bool:
        """Return whether an enrolment file has another identity key than the one enrolled by its name."""
        stated = enrolment.statement
        return any(
            entry.name == stated.name and entry.signing_key != stated.signing_key for entry in self.enrolled()
        )

    def enroll(self, enrolment: Enrolment, *, new_key: bool = False) -> str:
        """Add a merchant or a witness, or renew one under its key or one that it was exchanged for.

        Args:
            enrolment: the merchant's enrolment.
            new_key: whether the merchant confirmed, by another channel, that it exchanged its identity key.

        Returns:
            The roster's new fingerprint.

        Raises:
            ConfigError: a signature doesn't verify, Flower can't use the node key, a key was replaced or
                revoked before, or the name or a key is taken; or an exchange of keys isn't confirmed.
        """
        with self._roster_file.changing():
            return self._enroll(enrolment, new_key=new_key)

    def _enroll(self, enrolment: Enrolment, *, new_key: bool) -> str:
        statement, book = enrolment.statement, self.statements()
        if not verify(
            bytes.fromhex(statement.signing_key),
            statement.canonical_bytes(),
            bytes.fromhex(enrolment.signature),
            context=ENROLMENT_CONTEXT,
        ):
            raise ConfigError(f"the enrolment of '{statement.name}' is not signed with the key that it names")
        others = [entry for entry in self.enrolled() if entry.name != statement.name]
        before = [entry for entry in self.enrolled() if entry.name == statement.name]
        for alike in look_alikes([statement.name, *(entry.name for entry in others)]):
            if statement.name in alike:
                raise ConfigError(
                    f"{', '.join(map(shown, alike))} look alike, and people compare rosters by eye: ask the "
                    "newcomer for another name"
                )
        book.check_key(enrolment)
        if self.exchanges_key(enrolment):
            book = book.exchange(enrolment, before[0])
            if not new_key:
                raise ConfigError(
                    f"'{statement.name}' has a new identity key, signed by the enrolled one: ask the "
                    "merchant by another channel whether it exchanged its key, then confirm with --new-key"
                )
        if before and before[0].role != statement.role:
            raise ConfigError(
                f"'{statement.name}' is enrolled as a {before[0].role}: revoke it first, to enrol it as a "
                f"{statement.role}"
            )
        node_key = flower_key(statement.node_key)
        # A crash between retiring a key and writing the roster leaves the key in both; it stays enrolled.
        kept = any(flower_key(entry.node_key) == node_key for entry in before)
        if not kept and self._roster_file.is_retired(statement.node_key):
            raise ConfigError(
                f"the node key in this file of '{statement.name}' was revoked or replaced before, and is "
                "never admitted again: ask for the merchant's newest file ('fedrec client rotate' makes one)"
            )
        for entry in others:
            if statement.signing_key == entry.signing_key or node_key == flower_key(entry.node_key):
                raise ConfigError(f"a key of '{statement.name}' is enrolled as '{entry.name}' already")
        book.write(self.statements_file)
        return self._write_roster([*others, statement])

    def revoke(self, name: str) -> str:
        """Remove a merchant or a witness from the roster.

        Returns:
            The roster's new fingerprint.

        Raises:
            ConfigError: no such merchant is enrolled.
        """
        with self._roster_file.changing():
            left = [entry for entry in self.enrolled() if entry.name != name]
            if len(left) == len(self.enrolled()):
                raise ConfigError(f"no merchant or witness '{name}' is enrolled here")
            self.statements().without(name).write(self.statements_file)
            return self._write_roster(left)

    def _write_roster(self, entries: Iterable[Statement]) -> str:
        self._roster_file.write(entries)
        roster = self.roster()
        if roster:
            join = JoinFile(
                address=self.settings().address,
                authority=self.authority.read_text("ascii"),
                server_key=self.identity().public.hex(),
                **dict(self.statements().update(roster, self.witnesses())),
            )
            write_atomically(self.folder / JOIN_FILE, join.canonical_bytes())
        return self.fingerprint()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}") from None
