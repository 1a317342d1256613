"""Compute what a round is charged to a merchant's ledger, and check the ledger against the store."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from itertools import pairwise

from fedrec.clients.identity_file import DATASET_VERSION_CONTEXT
from fedrec.clients.store import MerchantStore
from fedrec.errors import LedgerError
from fedrec.privacy.accounting.code_hash import code_name
from fedrec.privacy.accounting.entry_contents import Charge
from fedrec.privacy.accounting.ledger import Ledger
from fedrec.privacy.accounting.ledger_entries import Entry, charges
from fedrec.privacy.derived_parameters import ADJACENCY, DUPLICATE_POLICY, Derived
from fedrec.privacy.identity import SigningIdentity
from fedrec.protocol.plan import TrainingPlan


def dataset_version(identity: SigningIdentity, content_hash: bytes) -> str:
    """Return the merchant's keyed hash of its records.

    The version stays in the merchant's folder; ledger entries contain only a commitment to it.

    Args:
        identity: the merchant's signing identity, from which the key is derived.
        content_hash: hash of the records' digests, 32 bytes.

    Returns:
        The dataset version, 64 hexadecimal digits.
    """
    key = identity.own_secret(context=DATASET_VERSION_CONTEXT)
    return hmac.digest(key, content_hash, "sha256").hex()


def check_replies(ledger: Ledger, store: MerchantStore) -> None:
    """Check that the ledger has the entry that was written before each stored reply.

    Args:
        ledger: the open ledger.
        store: the open store of the same merchant.

    Raises:
        LedgerError: an entry is missing, so the ledger is an older copy than the store.
    """
    for kind, training_id, round_number in store.replies():
        known = ledger.has_charge if kind == "upload" else ledger.has_answer
        if not known(training_id, round_number):
            raise LedgerError(
                f"ledger: it was restored to an older state: it has no entry for round {round_number} of "
                f"training {training_id[:16]}, but the store has its {kind}; restore the newest copy."
            )


def lost_rounds(entries: Iterable[Entry], *, training_id: str, model_hash: str) -> int:
    """Count the charged rounds of a training whose sum was never opened.

    An opened sum always changes the model, because it contains noise. A round was therefore lost if the next
    round in which this merchant takes part starts from the same model. The count misses lost rounds that were
    followed by an opened round without this merchant.

    Args:
        entries: the ledger's entries.
        training_id: the training.
        model_hash: hash of the model from which the requested round starts.

    Returns:
        The number of lost rounds that this merchant can see.
    """
    charged = (entry.charge for entry in charges(entries))
    models = [charge.model_hash for charge in charged if charge.training_id == training_id]
    return sum(before == after for before, after in pairwise([*models, model_hash]))


def figures_charge(plan: TrainingPlan, derived: Derived, charge: Charge) -> Charge | None:
    """Build the charge of a plan's site figures.

    Args:
        plan: the training's plan.
        derived: the parameters derived from the plan.
        charge: a charge of a round, with the same model, policy and source of noise.

    Returns:
        The charge; None where the plan asks for none.
    """
    if plan.site_figures is None:
        return None
    return round_charge(
        plan,
        derived,
        round_number=plan.last_round,
        model_hash=charge.model_hash,
        policy_hash=charge.policy_hash,
        seeded=charge.seeded,
    )


def round_charge(
    plan: TrainingPlan,
    derived: Derived,
    *,
    round_number: int,
    model_hash: str,
    policy_hash: str,
    seeded: bool,
) -> Charge:
    """Build the ledger charge of one round, of the training or of its site figures.

    Args:
        plan: the training's plan.
        derived: the parameters derived from the plan.
        round_number: the round.
        model_hash: hash of the model from which the round starts.
        policy_hash: hash of the policy in force.
        seeded: whether the merchant's noise comes from a seed.

    Returns:
        The charge.
    """
    charged = derived.of_round(round_number)
    noise, spend = charged.noise, charged.spend
    return Charge(
        training_id=plan.training_id,
        round_number=round_number,
        rounds=plan.rounds,
        model_hash=model_hash,
        mode=plan.mode,
        unit=plan.unit,
        adjacency=ADJACENCY,
        duplicate_policy=DUPLICATE_POLICY[plan.unit],
        sample_rate=noise.sample_rate,
        clip=noise.clip,
        clipping=plan.clipping,
        planned_noise_multiplier=noise.noise_multiplier,
        guaranteed_noise_multiplier=spend.multiplier,
        broken_noise_multiplier=spend.broken_multiplier,
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
        seeded=seeded,
        steps=noise.local_steps,
    )
