"""Manage a witness's folder: its key, its store, its record of openings, and the server that it joined."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedrec._internal.files import write_secret
from fedrec.clients.request_gate import RequestGate
from fedrec.clients.store import MerchantStore
from fedrec.clients.witness.openings import Openings
from fedrec.clients.witness.policy import WitnessPolicy
from fedrec.clients.witness.witness import Witness
from fedrec.errors import ConfigError
from fedrec.privacy.identity import SigningIdentity


@dataclass(frozen=True)
class WitnessHome:
    """A witness's folder, and the paths of its files."""

    folder: Path

    @property
    def identity_file(self) -> Path:
        """The signing key, mode 0600."""
        return self.folder / "identity.key"

    @property
    def store(self) -> Path:
        """The store: plans, keys and answers of trainings."""
        return self.folder / "store.sqlite"

    @property
    def openings(self) -> Path:
        """The record of all openings, which only grows."""
        return self.folder / "openings.sqlite"

    @property
    def requests(self) -> Path:
        """The record of the last accepted requests of each server."""
        return self.folder / "requests.bin"

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
        return home

    def identity(self) -> SigningIdentity:
        """Read the signing key; raise ``ConfigError`` if it can't be used."""
        try:
            return SigningIdentity.from_private_bytes(self.identity_file.read_bytes())
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{self.identity_file} can't be used: {error}; restore it from a backup"
            ) from None

    def open_witness(self, *, name: str, server_key: str, policy: WitnessPolicy) -> Witness:
        """Open the store, the record of openings and the request gate.

        Args:
            name: the witness's name.
            server_key: the Ed25519 public key of the server whose requests are accepted, 64 hexadecimal
                digits.
            policy: the witness's rules.

        Returns:
            The witness, usable by the calling thread only.

        Raises:
            ConfigError: the key can't be used.
            LedgerError: a file can't be read, or the record of openings is older than the store.

        """
        return Witness(
            name=name,
            identity=self.identity(),
            store=MerchantStore(self.store),
            openings=Openings(self.openings),
            gate=RequestGate(self.requests, merchant=name, server_key=server_key),
            policy=policy,
        )
