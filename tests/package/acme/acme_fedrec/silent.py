"""A scheme that doesn't say who can read a single update."""

from __future__ import annotations

from typing import Any

from fedrec.privacy.aggregation import clear
from fedrec.privacy.aggregation.spec import SchemeSpec

_FIELDS: dict[str, Any] = {
    "name": "acme-silent",
    "trust_limit": "Trust nobody.",
    "create": clear.ClearScheme,
    "choose_parameters": clear.choose_parameters,
}
SILENT = SchemeSpec(**_FIELDS)
