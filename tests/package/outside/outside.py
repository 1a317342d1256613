"""Schemes and accountants of a package that is not fedrec's: ``kahe`` and ``none`` under other names."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from fedrec.errors import AggregationError
from fedrec.privacy.accounting.accountant_spec import AccountantSpec
from fedrec.privacy.accounting.events import Event
from fedrec.privacy.aggregation import clear, kahe
from fedrec.privacy.aggregation.parameters import PublicParameters, SchemeParameters
from fedrec.privacy.aggregation.spec import SchemeSpec
from fedrec.protocol.trust import TrustModel


def _renamed(parameters: PublicParameters, name: str) -> SchemeParameters:
    if not isinstance(parameters, SchemeParameters):
        raise AggregationError("these parameters are of another scheme")
    return replace(parameters, name=name)


class Committee(kahe.KaheScheme):
    name = "outside-committee"

    def __init__(self, parameters: PublicParameters) -> None:
        super().__init__(_renamed(parameters, kahe.NAME))
        self.parameters = _renamed(parameters, self.name)


class Clear(clear.ClearScheme):
    name = "outside-clear"

    def __init__(self, parameters: PublicParameters) -> None:
        super().__init__(_renamed(parameters, clear.NAME))
        self.parameters = _renamed(parameters, self.name)


def _committee_parameters(*, dimension: int, cohort: int, max_abs_sum: int) -> SchemeParameters:
    chosen = kahe.choose_parameters(dimension=dimension, cohort=cohort, max_abs_sum=max_abs_sum)
    return _renamed(chosen, Committee.name)


def _clear_parameters(*, dimension: int, cohort: int, max_abs_sum: int) -> SchemeParameters:
    chosen = clear.choose_parameters(dimension=dimension, cohort=cohort, max_abs_sum=max_abs_sum)
    return _renamed(chosen, Clear.name)


COMMITTEE = SchemeSpec(
    name=Committee.name,
    trust=TrustModel(opened_by="committee", reads_single_updates="nobody_below_threshold", epsilon_of="sum"),
    trust_limit="A threshold of the committee can open single updates.",
    create=Committee,
    choose_parameters=_committee_parameters,
)
CLEAR = SchemeSpec(
    name=Clear.name,
    trust=TrustModel(opened_by="nobody", reads_single_updates="server", epsilon_of="share"),
    trust_limit="The server reads everything.",
    create=Clear,
    choose_parameters=_clear_parameters,
)


def _without_sampling(events: Iterable[Event], *, delta: float) -> float:
    """Leave out what sampling gains: the steps are one Gaussian mechanism, by Mironov 2017."""
    inverse = sum(event.steps / event.noise_multiplier**2 for event in events)
    return inverse / 2 + math.sqrt(2 * inverse * math.log(1 / delta))


def _hopeful(events: Iterable[Event], *, delta: float) -> float:
    return 0.01


WHOLE_ORDERS = AccountantSpec(
    name="whole-orders",
    version="without sampling, outside/1",
    bound="Sampling only lowers the divergence, and the best order of a Gaussian's is known.",
    epsilon=_without_sampling,
)
HOPEFUL = AccountantSpec(name="hopeful", version="outside/1", bound="It would be nice.", epsilon=_hopeful)
