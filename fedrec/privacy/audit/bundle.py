"""Audit bundles: merchants' ledgers, receipts, policies and plans in one signed JSON document.

``verify/`` is the reader, and says what can be checked in a bundle.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fedrec._internal.moments import now_text
from fedrec.errors import ConfigError
from fedrec.privacy.accounting.code_hash import code_name
from fedrec.privacy.accounting.entry_encoding import payload_of
from fedrec.privacy.accounting.ledger_reader import read_entries, read_openings
from fedrec.privacy.audit.ledger_summary import summarise
from fedrec.privacy.audit.verify import SCHEMA, STATEMENTS
from fedrec.privacy.identity import SigningIdentity, verify
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.statements import Receipt

CONTEXT = b"fedrec/audit/1"
_SOFTWARE = ("fedrec", "dp-accounting", "numpy", "scipy", "torch", "cryptography")

Refusals = Mapping[str, Mapping[str, str] | None]
"""Reasons of refusals by place, for each recorder ("server" or a merchant); None where not collected."""


@dataclass(frozen=True)
class MerchantRecord:
    """One merchant's contribution to a bundle.

    Attributes:
        name: the merchant.
        public: its public signing key, 32 bytes.
        ledger: its ledger's file.
        policies: texts of its policies.
        discloses_data: also publish what opens the commitments to data set versions. A reader then sees which
            charges were of the same photos, so only the merchant may decide it.
    """

    name: str
    public: bytes
    ledger: Path
    policies: tuple[str, ...] = ()
    discloses_data: bool = False


@dataclass(frozen=True)
class Evidence:
    """Everything that goes into a bundle.

    Attributes:
        merchants: one record per merchant.
        plans: plans of the trainings, as far as known.
        receipts: the servers' receipts for ledger heads.
        servers: public keys of servers beside those in the plans: a merchant's lifetime may span several.
        refusals: refusals by who recorded them.
        attachments: JSON documents by name, shown and signed.
    """

    merchants: tuple[MerchantRecord, ...]
    plans: tuple[TrainingPlan, ...] = ()
    receipts: tuple[Receipt, ...] = ()
    servers: tuple[str, ...] = ()
    refusals: Refusals = field(default_factory=dict)
    attachments: Mapping[str, Any] = field(default_factory=dict)


def body_of(evidence: Evidence) -> dict[str, Any]:
    """Build a bundle's body as a reader will see it, still without pages.

    Args:
        evidence: what goes into it.

    Returns:
        The body, of JSON values.

    Raises:
        ConfigError: there is no merchant, or a ledger's chain or signatures don't hold.
        LedgerError: a ledger can't be read.
    """
    if not evidence.merchants:
        raise ConfigError("an audit needs at least one merchant's ledger")
    merchants = [_merchant(record, evidence.receipts) for record in evidence.merchants]
    dates = [json.loads(row["payload"])["created_at"] for part in merchants for row in part["entries"][-1:]]
    body = {
        # A merchant's clock may be ahead of this one; a bundle is never older than what is in it.
        "created_at": max([now_text(), *dates]),
        "servers": sorted({*evidence.servers, *(plan.server_key for plan in evidence.plans)}),
        "plans": [plan.canonical_bytes().decode() for plan in evidence.plans],
        "merchants": merchants,
        "refusals": dict(evidence.refusals),
        "attachments": dict(evidence.attachments),
        "statements": STATEMENTS,
        "software": {
            "code": code_name(),
            "python": platform.python_version(),
            **{name: version(name) for name in _SOFTWARE},
        },
        "pages": {},
    }
    found: dict[str, Any] = json.loads(canonical(body))
    return found


def seal(body: Mapping[str, Any], *, signer: SigningIdentity, pages: Mapping[str, bytes]) -> dict[str, Any]:
    """Sign a body together with the hashes of its pages, so that no page can be exchanged.

    Args:
        body: from :func:`body_of`.
        signer: the key that signs.
        pages: pages made from the body, by file name.

    Returns:
        The bundle, of JSON values.
    """
    whole = dict(body) | {"pages": {name: hashlib.sha256(page).hexdigest() for name, page in pages.items()}}
    return {
        "schema": SCHEMA,
        "body": whole,
        "signer": signer.public.hex(),
        "signature": signer.sign(canonical(whole), context=CONTEXT).hex(),
    }


def canonical(value: Any) -> bytes:
    """Return the canonical encoding that is signed."""
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
        "openings": _openings(record) if record.discloses_data else {},
        "summary": summarise(entries).model_dump(mode="json"),
    }


def _openings(record: MerchantRecord) -> dict[str, dict[str, str]]:
    return {
        str(sequence): {"salt": opening.salt.hex(), "version": opening.version}
        for sequence, opening in read_openings(record.ledger).items()
    }
