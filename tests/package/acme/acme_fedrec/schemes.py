"""The schemes ``kahe`` and ``none`` under other names."""

from __future__ import annotations

from dataclasses import replace

from fedrec.errors import AggregationError
from fedrec.privacy.aggregation import clear, kahe
from fedrec.privacy.aggregation.parameters import PublicParameters, SchemeParameters
from fedrec.privacy.aggregation.spec import SchemeSpec
from fedrec.protocol.trust import TrustModel


def _renamed(parameters: PublicParameters, name: str) -> SchemeParameters:
    if not isinstance(parameters, SchemeParameters):
        raise AggregationError("these parameters are of another scheme")
    return replace(parameters, name=name)


class Committee(kahe.KaheScheme):
    name = "acme-committee"

    def __init__(self, parameters: PublicParameters) -> None:
        super().__init__(_renamed(parameters, kahe.NAME))
        self.parameters = _renamed(parameters, self.name)


class Clear(clear.ClearScheme):
    name = "acme-clear"

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
