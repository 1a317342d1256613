"""What a round of a plan is charged to a merchant's ledger."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from itertools import pairwise

from fedrec.privacy.accounting.code_hash import code_name
from fedrec.privacy.accounting.entries import Charge, Entry
from fedrec.privacy.derive import ADJACENCY, DUPLICATE_POLICY, Derived, reported_views, rounded_size
from fedrec.privacy.identity import SigningIdentity
from fedrec.protocol.plan import TrainingPlan


def dataset_version(identity: SigningIdentity, content_hash: bytes) -> str:
    """Return the name that a ledger gives to the records of this hash: 64 digits that tell others nothing."""
    # Ed25519 signatures are deterministic, so this key is the merchant's own and always the same.
    key = identity.sign(b"", context=b"fedrec/dataset-version/1")
    return hmac.digest(key, content_hash, "sha256").hex()


def lost_rounds(entries: Iterable[Entry], *, training_id: str, model_hash: str) -> int:
    """Return how many charged rounds of a training came to nothing, when another starts from this model.

    A sum that is opened moves the model, if by its noise alone. A round was lost if the next one that this
    merchant is asked in starts from the model that it started from. Lost rounds before one that was opened
    without this merchant aren't seen.
    """
    models = [entry.charge.model_hash for entry in entries if entry.charge.training_id == training_id]
    return sum(before == after for before, after in pairwise([*models, model_hash]))


def round_charge(
    plan: TrainingPlan,
    derived: Derived,
    *,
    round_number: int,
    model_hash: str,
    data: str,
    records: int,
    policy_hash: str,
    seeded: bool,
) -> Charge:
    """Return the charge of one round.

    ``data`` is the :func:`dataset_version` of the merchant's records, and ``records`` how many they are.
    """
    noise = derived.noise
    both = reported_views(plan, noise)
    return Charge(
        training_id=plan.training_id,
        round_number=round_number,
        model_hash=model_hash,
        mode=plan.mode,
        unit=plan.unit,
        adjacency=ADJACENCY,
        duplicate_policy=DUPLICATE_POLICY[plan.unit],
        sample_rate=plan.sample_rate,
        clip=plan.clip,
        clipping=plan.clipping,
        planned_noise_multiplier=noise.noise_multiplier,
        guaranteed_noise_multiplier=both.server,
        broken_noise_multiplier=both.aggregation_broken,
        beta=noise.beta,
        scale=noise.scale,
        dimension=noise.dimension,
        sensitivity=noise.sensitivity,
        min_contributors=plan.min_contributors,
        colluders=plan.colluders,
        delta=plan.delta,
        run=plan.nonce,
        model=plan.model,
        code=code_name(),
        policy_hash=policy_hash,
        dataset_version=data,
        size_bucket=rounded_size(records),
        seeded=seeded,
        steps=plan.local_steps,
    )
