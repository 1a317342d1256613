"""Aggregation schemes by name: the package's own, and those of entry points in group ``fedrec.schemes``."""

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
    """Raise ``ConfigError`` unless a plan states of its scheme what the one installed here says of itself."""
    installed = get(plan.scheme).trust
    if plan.trust != installed:
        different = [
            f"{field} '{getattr(plan.trust, field)}', not '{getattr(installed, field)}'"
            for field in type(installed).model_fields
            if getattr(plan.trust, field) != getattr(installed, field)
        ]
        raise ConfigError(
            f"the plan states of scheme '{plan.scheme}' what the one installed here doesn't say: "
            + "; ".join(different)
        )


def create(name: str, parameters: PublicParameters) -> Scheme:
    """Make a scheme.

    Raises ``ConfigError`` for an unknown name, ``AggregationError`` for another scheme's parameters.
    """
    spec = get(name)
    if parameters.name != name:
        raise AggregationError(f"the parameters are of scheme {parameters.name}, not of {name}")
    return spec.create(parameters)


def choose_parameters(name: str, *, dimension: int, cohort: int, max_abs_sum: int) -> PublicParameters:
    """Choose a scheme's cheapest parameters for sums of ``dimension`` integers of at most ``max_abs_sum``.

    ``cohort`` is the most merchants in one sum. Raises ``ConfigError`` for an unknown name,
    ``AggregationError`` if no parameters fit.
    """
    return get(name).choose_parameters(dimension=dimension, cohort=cohort, max_abs_sum=max_abs_sum)
