"""Build a merchant from its folder: keys, policy, ledger, store, photos, models and randomness."""

from __future__ import annotations

from collections.abc import Callable

import torch

from fedrec.clients.activity import Doing
from fedrec.clients.context import LocalResources, MerchantContext
from fedrec.clients.merchant import Merchant
from fedrec.clients.merchant_home import MerchantHome
from fedrec.clients.plan_resources import build_model, load_photos
from fedrec.clients.policy import MerchantPolicy
from fedrec.clients.record_tags import RecordTags, record_filter
from fedrec.clients.records import TrainingData
from fedrec.clients.refusals import PAUSED
from fedrec.clients.request_gate import RequestGate
from fedrec.clients.roster_updates import RosterFollower
from fedrec.clients.store import MerchantStore
from fedrec.privacy.accounting.code_hash import code_hash
from fedrec.privacy.accounting.ledger import Ledger
from fedrec.privacy.identity import verify
from fedrec.privacy.randomness import Randomness
from fedrec.protocol.plan import TrainingPlan
from fedrec.vision import model_registry


def open_merchant(
    home: MerchantHome,
    *,
    device: torch.device,
    seed: int | None = None,
    tell: Callable[..., None] = lambda doing, done=0, total=0: None,
) -> Merchant:
    """Build the merchant of a daemon from its folder.

    Args:
        home: the merchant's folder.
        device: the device on which models are trained.
        seed: makes noise, sampling and keys repeatable. Seeded noise protects nothing: use it in tests only.
        tell: told what is done, as by :meth:`fedrec.clients.activity.ActivityLog.tell`.

    Returns:
        The merchant. Its ledger and its store are open, and usable by the calling thread only.

    Raises:
        ConfigError: the settings, the policy or a key can't be used.
        LedgerError: the ledger is damaged, another process has it open, or the source of this package can't
            be hashed.
    """
    settings = home.settings()

    def randomness_for(plan: TrainingPlan, round_number: int) -> Randomness:
        return merchant_randomness(seed, settings.name, round_number)

    def data_for(plan: TrainingPlan) -> TrainingData:
        forgotten, tags = context.store.forgotten(), RecordTags(context.identity)
        fixed = context.store.fixed_set(plan.training_id)
        tell("photos")
        spec = model_registry.get_exact(plan.model, plan.model_code)
        on_frozen_networks = spec.features is not None or spec.tokens is not None
        computing: Doing = "features" if on_frozen_networks else "photos"
        return load_photos(
            plan,
            settings.place,
            layout=settings.layout,
            device=device,
            leave_out=lambda digest: tags.tag(digest) in forgotten,
            keep=record_filter(plan, tags, declared=context.ledger.declared(plan.unit), fixed=fixed),
            progress=lambda done, total: tell(computing, done, total),
        )

    context = open_context(
        home,
        name=settings.name,
        server_key=home.joined().server_key,
        policy=home.policy(),
        resources=LocalResources(
            data_for=data_for, build_model=build_model, randomness_for=randomness_for, device=device
        ),
    )
    context.rosters = RosterFollower(home)
    merchant = Merchant(context)
    if home.paused:
        merchant.suspend(PAUSED)
    return merchant


def open_context(
    home: MerchantHome, *, name: str, server_key: str, policy: MerchantPolicy, resources: LocalResources
) -> MerchantContext:
    """Open the ledger, the store and the request gate of a merchant's folder.

    Args:
        home: the merchant's folder.
        name: the merchant's name on the roster.
        server_key: the Ed25519 public key of the server whose requests are accepted, 64 hexadecimal digits.
        policy: the merchant's rules.
        resources: loads records, builds models and draws randomness.

    Returns:
        The merchant's context. Its ledger and its store are open, and usable by the calling thread only.

    Raises:
        ConfigError: the identity key can't be used.
        LedgerError: the ledger is damaged, another process has it open, or the source of this package can't
            be hashed.
    """
    # The hash is computed now, not at the first charge: by then the files may differ from the running code.
    code_hash()
    identity = home.identity()
    ledger = Ledger(
        home.ledger,
        signer=identity,
        verify=verify,
        epsilon_lifetime=policy.lifetime_epsilon,
        delta_lifetime=policy.lifetime_delta,
    )
    return MerchantContext(
        name=name,
        identity=identity,
        ledger=ledger,
        store=MerchantStore(home.store),
        gate=RequestGate(home.requests, merchant=name, server_key=server_key),
        policy=policy,
        resources=resources,
    )


def merchant_randomness(seed: int | None, name: str, round_number: int) -> Randomness:
    """Return the randomness of a merchant's round.

    Args:
        seed: for a simulation's repeatable stream, which protects nothing; None for the operating system's.
        name: the merchant's name.
        round_number: the round.

    Returns:
        The stream.
    """
    if seed is None:
        return Randomness.from_os()
    return Randomness.seeded(seed, "merchant", name, round_number)
