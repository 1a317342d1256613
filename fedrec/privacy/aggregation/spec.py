"""Define the specification that a scheme needs to be registered."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from fedrec.errors import ConfigError
from fedrec.privacy.aggregation.parameters import PublicParameters
from fedrec.privacy.aggregation.scheme import Scheme
from fedrec.protocol.trust import TrustModel

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class ParameterChooser(Protocol):
    """A function that chooses the cheapest parameters for the sums of a training."""

    def __call__(self, *, dimension: int, cohort: int, max_abs_sum: int) -> PublicParameters:
        """Return parameters with the scheme's name; ``AggregationError`` if none fit."""
        ...


@dataclass(frozen=True, kw_only=True)
class SchemeSpec:
    """The specification of one aggregation scheme.

    Attributes:
        name: the name on the command line and in plans and policies.
        trust: who opens sums, who can read a single update, and which epsilon holds; part of every plan.
        trust_limit: one sentence for people: whom a merchant has to trust, and with what.
        create: creates the scheme from its parameters.
        choose_parameters: chooses parameters.

    Raises:
        ConfigError: an attribute is missing or invalid.
    """

    name: str
    trust: TrustModel
    trust_limit: str
    create: Callable[[PublicParameters], Scheme]
    choose_parameters: ParameterChooser

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or _NAME.fullmatch(self.name) is None:
            raise ConfigError(f"an aggregation scheme needs a name of 1 to 64 letters, not {self.name!r}")
        if not isinstance(self.trust, TrustModel):
            raise ConfigError(
                f"aggregation scheme {self.name!r} doesn't say who can read a single update: its "
                "specification needs trust=TrustModel(...)"
            )
        if not isinstance(self.trust_limit, str) or not self.trust_limit.strip():
            raise ConfigError(
                f"aggregation scheme {self.name!r} has no text on whom a merchant has to trust: its "
                "specification needs a trust_limit"
            )
        if not callable(self.create) or not callable(self.choose_parameters):
            raise ConfigError(f"aggregation scheme {self.name!r} needs create and choose_parameters")
