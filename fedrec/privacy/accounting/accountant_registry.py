"""List the accountants by name: the package's own, and those of entry point group ``fedrec.accountants``.

The headline accountant is PLD. Its epsilon is proved for the noise that merchants draw, and reports and
ledgers claim it. The others are cross-checks in a training's report; none of them can lower the claimed
epsilon.
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
"""The headline is at most this factor above the exact epsilon, so no upper bound is further below it."""


def ledger_accountants() -> str:
    """Name the accountants behind a ledger's epsilons, with versions, as its entries record them."""
    return _named(_BUILTIN)


def report_accountants() -> str:
    """Name all installed accountants with their versions."""
    return _named([REGISTRY.get(name) for name in REGISTRY.names()])


def cross_checks(spend: PrivacySpend) -> Mapping[str, float]:
    """Compute the epsilon of a spend by every accountant but the headline, in the server's view.

    Args:
        spend: the noised steps, releases and delta.

    Returns:
        Epsilon by the accountant's name; infinite where there is no guarantee.

    Raises:
        ConfigError: an installed accountant can't be used.
    """
    others = (REGISTRY.get(name) for name in REGISTRY.names())
    return {spec.name: spend.epsilon(by=spec.epsilon) for spec in others if spec is not HEADLINE}


def contradicts(epsilon: float, *, headline: float) -> bool:
    """Tell whether a cross-check contradicts the headline.

    The headline is at most 1% above the exact epsilon. A cross-check further below it than that proves that
    one of the two is not an upper bound.

    Args:
        epsilon: the cross-check's epsilon.
        headline: the headline's epsilon for the same spend.

    Returns:
        True if the two can't both be upper bounds.
    """
    return epsilon * _EXCESS < headline


def _named(specs: Iterable[AccountantSpec]) -> str:
    return "; ".join(f"{spec.name} {spec.version}" for spec in specs)
