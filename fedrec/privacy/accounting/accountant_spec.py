"""What an accountant has to say of itself before it can be registered."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from fedrec.errors import ConfigError
from fedrec.privacy.accounting.events import Event

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")


class EpsilonOf(Protocol):
    """Returns an upper bound on the epsilon of all ``events`` together at ``delta``, infinite for none."""

    def __call__(self, events: Iterable[Event], *, delta: float) -> float:
        """Compose the events, each of a Gaussian mechanism on records sampled by Poisson."""
        ...


@dataclass(frozen=True, kw_only=True)
class AccountantSpec:
    """One accountant.

    Attributes:
        name: as in reports.
        version: what it computes and how, as ledgers and reports record it.
        bound: in one sentence, why its figure is never below the exact epsilon.
        epsilon: computes it.

    Raises:
        ConfigError: one of these is missing or of no use.
    """

    name: str
    version: str
    bound: str
    epsilon: EpsilonOf

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or _NAME.fullmatch(self.name) is None:
            raise ConfigError(f"an accountant needs a name of small letters and digits, not {self.name!r}")
        for field in ("version", "bound"):
            said = getattr(self, field)
            if not isinstance(said, str) or not said.strip():
                raise ConfigError(f"accountant {self.name!r} has no {field}: its specification needs one")
        if not callable(self.epsilon):
            raise ConfigError(f"accountant {self.name!r} computes no epsilon")
