"""Put a merchant together from its folder: keys, policy, ledger, store, photos, models and randomness."""

from __future__ import annotations

import torch

from fedrec.clients.data import build_model, photos_for
from fedrec.clients.gate import RequestGate
from fedrec.clients.home import MerchantHome
from fedrec.clients.merchant import PAUSED, Merchant
from fedrec.clients.records import TrainingData
from fedrec.clients.store import MerchantStore
from fedrec.clients.training_set import RecordTags, keeping
from fedrec.privacy.accounting.code_hash import code_hash
from fedrec.privacy.accounting.ledger import Ledger
from fedrec.privacy.identity import verify
from fedrec.privacy.randomness import Randomness
from fedrec.protocol.plan import TrainingPlan


def open_merchant(home: MerchantHome, *, device: torch.device, seed: int | None = None) -> Merchant:
    """Bring a merchant up from its folder.

    Args:
        home: the merchant's folder.
        device: where its models are trained.
        seed: makes noise, sampling and keys repeatable, and so protects nothing: for tests alone.

    Returns:
        The merchant; its ledger and its store are open, for the calling thread.

    Raises:
        ConfigError: the settings, the policy or a key can't be used.
        LedgerError: the ledger is broken, another process has it open, or this package has no source to name.

    """
    # Now, not at the first charge: by then the disk may hold another version than the one that runs.
    code_hash()
    settings = home.settings()
    name = settings.name
    policy, identity = home.policy(), home.identity()

    def randomness_for(plan: TrainingPlan, round_number: int) -> Randomness:
        if seed is None:
            return Randomness.from_os()
        return Randomness.seeded(seed, "merchant", name, round_number)

    ledger = Ledger(
        home.ledger,
        signer=identity,
        verify=verify,
        epsilon_lifetime=policy.lifetime_epsilon,
        delta_lifetime=policy.lifetime_delta,
    )
    store, tags = MerchantStore(home.store), RecordTags(identity)

    def data_for(plan: TrainingPlan) -> TrainingData:
        forgotten = store.forgotten()
        return photos_for(
            plan,
            settings.data,
            layout=settings.layout,
            device=device,
            leave_out=lambda digest: tags.tag(digest) in forgotten,
            keep=keeping(plan, tags, declared=ledger.declared(plan.unit)),
        )

    merchant = Merchant(
        name=name,
        identity=identity,
        ledger=ledger,
        store=store,
        gate=RequestGate(home.requests, merchant=name, server_key=home.joined().server_key),
        policy=policy,
        data_for=data_for,
        build_model=build_model,
        randomness_for=randomness_for,
        device=device,
    )
    if home.paused:
        merchant.suspend(PAUSED)
    return merchant
