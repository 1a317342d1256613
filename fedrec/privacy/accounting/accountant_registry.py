"""Accountants by name: the package's own, and those of entry points in group ``fedrec.accountants``.

The headline is the one whose figure is proved for the noise that merchants draw, and ledgers rest on it. All
others are cross-checks beside it in a training's report: none can lower what is claimed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from fedrec._internal.registry import Registry
from fedrec.privacy.accounting import pld, rdp
from fedrec.privacy.accounting.accountant_spec import AccountantSpec
from fedrec.privacy.accounting.privacy_spend import PrivacySpend

HEADLINE: Final = pld.SPEC
_BUILTIN: Final = (HEADLINE, rdp.SPEC)
REGISTRY: Final = Registry(AccountantSpec, what="accountant", group="fedrec.accountants", builtin=_BUILTIN)
_EXCESS = 1.01
"""The headline errs upward by at most so much, so that no upper bound lies further below it."""


def ledger_accountants() -> str:
    """Name the accountants that a ledger's figures rest on, with versions, as its entries record them."""
    return _named(_BUILTIN)


def report_accountants() -> str:
    """Name all installed accountants with their versions."""
    return _named([REGISTRY.get(name) for name in REGISTRY.names()])


def cross_checks(spend: PrivacySpend) -> Mapping[str, float]:
    """Return the epsilon of a spend by every accountant but the headline, server's view, by their names.

    Infinite where there is no guarantee. Raises ``ConfigError`` where an installed one can't be used.
    """
    others = (REGISTRY.get(name) for name in REGISTRY.names())
    return {spec.name: spend.epsilon(by=spec.epsilon) for spec in others if spec is not HEADLINE}


def contradicts(epsilon: float, *, headline: float) -> bool:
    """Whether a cross-check lies below the headline by more than that errs: one of the two is no bound."""
    return epsilon * _EXCESS < headline


def _named(specs: Iterable[AccountantSpec]) -> str:
    return "; ".join(f"{spec.name} {spec.version}" for spec in specs)
