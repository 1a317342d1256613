"""Look up aggregation schemes by name: built in, or from entry points in group ``fedrec.schemes``."""

from __future__ import annotations

from fedrec._internal.registry import Registry
from fedrec.errors import AggregationError, ConfigError
from fedrec.privacy.aggregation import ckks, clear, kahe
from fedrec.privacy.aggregation.parameters import PublicParameters
from fedrec.privacy.aggregation.scheme import Scheme
from fedrec.privacy.aggregation.spec import SchemeSpec
from fedrec.protocol.plan import TrainingPlan

GROUP = "fedrec.schemes"
_REGISTRY = Registry(
    SchemeSpec, what="aggregation scheme", group=GROUP, builtin=(kahe.SPEC, ckks.SPEC, clear.SPEC)
)


def names() -> tuple[str, ...]:
    """Return the names of all schemes, the default first."""
    return _REGISTRY.names()


def get(name: str) -> SchemeSpec:
    """Return a scheme's specification; ``ConfigError`` for one that is unknown or can't be used."""
    return _REGISTRY.get(name)


def check_trust(plan: TrainingPlan) -> None:
    """Check that a plan's trust model is that of the installed scheme; ``ConfigError`` if they differ."""
    installed = get(plan.scheme).trust
    if plan.trust != installed:
        different = [
            f"{field} '{getattr(plan.trust, field)}', not '{getattr(installed, field)}'"
            for field in type(installed).model_fields
            if getattr(plan.trust, field) != getattr(installed, field)
        ]
        raise ConfigError(
            f"the plan's trust model of scheme '{plan.scheme}' differs from the installed scheme's: "
            + "; ".join(different)
        )


def create(name: str, parameters: PublicParameters) -> Scheme:
    """Create a scheme.

    Args:
        name: the scheme's name.
        parameters: its public parameters.

    Returns:
        The scheme.

    Raises:
        ConfigError: the name is unknown.
        AggregationError: the parameters are of another scheme.
    """
    spec = get(name)
    if parameters.name != name:
        raise AggregationError(f"the parameters are of scheme {parameters.name}, not of {name}")
    return spec.create(parameters)


def choose_parameters(name: str, *, dimension: int, cohort: int, max_abs_sum: int) -> PublicParameters:
    """Choose the cheapest parameters of a scheme.

    Args:
        name: the scheme's name.
        dimension: integers per merchant.
        cohort: most merchants in one sum.
        max_abs_sum: bound on the absolute value of every coordinate of a sum.

    Returns:
        The parameters.

    Raises:
        ConfigError: the name is unknown.
        AggregationError: no parameters fit.
    """
    return get(name).choose_parameters(dimension=dimension, cohort=cohort, max_abs_sum=max_abs_sum)
