"""What a round of a plan is charged to a merchant's ledger, and that ledger and store belong together."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from itertools import pairwise

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
    """Return the name that a merchant gives to the records of this hash, 64 digits; it never leaves it.

    A ledger's entries hold a commitment to it alone.
    """
    key = identity.own_secret(context=b"fedrec/dataset-version/1")
    return hmac.digest(key, content_hash, "sha256").hex()


def check_replies(ledger: Ledger, store: MerchantStore) -> None:
    """See that the ledger has what every stored reply came after; ``LedgerError`` if it is an older copy."""
    for kind, training_id, round_number in store.replies():
        known = ledger.has_charge if kind == "upload" else ledger.has_answer
        if not known(training_id, round_number):
            raise LedgerError(
                f"ledger: it was put back to an older state: it lacks round {round_number} of training "
                f"{training_id[:16]}, which the merchant's store has an {kind} of; put the newest copy back."
            )


def lost_rounds(entries: Iterable[Entry], *, training_id: str, model_hash: str) -> int:
    """Return how many charged rounds of a training came to nothing, when another starts from this model.

    A sum that is opened moves the model, if by its noise alone. A round was lost if the next one that this
    merchant is asked in starts from the model that it started from. Lost rounds before one that was opened
    without this merchant aren't seen.
    """
    charged = (entry.charge for entry in charges(entries))
    models = [charge.model_hash for charge in charged if charge.training_id == training_id]
    return sum(before == after for before, after in pairwise([*models, model_hash]))


def round_charge(
    plan: TrainingPlan,
    derived: Derived,
    *,
    round_number: int,
    model_hash: str,
    policy_hash: str,
    seeded: bool,
) -> Charge:
    """Return the charge of one round."""
    noise = derived.noise
    spend = derived.spend
    return Charge(
        training_id=plan.training_id,
        round_number=round_number,
        rounds=plan.rounds,
        model_hash=model_hash,
        mode=plan.mode,
        unit=plan.unit,
        adjacency=ADJACENCY,
        duplicate_policy=DUPLICATE_POLICY[plan.unit],
        sample_rate=plan.sample_rate,
        clip=plan.clip,
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
        steps=plan.local_steps,
    )
