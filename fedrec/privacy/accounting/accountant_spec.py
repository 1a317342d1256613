"""Define the specification that an accountant needs before it can be registered."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from fedrec.errors import ConfigError
from fedrec.privacy.accounting.events import Event

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")


class EpsilonOf(Protocol):
    """Type of a function that bounds the epsilon of composed events."""

    def __call__(self, events: Iterable[Event], *, delta: float) -> float:
        """Compose events, each of a Gaussian mechanism on Poisson-sampled records.

        Args:
            events: the noised steps and releases, in any order.
            delta: the delta that epsilon is taken at.

        Returns:
            An upper bound on the epsilon of all events together; infinite where there is no bound.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class AccountantSpec:
    """Specification of one accountant.

    Attributes:
        name: the name in reports.
        version: the method and its version, as ledgers and reports record it.
        bound: one sentence that says why the result is never below the exact epsilon.
        epsilon: the function that computes epsilon.

    Raises:
        ConfigError: an attribute is missing or has no valid value.
    """

    name: str
    version: str
    bound: str
    epsilon: EpsilonOf

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or _NAME.fullmatch(self.name) is None:
            raise ConfigError(
                "an accountant's name starts with a-z and has up to 32 of the characters a-z, 0-9, - and _, "
                f"not {self.name!r}"
            )
        for field in ("version", "bound"):
            text = getattr(self, field)
            if not isinstance(text, str) or not text.strip():
                raise ConfigError(f"accountant {self.name!r} has no {field}: its specification needs one")
        if not callable(self.epsilon):
            raise ConfigError(f"accountant {self.name!r} computes no epsilon")
