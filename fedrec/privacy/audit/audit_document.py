"""The document that people read of an audit bundle's body, for HTML and PDF."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedrec._internal.moments import moment
from fedrec._internal.text import counted
from fedrec.privacy.audit.attack_results import attack_sections, attacks_not_tried
from fedrec.privacy.audit.budgets import budgets_by_merchant, budgets_by_training, headline_figures
from fedrec.privacy.audit.bundled_ledger import BundledLedger
from fedrec.privacy.audit.exposure_sections import party_views_section, refusals_section, warnings_section
from fedrec.privacy.audit.guarantee import alarms, guarantee_blocks
from fedrec.privacy.audit.provenance import keys_section, software_section
from fedrec.privacy.audit.timeline import timeline
from fedrec.protocol.plan import TrainingPlan
from fedrec.report.document import Bullets, Document, Section

TITLE = "fedrec: privacy audit"


def audit_document(body: Mapping[str, Any], *, signer: str) -> Document:
    """Lay out a bundle's body, top to bottom.

    Args:
        body: from :func:`fedrec.privacy.audit.bundle.body_of`.
        signer: the public key that will sign it, hexadecimal.

    Returns:
        The document.
    """
    ledgers = [BundledLedger.read(merchant) for merchant in body["merchants"]]
    every = [TrainingPlan.model_validate_json(text) for text in body["plans"]]
    plans = {plan.training_id: plan for plan in every}
    said = body["statements"]
    costs = {ledger.name: ledger.costs for ledger in ledgers}
    caps = {ledger.name: ledger.cap for ledger in ledgers}
    held = counted(len(ledgers), "ledger")
    return Document(
        title=TITLE,
        subtitle=f"{held}; made at {moment(body['created_at'])}",
        blocks=(
            *alarms(ledgers, plans),
            *headline_figures(ledgers),
            Section("The guarantee", tuple(guarantee_blocks(ledgers, plans))),
            budgets_by_merchant(ledgers),
            Section("Over time", (timeline(costs, caps),)),
            *budgets_by_training(ledgers, plans),
            *party_views_section(plans, ledgers),
            Section("Threat model", (Bullets(tuple(said["threat_model"])),)),
            *refusals_section(body["refusals"]),
            *warnings_section(body["attachments"].get("report")),
            *attack_sections(body["attachments"]),
            Section("What is claimed", (Bullets(tuple(said["claims"])),)),
            Section("What is assumed", (Bullets(tuple(said["assumptions"])),)),
            Section(
                "What is not covered",
                (Bullets(tuple(said["exclusions"])), *attacks_not_tried(body["attachments"])),
            ),
            software_section(body["software"], ledgers),
            keys_section(body, ledgers, signer=signer),
        ),
    )
