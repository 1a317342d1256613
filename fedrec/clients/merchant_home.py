"""A merchant's folder: its keys, its policy, its ledger, and the server that it joined."""

from __future__ import annotations

import json
import tomllib
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import tomli_w
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import BaseModel, ConfigDict, TypeAdapter

from fedrec._internal.files import write_atomically, write_secret
from fedrec.clients.noised_count import draw_count
from fedrec.clients.policy import TEMPLATE, MerchantPolicy
from fedrec.clients.store import MerchantStore
from fedrec.errors import ConfigError, LedgerError
from fedrec.privacy.accounting.entry_contents import Count
from fedrec.privacy.accounting.ledger import Ledger, create_ledger, read_entries
from fedrec.privacy.accounting.ledger_entries import last_count
from fedrec.privacy.identity import SigningIdentity, verify
from fedrec.privacy.randomness import Randomness
from fedrec.protocol.enrolment import ENROLMENT_CONTEXT, Enrolment, JoinFile, Statement, read_file
from fedrec.protocol.plan import Unit, roster_fingerprint
from fedrec.protocol.schema import Name
from fedrec.vision.folders import Layout

ENROLMENT_FILE, JOIN_FILE = "enrolment.json", "join.json"
_CONNECTION_FILE, _PAUSE_FILE = "connection.json", "paused"
_CONNECTION_FILE = "connection.json"
_DELTA = 1e-5
"""What the cost of a count is stated at under a policy without a lifetime delta."""


class ClientSettings(BaseModel):
    """The merchant's name, its folder of photos, and how they lie in it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    data: Path
    layout: Layout = "class"


class Connection(BaseModel):
    """How the daemon's connection stood at ``at`` (UTC); ``reason`` says why there was none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    connected: bool
    at: str
    reason: str


@dataclass(frozen=True)
class MerchantHome:
    """The folder's files by name; see :meth:`create`."""

    folder: Path

    @property
    def identity_file(self) -> Path:
        """The signing key, mode 0600."""
        return self.folder / "identity.key"

    @property
    def ledger(self) -> Path:
        """The lifetime ledger."""
        return self.folder / "ledger.sqlite"

    @property
    def store(self) -> Path:
        """What was answered in trainings that are under way."""
        return self.folder / "store.sqlite"

    @property
    def requests(self) -> Path:
        """Which of the server's requests were taken last."""
        return self.folder / "requests.bin"

    @property
    def authority(self) -> Path:
        """The certificate that the server's must come from."""
        return self.folder / "authority.pem"

    @property
    def node_key_file(self) -> Path:
        """The key that the merchant shows to Flower, mode 0600."""
        return self.folder / "node.key"

    @property
    def next_node_key_file(self) -> Path:
        """The key that takes its place once the operator has enrolled it, mode 0600."""
        return self.folder / "node.key.next"

    @classmethod
    def create_keys_and_ledger(
        cls, folder: Path, *, identity: SigningIdentity, count: Count, policy: MerchantPolicy
    ) -> MerchantHome:
        """Make the folder (mode 0700), its identity key (0600), and its ledger with its count charged.

        Raises ``BudgetExceededError`` where the count alone passes the policy's cap, ``LedgerError`` where
        there is a ledger already.
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
        data: Path,
        layout: Layout = "class",
        unit: Unit = "record",
        units: int,
        rng: Randomness | None = None,
    ) -> MerchantHome:
        """Make the folder (mode 0700), fresh keys (0600), a policy to edit, the ledger, the enrolment file.

        ``units`` is the exact number of distinct photos or products, whichever the ledger's ``unit`` is. It
        goes no further: the ledger is charged for one noised count, and that stands in the enrolment file.
        Its noise is the operating system's; another ``rng`` is for tests alone.
        Raises ``ConfigError`` for an impossible name, or a folder that holds something already.
        """
        if folder.exists() and any(folder.iterdir()):
            raise ConfigError(f"--home {folder} is not empty: choose a new folder for this merchant")
        check_name(name)
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        home = cls(folder)
        identity = SigningIdentity.generate()
        node = ec.generate_private_key(ec.SECP384R1())
        write_secret(home.node_key_file, _pem(node))
        write_atomically(folder / "policy.toml", TEMPLATE.encode())
        policy = home._local_policy()
        count = home._draw(units, unit=unit, policy=policy, rng=rng or Randomness.from_os())
        cls.create_keys_and_ledger(folder, identity=identity, count=count, policy=policy)
        # TrainingCharges, and on the disk: only now may the count be told.
        home._write_enrolment(name, identity, node, count)
        config = {"name": name, "data": str(data.resolve()), "layout": layout}
        write_atomically(folder / "client.toml", tomli_w.dumps(config).encode())
        return home

    @classmethod
    def open(cls, folder: Path) -> MerchantHome:
        """Open a folder that :meth:`create` made; ``ConfigError`` if it isn't one."""
        if not (folder / "client.toml").is_file():
            raise ConfigError(f"--home {folder} holds no merchant: make one with 'fedrec client init'")
        return cls(folder)

    def settings(self) -> ClientSettings:
        """Return what ``client.toml`` says."""
        try:
            values = tomllib.loads((self.folder / "client.toml").read_text("utf-8"))
            return ClientSettings(**values)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{self.folder / 'client.toml'} can't be used: {error}") from None

    def identity(self) -> SigningIdentity:
        """Read the signing key; ``ConfigError`` if it can't be."""
        path = self.identity_file
        try:
            return SigningIdentity.from_private_bytes(path.read_bytes())
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} can't be used: {error}; restore it from a backup") from None

    def node_key(self) -> ec.EllipticCurvePrivateKey:
        """Read the key that the merchant shows to Flower; ``ConfigError`` if it can't be."""
        return _read_key(self.node_key_file)

    def next_node_key(self) -> ec.EllipticCurvePrivateKey | None:
        """Read the key that :meth:`rotate` made and the operator hasn't enrolled yet, if there is one."""
        return _read_key(self.next_node_key_file) if self.next_node_key_file.exists() else None

    def rotate(self) -> None:
        """Make a new node key beside the old, and the enrolment file anew, with the same count of units.

        The old key is used until the server has admitted the new: :meth:`adopt_next_node_key`. Raises
        ``LedgerError`` where the ledger, which holds that count, isn't there or doesn't verify.
        """
        count = self.declared_count()
        node = ec.generate_private_key(ec.SECP384R1())
        write_atomically(self.next_node_key_file, _pem(node), mode=0o600)
        self._write_enrolment(self.settings().name, self.identity(), node, count)

    def recount(self, units: int) -> Count:
        """Charge the ledger for a new noised count of so many units, and write the enrolment file with it.

        The exact number goes no further. Raises as :class:`fedrec.privacy.accounting.ledger.Ledger`
        and its ``release`` do: the daemon, which has the ledger open, must be stopped.
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
        """Return the count of units that holds, the last one that was charged.

        Raises ``LedgerError`` where the ledger isn't there or doesn't verify.
        """
        outcome, entries = read_entries(self.ledger, public=self.identity().public, verify=verify)
        found = last_count(entries)
        if not outcome.ok or found is None:
            raise LedgerError(f"the ledger does not verify: {outcome.reason}")
        return found

    def _local_policy(self) -> MerchantPolicy:
        """The rules in ``policy.toml`` alone, for what is charged before there is a server."""
        return MerchantPolicy.load(self.folder / "policy.toml")

    def _draw(self, units: int, *, unit: Unit, policy: MerchantPolicy, rng: Randomness) -> Count:
        # The entry names the rules of its time; an auditor who has only later ones could check nothing.
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
        enrolment = _enrolment(name, identity, node, count)
        write_atomically(self.folder / ENROLMENT_FILE, enrolment.canonical_bytes())

    def adopt_next_node_key(self) -> None:
        """Put the new node key in the place of the old, which is gone then."""
        write_atomically(self.node_key_file, self.next_node_key_file.read_bytes(), mode=0o600)
        self.next_node_key_file.unlink()

    def changed_server_identity(self, join: JoinFile) -> tuple[str, ...]:
        """Name what a join file says otherwise than the one kept, of what this merchant's trust hangs on."""
        if not self.has_joined:
            return ()
        kept = self.joined()
        pairs = {
            "the server's authority": (kept.authority, join.authority),
            "the server's key": (kept.server_key, join.server_key),
        }
        return tuple(name for name, (before, after) in pairs.items() if before != after)

    def approve(self, join: JoinFile) -> None:
        """Keep a join file that the merchant has confirmed, with its own key on its roster.

        Raises ``ConfigError`` if the roster has another key, or none, under this merchant's name.
        """
        name = self.settings().name
        mine = [peer for peer in join.roster if peer.name == name]
        if not mine or mine[0].signing_key != self.identity().public.hex():
            raise ConfigError(f"the join file's roster doesn't hold this merchant, '{name}', with its key")
        write_atomically(self.authority, join.authority.encode())
        write_atomically(self.folder / JOIN_FILE, join.canonical_bytes())

    @property
    def has_joined(self) -> bool:
        """Whether there is a confirmed join file."""
        return (self.folder / JOIN_FILE).is_file()

    def joined(self) -> JoinFile:
        """Return the confirmed join file; ``ConfigError`` before there is one."""
        if not self.has_joined:
            raise ConfigError("this merchant has joined no server yet: run 'fedrec client join FILE'")
        return read_file(self.folder / JOIN_FILE, JoinFile)

    @property
    def paused(self) -> bool:
        """Whether the merchant has said that it takes part in no new round for now."""
        return (self.folder / _PAUSE_FILE).exists()

    def pause(self) -> None:
        """Take part in no new round until :meth:`resume`, also after a restart."""
        write_atomically(self.folder / _PAUSE_FILE, b"", mode=0o600)

    def resume(self) -> None:
        """Take part again."""
        (self.folder / _PAUSE_FILE).unlink(missing_ok=True)

    def rules_stamp(self) -> tuple[object, ...]:
        """Return what changes with ``policy.toml``, the join file, a pause or its end."""
        stamp: list[object] = []
        for name in ("policy.toml", JOIN_FILE, _PAUSE_FILE):
            try:
                found = (self.folder / name).stat()
                stamp += [found.st_mtime_ns, found.st_size, found.st_ino]
            except OSError:
                stamp.append(None)
        return tuple(stamp)

    def note_connection(self, *, connected: bool, reason: str = "") -> None:
        """Keep how the connection to the server stands, for ``fedrec client status``."""
        at = datetime.now(UTC).isoformat(timespec="seconds")
        body = json.dumps({"connected": connected, "at": at, "reason": reason})
        # It is for a person to read: a full disk ends no connection.
        with suppress(OSError):
            write_atomically(self.folder / _CONNECTION_FILE, body.encode(), mode=0o600)

    def connection(self) -> Connection | None:
        """Return what :meth:`note_connection` kept last, if anything."""
        try:
            return Connection.model_validate_json((self.folder / _CONNECTION_FILE).read_bytes())
        except (OSError, ValueError):
            return None

    def policy(self) -> MerchantPolicy:
        """Return the merchant's rules, the confirmed roster and server among them."""
        policy = MerchantPolicy.load(self.folder / "policy.toml")
        join = self.joined()
        approved = roster_fingerprint(join.roster)
        if policy.roster_fingerprint not in (None, approved):
            raise ConfigError("policy.toml names another roster_fingerprint than that of the join file")
        if policy.server_key not in (None, join.server_key):
            raise ConfigError("policy.toml names another server_key than the join file")
        return policy.model_copy(update={"roster_fingerprint": approved, "server_key": join.server_key})


def check_name(name: str) -> None:
    """Raise ``ConfigError`` unless a merchant can have this name."""
    try:
        TypeAdapter(Name).validate_python(name)
    except ValueError:
        raise ConfigError(
            f"--name {name!r} can't be used: a merchant's name has at most 64 letters (a to z), digits, "
            "dots, hyphens or underscores"
        ) from None


def _enrolment(
    name: str, identity: SigningIdentity, node: ec.EllipticCurvePrivateKey, count: Count
) -> Enrolment:
    public = node.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    statement = Statement(
        name=name,
        signing_key=identity.public.hex(),
        node_key=public.decode("ascii"),
        unit="product" if count.unit == "product" else "record",
        size=count.size,
    )
    signature = identity.sign(statement.canonical_bytes(), context=ENROLMENT_CONTEXT).hex()
    return Enrolment(statement=statement, signature=signature)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        what = error.strerror if isinstance(error, OSError) else "it is no private key in PEM"
        raise ConfigError(f"{path} can't be used: {what}; make another with 'fedrec client rotate'") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{path} is no elliptic-curve key; make another with 'fedrec client rotate'")
    return key
