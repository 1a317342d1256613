"""An audit bundle: merchants' ledgers, receipts, policies and plans in one signed JSON document.

``privacy/audit/verify.py`` says what a reader can check in it, and is the reader.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedrec.errors import ConfigError
from fedrec.privacy.accounting.accountants import Event, epsilon_pld
from fedrec.privacy.accounting.entries import Entry, finite, payload_of
from fedrec.privacy.accounting.reading import read_entries
from fedrec.privacy.identity import SigningIdentity, verify
from fedrec.protocol import Receipt, TrainingPlan

SCHEMA = "fedrec.audit/1"
CONTEXT = b"fedrec/audit/1"

CLAIMS = (
    "Each merchant's ledger is whole, in order and signed; each charge was written before anything left.",
    "Every epsilon follows from the charges' sampling rates, noise, steps and betas.",
    "Epsilon is that of the server's view, for the noise of the fewest merchants that a sum may hold, less "
    "the colluders assumed; beside it stands the one that would be left if aggregation were broken.",
)
ASSUMPTIONS = (
    "The merchants ran what they wrote down: the record can't show what code ran, or on which photos.",
    "At most the stated number of merchants side with the server, fakes included.",
    "The cryptography holds (Ed25519, SHA-256, and for the server's view the encryption of updates).",
)
EXCLUSIONS = (
    "Choosing models and settings by trial: every training is charged, but what people conclude from its "
    "results is not.",
    "Metadata: who takes part, when, how long a reply takes, and rounded sizes are visible.",
    "Metrics on merchants' photos: the software takes none; whoever publishes some adds to the loss.",
    "Copies: the same photo held by k merchants, or near-copies within one, multiply its loss.",
)


@dataclass(frozen=True)
class MerchantRecord:
    """What one merchant brings: its ledger's file, the key that signs it, and texts of its policies."""

    name: str
    public: bytes
    ledger: Path
    policies: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evidence:
    """Everything that goes into a bundle; ``attachments`` are JSON documents by name, shown and signed."""

    merchants: tuple[MerchantRecord, ...]
    plans: tuple[TrainingPlan, ...] = ()
    receipts: tuple[Receipt, ...] = ()
    server_key: str | None = None
    refusals: Mapping[str, str] = field(default_factory=dict)
    attachments: Mapping[str, Any] = field(default_factory=dict)


def build(evidence: Evidence, *, signer: SigningIdentity) -> dict[str, Any]:
    """Build and sign a bundle.

    Raises:
        ConfigError: there is no merchant.
        LedgerError: a ledger can't be read, or its chain doesn't hold: nothing is built on a broken one.

    """
    if not evidence.merchants:
        raise ConfigError("an audit needs at least one merchant's ledger")
    body = {
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "server_key": evidence.server_key,
        "plans": [plan.canonical_bytes().decode() for plan in evidence.plans],
        "merchants": [_merchant(record, evidence.receipts) for record in evidence.merchants],
        "refusals": dict(evidence.refusals),
        "attachments": dict(evidence.attachments),
        "statements": {"claims": CLAIMS, "assumptions": ASSUMPTIONS, "exclusions": EXCLUSIONS},
    }
    encoded = canonical(body)
    # As a reader will see it: tuples have become lists.
    return {
        "schema": SCHEMA,
        "body": json.loads(encoded),
        "signer": signer.public.hex(),
        "signature": signer.sign(encoded, context=CONTEXT).hex(),
    }


def canonical(value: Any) -> bytes:
    """Return the one encoding that the signature is over."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _merchant(record: MerchantRecord, receipts: Iterable[Receipt]) -> dict[str, Any]:
    outcome, entries = read_entries(record.ledger, public=record.public, verify=verify)
    if not outcome.ok:
        raise ConfigError(f"the ledger of '{record.name}' does not verify: {outcome.reason}")
    return {
        "merchant": record.name,
        "public_key": record.public.hex(),
        "policies": list(record.policies),
        "entries": [
            {"payload": payload_of(entry), "hash": entry.hash.hex(), "signature": entry.signature.hex()}
            for entry in entries
        ],
        "receipts": [
            receipt.model_dump(mode="json")
            for receipt in receipts
            if receipt.head.statement.merchant == record.name
        ],
        "summary": summarise(entries),
    }


def summarise(entries: Sequence[Entry]) -> dict[str, Any]:
    """Return the figures of a ledger that people read; None throughout for an empty one."""
    last = entries[-1] if entries else None
    charges = [entry.charge for entry in entries]
    return {
        "entries": len(entries),
        "head": None if last is None else last.hash.hex(),
        "delta": None if last is None else last.epsilons.delta,
        "epsilon_pld": None if last is None else last.epsilons.pld_after,
        "epsilon_rdp": None if last is None else last.epsilons.rdp_after,
        "epsilon_aggregation_broken": _broken(entries),
        "least_noise_multiplier": min((c.guaranteed_noise_multiplier for c in charges), default=None),
        "largest_sample_rate": max((c.sample_rate for c in charges), default=None),
        "trainings": len({c.training_id for c in charges}),
    }


def _broken(entries: Sequence[Entry]) -> float | None:
    """Epsilon by PLD of everything charged, if somebody saw every single upload in clear."""
    if not entries:
        return None
    steps: dict[tuple[float, float], int] = {}
    for entry in entries:
        event = entry.charge.event("aggregation_broken")
        kind = event.sample_rate, event.noise_multiplier
        steps[kind] = steps.get(kind, 0) + event.steps
    delta = entries[-1].epsilons.delta - sum(e.charge.beta * e.charge.steps for e in entries)
    events = [Event(rate, noise, count) for (rate, noise), count in steps.items()]
    return finite(epsilon_pld(events, delta=delta))
