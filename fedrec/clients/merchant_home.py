"""Manage a merchant's folder: its keys, its policy, its ledger, and the server that it joined."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from fedrec._internal.files import write_atomically, write_secret
from fedrec._internal.new_folders import require_new_folder
from fedrec._internal.toml_files import read_settings
from fedrec.clients.approvals_file import approve_by_hand
from fedrec.clients.identity_file import current_identity
from fedrec.clients.merchant_files import (
    ClientSettings,
    checked_name,
    make_enrolment,
    private_pem,
    settings_toml,
)
from fedrec.clients.noised_count import draw_count
from fedrec.clients.party_home import ENROLMENT_FILE as ENROLMENT_FILE
from fedrec.clients.party_home import JOIN_FILE as JOIN_FILE
from fedrec.clients.party_home import PartyHome, RecordExchange
from fedrec.clients.policy import MerchantPolicy
from fedrec.clients.policy_template import TEMPLATE
from fedrec.clients.store import MerchantStore
from fedrec.errors import ConfigError, LedgerError
from fedrec.privacy.accounting.entry_contents import Count
from fedrec.privacy.accounting.ledger import Ledger
from fedrec.privacy.accounting.ledger_creation import create_ledger
from fedrec.privacy.accounting.ledger_entries import last_count, rotations
from fedrec.privacy.accounting.ledger_reader import ends_with_key, in_use, read_entries
from fedrec.privacy.identity import SigningIdentity, verify
from fedrec.privacy.randomness import Randomness
from fedrec.protocol.enrolment import Enrolment, JoinFile
from fedrec.protocol.plan import Unit
from fedrec.protocol.roster_statements import MAX_OWN_ROTATIONS
from fedrec.vision.folders import Layout
from fedrec.vision.listing.photo_places import PhotoPlace

_DELTA = 1e-5
"""The delta at which the cost of a count is stated if the policy has no lifetime delta."""


@dataclass(frozen=True)
class MerchantHome(PartyHome):
    """A merchant's folder, which :meth:`create` makes, and the paths of its files."""

    @property
    def ledger(self) -> Path:
        """The lifetime ledger."""
        return self.folder / "ledger.sqlite"

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
        name = cls.check_new(folder, name)
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
        made = home._enrolment_of(name, identity, node, count)
        write_atomically(folder / ENROLMENT_FILE, made.canonical_bytes())
        write_atomically(folder / "client.toml", settings)
        return home

    @staticmethod
    def check_new(folder: Path, name: str) -> str:
        """Check that a merchant can be made, before its photos are read.

        Args:
            folder: the merchant's folder, still to make.
            name: the merchant's name.

        Returns:
            The name as it is kept.

        Raises:
            ConfigError: the name is not valid, or the folder is not empty.
        """
        if (folder / "client.toml").is_file():
            raise ConfigError(
                f"--home {folder} holds a merchant already, whose keys and ledger stay: choose a new folder "
                "for another one"
            )
        require_new_folder(folder, party="merchant")
        return checked_name(name)

    @classmethod
    def open(cls, folder: Path) -> MerchantHome:
        """Open a folder that :meth:`create` made; raise ``ConfigError`` for any other folder."""
        if not (folder / "client.toml").is_file():
            # What init writes before it: without it no merchant was ever here, and nothing was published.
            if (folder / ENROLMENT_FILE).exists():
                raise ConfigError(
                    f"{folder / 'client.toml'} is missing: put it back from a backup, with the folder's "
                    "other files as they are"
                )
            raise ConfigError(f"{folder} holds no merchant: create one with 'fedrec client init'")
        return cls(folder)

    def settings(self) -> ClientSettings:
        """Read ``client.toml``; raise ``ConfigError`` if it can't be used."""
        return read_settings(self.folder / "client.toml", ClientSettings)

    def identity(self) -> SigningIdentity:
        """Read the signing key; raise ``ConfigError`` if it can't be used."""
        return current_identity(
            self.identity_file,
            waiting=self.next_identity_file,
            is_recorded=lambda public: ends_with_key(self.ledger, public),
        )

    @property
    def name(self) -> str:
        """The merchant's name; ``ConfigError`` if its settings can't be used."""
        return self.settings().name

    @property
    def in_use(self) -> bool:
        """Whether a process has the ledger open, such as the daemon."""
        return in_use(self.ledger)

    @contextmanager
    def record_exchange(self, old: SigningIdentity) -> Iterator[RecordExchange]:
        """Open the ledger, which records exchanges of the identity key.

        Args:
            old: the present identity.

        Yields:
            What records an exchange.

        Raises:
            LedgerError: the ledger is damaged, or another process has it open.
        """
        with Ledger(self.ledger, signer=old, verify=verify) as ledger:
            yield lambda signed, new: ledger.rotate(signed, signer=new)

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
        write_atomically(self.folder / ENROLMENT_FILE, self._enrolment(node).canonical_bytes())
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

    def _enrolment(self, node: ec.EllipticCurvePrivateKey) -> Enrolment:
        return self._enrolment_of(self.name, self.identity(), node, self.declared_count())

    def _enrolment_of(
        self, name: str, identity: SigningIdentity, node: ec.EllipticCurvePrivateKey, count: Count
    ) -> Enrolment:
        _, entries = read_entries(self.ledger, public=identity.public, verify=verify)
        exchanged = tuple(rotation.signed for rotation in rotations(entries))
        return make_enrolment(name, identity, node, count, rotations=exchanged[-MAX_OWN_ROTATIONS:])

    def approve(self, join: JoinFile) -> None:
        """Store a join file that the merchant has confirmed.

        Raises:
            ConfigError: the roster doesn't have this merchant's key under its name.
        """
        self.check_listed(join)
        approve_by_hand(self.folder, join, before=self.joined() if self.has_joined else None)
        self.keep_join_file(join)

    def check_listed(self, join: JoinFile) -> None:
        """Raise ``ConfigError`` unless a join file's roster has this merchant with its key."""
        name = self.settings().name
        mine = [peer for peer in join.roster if peer.name == name]
        if not mine or mine[0].signing_key != self.identity().public.hex():
            raise ConfigError(
                f"the join file's roster doesn't list this merchant, '{name}', with its key: give "
                f"{self.folder / ENROLMENT_FILE} to the operator, and ask for the join file that is made then"
            )

    def policy(self) -> MerchantPolicy:
        """Read the merchant's rules, with the roster and the server of the confirmed join file.

        Returns:
            The rules.

        Raises:
            ConfigError: ``policy.toml`` or the join file can't be used, or they contradict each other.
        """
        policy = self._local_policy()
        approved = self.approved(
            roster_fingerprint_rule=policy.roster_fingerprint, server_key_rule=policy.server_key
        )
        return policy.model_copy(update=asdict(approved))
