"""Manage a merchant's folder: its keys, its policy, its ledger, and the server that it joined."""

from __future__ import annotations

import json
import tomllib
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from fedrec._internal.files import write_atomically, write_secret
from fedrec.clients.approvals_file import approve_by_hand
from fedrec.clients.identity_file import current_identity
from fedrec.clients.merchant_files import (
    ClientSettings,
    Connection,
    check_merchant_name,
    make_enrolment,
    private_pem,
    read_node_key,
    settings_toml,
)
from fedrec.clients.noised_count import draw_count
from fedrec.clients.policy import MerchantPolicy
from fedrec.clients.policy_template import TEMPLATE
from fedrec.clients.store import MerchantStore
from fedrec.errors import ConfigError, LedgerError
from fedrec.privacy.accounting.entry_contents import Count
from fedrec.privacy.accounting.ledger import Ledger, create_ledger, read_entries
from fedrec.privacy.accounting.ledger_entries import last_count, rotations
from fedrec.privacy.identity import SigningIdentity, verify
from fedrec.privacy.randomness import Randomness
from fedrec.protocol.enrolment import JoinFile, read_file
from fedrec.protocol.plan import Unit, roster_fingerprint
from fedrec.protocol.roster_statements import MAX_OWN_ROTATIONS
from fedrec.vision.folders import Layout
from fedrec.vision.listing.photo_places import PhotoPlace

ENROLMENT_FILE, JOIN_FILE = "enrolment.json", "join.json"
_CONNECTION_FILE, _PAUSE_FILE = "connection.json", "paused"
_DELTA = 1e-5
"""The delta at which the cost of a count is stated if the policy has no lifetime delta."""


@dataclass(frozen=True)
class MerchantHome:
    """A merchant's folder, which :meth:`create` makes, and the paths of its files."""

    folder: Path

    @property
    def identity_file(self) -> Path:
        """The signing key, mode 0600."""
        return self.folder / "identity.key"

    @property
    def next_identity_file(self) -> Path:
        """The signing key that replaces the current one once the ledger has the exchange, mode 0600."""
        return self.folder / "identity.key.next"

    @property
    def ledger(self) -> Path:
        """The lifetime ledger."""
        return self.folder / "ledger.sqlite"

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
        """The node key, which authenticates the merchant to Flower, mode 0600."""
        return self.folder / "node.key"

    @property
    def next_node_key_file(self) -> Path:
        """The node key that replaces the current one after the operator has enrolled it, mode 0600."""
        return self.folder / "node.key.next"

    @classmethod
    def create_keys_and_ledger(
        cls, folder: Path, *, identity: SigningIdentity, count: Count, policy: MerchantPolicy
    ) -> MerchantHome:
        """Create the folder (mode 0700), its identity key (0600), and its ledger with the count charged.

        Args:
            folder: the folder.
            identity: the merchant's signing identity.
            count: the noised count of units, the first entry of the ledger.
            policy: the rules with the lifetime cap.

        Returns:
            The folder.

        Raises:
            BudgetExceededError: the count alone exceeds the policy's cap.
            LedgerError: there is a ledger already.

        """
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        home = cls(folder)
        write_secret(home.identity_file, identity.private_bytes())
        create_ledger(
            home.ledger,
            signer=identity,
            count=count,
            epsilon_lifetime=policy.lifetime_epsilon,
            delta_lifetime=policy.lifetime_delta,
        )
        return home

    @classmethod
    def create(
        cls,
        folder: Path,
        *,
        name: str,
        data: Path | PhotoPlace,
        layout: Layout = "class",
        unit: Unit = "record",
        units: int,
        rng: Randomness | None = None,
    ) -> MerchantHome:
        """Create the folder (mode 0700), fresh keys (0600), a policy to edit, the ledger, the enrolment file.

        The exact number of units is not stored. The ledger is charged for one noised count of it, and the
        enrolment file contains that count.

        Args:
            folder: the folder; it must be empty or absent.
            name: the merchant's name.
            data: its folder of photos, or a CSV file.
            layout: the layout of that folder.
            unit: the unit of differential privacy: one photo or one product.
            units: the exact number of distinct units.
            rng: source of the count's noise, by default the operating system; pass another in tests only.

        Returns:
            The folder.

        Raises:
            ConfigError: the name is not valid, or the folder is not empty.

        """
        if folder.exists() and any(folder.iterdir()):
            raise ConfigError(f"--home {folder} is not empty: choose a new folder for this merchant")
        check_merchant_name(name)
        # Encoded before anything is made: the photos' path may hold bytes that are no text.
        settings = settings_toml(name, data if isinstance(data, PhotoPlace) else PhotoPlace(data), layout)
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        home = cls(folder)
        identity = SigningIdentity.generate()
        node = ec.generate_private_key(ec.SECP384R1())
        write_secret(home.node_key_file, private_pem(node))
        write_atomically(folder / "policy.toml", TEMPLATE.encode())
        policy = home._local_policy()
        count = home._draw(units, unit=unit, policy=policy, rng=rng or Randomness.from_os())
        cls.create_keys_and_ledger(folder, identity=identity, count=count, policy=policy)
        # The count may be published only after its charge is on disk.
        home._write_enrolment(name, identity, node, count)
        write_atomically(folder / "client.toml", settings)
        return home

    @classmethod
    def open(cls, folder: Path) -> MerchantHome:
        """Open a folder that :meth:`create` made; raise ``ConfigError`` for any other folder."""
        if not (folder / "client.toml").is_file():
            raise ConfigError(f"--home {folder} holds no merchant: create one with 'fedrec client init'")
        return cls(folder)

    def settings(self) -> ClientSettings:
        """Read ``client.toml``; raise ``ConfigError`` if it can't be used."""
        try:
            values = tomllib.loads((self.folder / "client.toml").read_text("utf-8"))
            return ClientSettings(**values)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{self.folder / 'client.toml'} can't be used: {error}") from None

    def identity(self) -> SigningIdentity:
        """Read the signing key; raise ``ConfigError`` if it can't be used."""
        return current_identity(self.identity_file, waiting=self.next_identity_file, ledger=self.ledger)

    def node_key(self) -> ec.EllipticCurvePrivateKey:
        """Read the node key; raise ``ConfigError`` if it can't be used."""
        return read_node_key(self.node_key_file)

    def next_node_key(self) -> ec.EllipticCurvePrivateKey | None:
        """Read the node key of :meth:`rotate` that the server has not admitted yet; None if there is none."""
        return read_node_key(self.next_node_key_file) if self.next_node_key_file.exists() else None

    def rotate(self) -> None:
        """Create the next node key, and an enrolment file with it and the same count of units.

        The old key stays in use until the server has admitted the new one; see :meth:`adopt_next_node_key`.

        Raises:
            LedgerError: the ledger, which has the count, is missing or doesn't verify.

        """
        count = self.declared_count()
        node = ec.generate_private_key(ec.SECP384R1())
        write_atomically(self.next_node_key_file, private_pem(node), mode=0o600)
        self._write_enrolment(self.settings().name, self.identity(), node, count)

    def recount(self, units: int) -> Count:
        """Draw a new noised count of units, charge it to the ledger, and write it to the enrolment file.

        The exact number is not stored. The daemon must be stopped, because it has the ledger open.

        Args:
            units: the exact number of distinct units.

        Returns:
            The noised count.

        Raises:
            BudgetExceededError: the count doesn't fit the policy's cap.
            LedgerError: the ledger is damaged, or another process has it open.

        """
        policy, identity = self._local_policy(), self.identity()
        node = self.next_node_key() or self.node_key()
        with Ledger(
            self.ledger,
            signer=identity,
            verify=verify,
            epsilon_lifetime=policy.lifetime_epsilon,
            delta_lifetime=policy.lifetime_delta,
        ) as ledger:
            unit: Unit = "record" if ledger.declared("product") is None else "product"
            drawn = self._draw(units, unit=unit, policy=policy, rng=Randomness.from_os())
            entry = ledger.release(drawn)
        self._write_enrolment(self.settings().name, identity, node, entry.count)
        return entry.count

    def declared_count(self) -> Count:
        """Return the declared count of units, the last one that was charged.

        Raises:
            LedgerError: the ledger is missing or doesn't verify.

        """
        outcome, entries = read_entries(self.ledger, public=self.identity().public, verify=verify)
        found = last_count(entries)
        if not outcome.ok or found is None:
            raise LedgerError(f"the ledger does not verify: {outcome.reason}")
        return found

    def _local_policy(self) -> MerchantPolicy:
        """Read the rules of ``policy.toml``, without those of a join file."""
        return MerchantPolicy.load(self.folder / "policy.toml")

    def _draw(self, units: int, *, unit: Unit, policy: MerchantPolicy, rng: Randomness) -> Count:
        # The ledger entry contains only the policy's hash; an auditor needs the text of that policy.
        store = MerchantStore(self.store)
        try:
            store.keep_policy(policy.rules)
        finally:
            store.close()
        delta = _DELTA if policy.lifetime_delta is None else policy.lifetime_delta
        return draw_count(units, unit=unit, delta=delta, policy_hash=policy.hash, rng=rng)

    def _write_enrolment(
        self, name: str, identity: SigningIdentity, node: ec.EllipticCurvePrivateKey, count: Count
    ) -> None:
        _, entries = read_entries(self.ledger, public=identity.public, verify=verify)
        exchanged = tuple(rotation.signed for rotation in rotations(entries))
        enrolment = make_enrolment(name, identity, node, count, rotations=exchanged[-MAX_OWN_ROTATIONS:])
        write_atomically(self.folder / ENROLMENT_FILE, enrolment.canonical_bytes())

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

    def approve(self, join: JoinFile) -> None:
        """Store a join file that the merchant has confirmed.

        Raises:
            ConfigError: the roster doesn't have this merchant's key under its name.

        """
        name = self.settings().name
        mine = [peer for peer in join.roster if peer.name == name]
        if not mine or mine[0].signing_key != self.identity().public.hex():
            raise ConfigError(f"the join file's roster doesn't list this merchant, '{name}', with its key")
        approve_by_hand(self.folder, join, before=self.joined() if self.has_joined else None)
        write_atomically(self.authority, join.authority.encode())
        write_atomically(self.folder / JOIN_FILE, join.canonical_bytes())

    @property
    def has_joined(self) -> bool:
        """Whether the merchant has confirmed a join file."""
        return (self.folder / JOIN_FILE).is_file()

    def joined(self) -> JoinFile:
        """Read the confirmed join file; raise ``ConfigError`` if there is none."""
        if not self.has_joined:
            raise ConfigError("this merchant has joined no server yet: run 'fedrec client join FILE'")
        return read_file(self.folder / JOIN_FILE, JoinFile)

    @property
    def paused(self) -> bool:
        """Whether the merchant is paused and takes part in no new round."""
        return (self.folder / _PAUSE_FILE).exists()

    def pause(self) -> None:
        """Take part in no new round until :meth:`resume`, even after a restart of the daemon."""
        write_atomically(self.folder / _PAUSE_FILE, b"", mode=0o600)

    def resume(self) -> None:
        """End the pause."""
        (self.folder / _PAUSE_FILE).unlink(missing_ok=True)

    def rules_stamp(self) -> tuple[object, ...]:
        """Return a value that changes when ``policy.toml``, the join file or the pause changes."""
        stamp: list[object] = []
        for name in ("policy.toml", JOIN_FILE, _PAUSE_FILE):
            try:
                found = (self.folder / name).stat()
                stamp += [found.st_mtime_ns, found.st_size, found.st_ino]
            except OSError:
                stamp.append(None)
        return tuple(stamp)

    def note_connection(self, *, connected: bool, reason: str = "") -> None:
        """Record the state of the connection to the server, for ``fedrec client status``.

        Args:
            connected: whether there is a connection.
            reason: why there is none.

        """
        at = datetime.now(UTC).isoformat(timespec="seconds")
        body = json.dumps({"connected": connected, "at": at, "reason": reason})
        # The record is information only: a full disk must not end the connection.
        with suppress(OSError):
            write_atomically(self.folder / _CONNECTION_FILE, body.encode(), mode=0o600)

    def connection(self) -> Connection | None:
        """Return the last state that :meth:`note_connection` recorded; None if there is none."""
        try:
            return Connection.model_validate_json((self.folder / _CONNECTION_FILE).read_bytes())
        except (OSError, ValueError):
            return None

    def policy(self) -> MerchantPolicy:
        """Read the merchant's rules, with the roster and the server of the confirmed join file.

        Returns:
            The rules.

        Raises:
            ConfigError: ``policy.toml`` or the join file can't be used, or they contradict each other.

        """
        policy = MerchantPolicy.load(self.folder / "policy.toml")
        join = self.joined()
        approved = roster_fingerprint(join.roster, join.witnesses)
        if policy.roster_fingerprint not in (None, approved):
            raise ConfigError(
                "policy.toml: roster_fingerprint differs from that of the join file; correct or remove it"
            )
        if policy.server_key not in (None, join.server_key):
            raise ConfigError(
                "policy.toml: server_key differs from that of the join file; correct or remove it"
            )
        return policy.model_copy(update={"roster_fingerprint": approved, "server_key": join.server_key})
