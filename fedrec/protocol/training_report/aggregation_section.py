"""Define the section of a training's report on secure aggregation."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from fedrec.protocol.schema import Strict
from fedrec.protocol.training_report.values import Amount, Count, Share
from fedrec.protocol.trust import TrustModel


class AggregationSection(Strict):
    """How sums were encrypted and opened.

    Attributes:
        scheme: the aggregation scheme.
        trust: who opens sums, and who can read a single update.
        trust_limit: the scheme's own sentence on whom a merchant has to trust.
        threshold: how many members of the committee open a sum.
        committee: size of the committee.
        corrupt_members: how many of them may be on the server's side.
        witnesses: names of the members that have no photos.
        corrupt_witnesses: how many of these may be on the server's side.
        seat_risk: chance that more seats than allowed for are on the server's side.
        min_contributors: the smallest number of uploads in a sum that is opened.
        noise_levels: numbers of contributors whose surplus noise can be removed.
        value_bits: bits of a packed value.
        ring_degree: degree of the ring; 0 without encryption.
        modulus_bits: bits of the modulus.
        upload_bytes_per_parameter: the largest upload over the number of parameters.
        seconds_encrypt: CPU seconds of all merchants together; None if that isn't known.
        seconds_unmask: seconds of opening sums, all rounds together.
    """

    scheme: str
    trust: TrustModel
    trust_limit: str
    threshold: Count
    committee: Count
    corrupt_members: Count
    witnesses: tuple[str, ...]
    corrupt_witnesses: Count
    seat_risk: Share
    min_contributors: Annotated[int, Field(ge=1)]
    noise_levels: tuple[int, ...]
    value_bits: Count
    ring_degree: Count
    modulus_bits: Count
    upload_bytes_per_parameter: Amount
    seconds_encrypt: Amount | None
    seconds_unmask: Amount
