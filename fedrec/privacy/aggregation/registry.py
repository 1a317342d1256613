"""Aggregation schemes by name; a new scheme is one module and one line here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from fedrec.errors import AggregationError, ConfigError
from fedrec.privacy.aggregation import ckks, clear, kahe
from fedrec.privacy.aggregation.parameters import PublicParameters
from fedrec.privacy.aggregation.scheme import Scheme

Opener = Literal["nobody", "committee", "holder"]
"""Who has to answer before a sum opens; see :mod:`fedrec.privacy.aggregation.scheme`."""


class _Chooser(Protocol):
    def __call__(self, *, dimension: int, cohort: int, max_abs_sum: int) -> PublicParameters: ...


@dataclass(frozen=True)
class _Entry:
    create: Callable[[PublicParameters], Scheme]
    choose: _Chooser
    opener: Opener


_SCHEMES = {
    kahe.NAME: _Entry(create=kahe.KaheScheme, choose=kahe.choose_parameters, opener="committee"),
    ckks.NAME: _Entry(create=ckks.CkksScheme, choose=ckks.choose_parameters, opener="holder"),
    clear.NAME: _Entry(create=clear.ClearScheme, choose=clear.choose_parameters, opener="nobody"),
}


def names() -> tuple[str, ...]:
    """Return the names of all schemes, the default first."""
    return tuple(_SCHEMES)


def _entry(name: str) -> _Entry:
    if name not in _SCHEMES:
        raise ConfigError(f"there is no aggregation scheme {name!r}; choose one of {', '.join(names())}")
    return _SCHEMES[name]


def opener(name: str) -> Opener:
    """Return who opens a scheme's sums. Raises ``ConfigError`` for an unknown name."""
    return _entry(name).opener


def create(name: str, parameters: PublicParameters) -> Scheme:
    """Make a scheme.

    Raises ``ConfigError`` for an unknown name, ``AggregationError`` for another scheme's parameters.
    """
    entry = _entry(name)
    if parameters.name != name:
        raise AggregationError(f"the parameters are of scheme {parameters.name}, not of {name}")
    return entry.create(parameters)


def choose_parameters(name: str, *, dimension: int, cohort: int, max_abs_sum: int) -> PublicParameters:
    """Choose a scheme's cheapest parameters for sums of ``dimension`` integers of at most ``max_abs_sum``.

    ``cohort`` is the most merchants in one sum. Raises ``ConfigError`` for an unknown name,
    ``AggregationError`` if no parameters fit.
    """
    return _entry(name).choose(dimension=dimension, cohort=cohort, max_abs_sum=max_abs_sum)
