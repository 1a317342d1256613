"""Plans as the verifier reads them."""

from __future__ import annotations

import json
from typing import Any

from fedrec.privacy.audit.verify.forms import read_form
from fedrec.privacy.audit.verify.plans import Plan
from fedrec.protocol.plan import TrainingPlan


def audited(plan: TrainingPlan, **changes: Any) -> Plan:
    """What the verifier reads of a plan; ``changes`` go into its JSON values, whatever they are."""
    return read_form(Plan, json.loads(plan.canonical_bytes()) | changes, what="the plan")
