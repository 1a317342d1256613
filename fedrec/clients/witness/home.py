"""Manage a witness's folder: its keys, its policy, its record of openings, and the server that it joined."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import tomli_w
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import BaseModel, ConfigDict

from fedrec._internal.files import write_atomically, write_secret
from fedrec._internal.new_folders import require_new_folder
from fedrec._internal.toml_files import read_settings
from fedrec.clients.identity_file import current_identity
from fedrec.clients.merchant_files import checked_name, make_witness_enrolment, private_pem
from fedrec.clients.party_home import ENROLMENT_FILE, PartyHome, RecordExchange
from fedrec.clients.witness.key_record import KeyRecord
from fedrec.clients.witness.openings import Openings, in_use, lock_openings
from fedrec.clients.witness.policy import WitnessPolicy
from fedrec.clients.witness.policy_template import TEMPLATE
from fedrec.errors import ConfigError
from fedrec.privacy.identity import SigningIdentity
from fedrec.protocol.enrolment import Enrolment, JoinFile
from fedrec.protocol.roster_statements import MAX_OWN_ROTATIONS
from fedrec.protocol.schema import PartyName

_SETTINGS_FILE = "witness.toml"


class WitnessSettings(BaseModel):
    """The content of ``witness.toml``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: PartyName


@dataclass(frozen=True)
class WitnessHome(PartyHome):
    """A witness's folder, which :meth:`create` makes, and the paths of its files."""

    party: ClassVar[str] = "witness"
    command: ClassVar[str] = "witness"

    @property
    def openings(self) -> Path:
        """The record of all openings, which only grows."""
        return self.folder / "openings.sqlite"

    @property
    def keys(self) -> Path:
        """The record of the exchanges of the identity key; absent before the first."""
        return self.folder / "keys.json"

    @property
    def in_use(self) -> bool:
        """Whether a process holds the lock of the record of openings, such as the daemon."""
        return in_use(self.openings)

    @classmethod
    def create_key(cls, folder: Path, *, identity: SigningIdentity) -> WitnessHome:
        """Create the folder (mode 0700) with a signing key (0600).

        Args:
            folder: the folder.
            identity: the witness's signing identity.

        Returns:
            The folder.
        """
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        home = cls(folder)
        write_secret(home.identity_file, identity.private_bytes())
        Openings.create(home.openings)
        return home

    @classmethod
    def create(cls, folder: Path, *, name: str) -> WitnessHome:
        """Create the folder (mode 0700), fresh keys (0600), a policy to edit, and the enrolment file.

        Args:
            folder: the folder; it must be empty or absent.
            name: the witness's name.

        Returns:
            The folder.

        Raises:
            ConfigError: the name is not valid, or the folder is not empty.
        """
        require_new_folder(folder, party="witness")
        name = checked_name(name)
        identity, node = SigningIdentity.generate(), ec.generate_private_key(ec.SECP384R1())
        home = cls.create_key(folder, identity=identity)
        write_secret(home.node_key_file, private_pem(node))
        write_atomically(folder / "policy.toml", TEMPLATE.encode())
        enrolment = make_witness_enrolment(name, identity, node)
        write_atomically(folder / ENROLMENT_FILE, enrolment.canonical_bytes())
        write_atomically(folder / _SETTINGS_FILE, tomli_w.dumps({"name": name}).encode())
        return home

    @classmethod
    def open(cls, folder: Path) -> WitnessHome:
        """Open a folder that :meth:`create` made; raise ``ConfigError`` for any other folder."""
        if not (folder / _SETTINGS_FILE).is_file():
            raise ConfigError(f"{folder} holds no witness: create one with 'fedrec witness init'")
        return cls(folder)

    @property
    def name(self) -> str:
        """The witness's name; ``ConfigError`` if its file can't be used."""
        return read_settings(self.folder / _SETTINGS_FILE, WitnessSettings).name

    def identity(self) -> SigningIdentity:
        """Read the signing key; raise ``ConfigError`` if it can't be used."""
        return current_identity(
            self.identity_file,
            waiting=self.next_identity_file,
            is_recorded=lambda public: KeyRecord.read(self.keys).ends_with(public),
        )

    @contextmanager
    def record_exchange(self, old: SigningIdentity) -> Iterator[RecordExchange]:
        """Lock the record of openings, so that no daemon runs, and record exchanges beside it.

        Args:
            old: the present identity.

        Yields:
            What records an exchange.

        Raises:
            ConfigError: the record of exchanges can't be read.
            LedgerError: another process has locked the record of openings.
        """
        before = KeyRecord.read(self.keys)
        with closing(lock_openings(self.openings)):
            yield lambda signed, new: before.with_exchange(signed).write(self.keys)

    def _enrolment(self, node: ec.EllipticCurvePrivateKey) -> Enrolment:
        exchanged = KeyRecord.read(self.keys).rotations
        return make_witness_enrolment(
            self.name, self.identity(), node, rotations=exchanged[-MAX_OWN_ROTATIONS:]
        )

    def approve(self, join: JoinFile) -> None:
        """Store a join file that was confirmed.

        Raises:
            ConfigError: the join file's witnesses don't have this witness's key under its name.
        """
        name = self.name
        mine = [peer for peer in join.witnesses if peer.name == name]
        if not mine or mine[0].signing_key != self.identity().public.hex():
            raise ConfigError(f"the join file doesn't list this witness, '{name}', with its key")
        self.keep_join_file(join)

    def policy(self) -> WitnessPolicy:
        """Read the witness's rules, with the roster and the server of the confirmed join file.

        Returns:
            The rules.

        Raises:
            ConfigError: ``policy.toml`` or the join file can't be used, or they contradict each other.
        """
        policy = WitnessPolicy.load(self.folder / "policy.toml")
        approved = self.approved(
            roster_fingerprint_rule=policy.roster_fingerprint, server_key_rule=policy.server_key
        )
        return policy.model_copy(update=asdict(approved))
