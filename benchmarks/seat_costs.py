"""Measure what the seats of a committee cost, with and without witnesses; for ``secure_aggregation.py``.

The committee's numbers are the planner's own defaults. What a merchant deals and seals, and what a member
adds, depends on the seats and on the ring's degree, not on the size of the model: it is measured once for
each cohort.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from flare_ckks import VALUE_BITS
from measure import cpu_seconds

from fedrec.clients.unmasking import right_sum
from fedrec.privacy.aggregation import curve, dealing, ring, scalar_sharing, scheme_registry
from fedrec.privacy.aggregation.parameters import SchemeParameters
from fedrec.privacy.aggregation.scheme import CommitteeScheme, KeyMaterial
from fedrec.privacy.aggregation.seats import Seats, choose_seats
from fedrec.privacy.aggregation.wire import ciphertext_bytes
from fedrec.privacy.identity import SEAL_OVERHEAD, SealingKey, seal
from fedrec.privacy.randomness import Randomness
from fedrec.server.cohort_defaults import default_colluders

COHORTS = (3, 10, 100)
WITNESSES = (0, 5)


def kahe_parameters(dimension: int, clients: int) -> SchemeParameters:
    """Choose the scheme's parameters for values of 16 bits."""
    found = scheme_registry.choose_parameters(
        "kahe", dimension=dimension, cohort=clients, max_abs_sum=clients << (VALUE_BITS - 1)
    )
    if not isinstance(found, SchemeParameters):
        raise TypeError("kahe has other parameters than expected")
    return found


def seats_of(clients: int, witnesses: int) -> Seats:
    """Choose the committee as the planner does."""
    return choose_seats(cohort=clients, colluders=default_colluders(clients), witnesses=witnesses)


def seat_rows(dimension: int) -> Iterator[dict[str, Any]]:
    """Yield a row for each cohort, without witnesses and with five."""
    for clients in COHORTS:
        for witnesses in WITNESSES:
            yield seat_row(dimension, clients=clients, witnesses=witnesses)


def seat_row(dimension: int, *, clients: int, witnesses: int) -> dict[str, Any]:
    """Return the cost of one committee.

    ``deal_s`` is a merchant's, for its key of one round: shares, commitments and sealed boxes, which
    ``share_s``, ``commit_s`` and ``box_s`` take apart. ``member_s`` and the member's bytes are for opening
    the sum of the whole cohort, a member's and a witness's alike. ``server_s`` is for adding the dealers'
    commitments and checking every member's answer against them.
    """
    parameters, seats = kahe_parameters(dimension, clients), seats_of(clients, witnesses)
    found = _measured(clients, witnesses, parameters.ring_degree)
    box_bytes = found["box_bytes"]
    return {
        "scheme": "kahe, default seats",
        "parameters": dimension,
        "clients": clients,
        "witnesses": witnesses,
        "seats": seats.members,
        "threshold": seats.threshold,
        "corrupt": seats.corrupt,
        "upload_bytes": ciphertext_bytes(parameters) + seats.members * box_bytes,
        "seat_bytes": seats.members * box_bytes,
        **found,
    }


@lru_cache
def _measured(clients: int, witnesses: int, ring_degree: int) -> dict[str, Any]:
    parameters, seats = kahe_parameters(12_000, clients), seats_of(clients, witnesses)
    if parameters.ring_degree != ring_degree:
        raise RuntimeError("the ring's degree depends on the model")
    scheme, rng = scheme_registry.create("kahe", parameters), Randomness.from_os()
    assert isinstance(scheme, CommitteeScheme)
    members, threshold = seats.members, seats.threshold
    keys = [SealingKey.generate() for _ in range(members)]
    binding = secrets.token_bytes(64)
    count = parameters.key_packing.scalars

    def key() -> KeyMaterial:
        return KeyMaterial(ring.small(ring_degree, rng))

    def deal(fresh: KeyMaterial) -> dealing.Dealing:
        return scheme.deal(fresh, members=members, threshold=threshold, rng=rng)

    def seal_all(parcels: tuple[bytes, ...]) -> list[bytes]:
        return [seal(to.public, parcel, binding=binding) for to, parcel in zip(keys, parcels, strict=True)]

    # A key is taken once, so each repetition needs its own.
    spare = [key() for _ in range(7)]
    deal_seconds = cpu_seconds(lambda: seal_all(deal(spare.pop()).parcels), repeats=5)
    dealings = [deal(key()) for _ in range(clients)]
    published = [dealt.published for dealt in dealings]
    boxes = [seal(keys[0].public, dealt.parcels[0], binding=binding) for dealt in dealings]
    rows = scalar_sharing.polynomials([1] * (count + 1), threshold=threshold, rng=rng)

    def share() -> None:
        fresh = scalar_sharing.polynomials([1] * (count + 1), threshold=threshold, rng=rng)
        for x in range(1, members + 1):
            dealing.encode_share(x, scalar_sharing.share_of(fresh, member=x))

    def commit() -> None:
        for row in rows:
            curve.encode_point(dealing.generators(count).combine(row))

    def answer() -> bytes:
        parcels = [keys[0].open(box, binding=binding) for box in boxes]
        answered = right_sum(scheme, parcels, published, member=1, threshold=threshold)
        if answered is None:
            raise RuntimeError("the sum of the parcels doesn't verify")
        return answered

    answers = {
        x: scheme.combine_shares([dealt.parcels[x - 1] for dealt in dealings], member=x)
        for x in range(1, members + 1)
    }

    def check_answers() -> None:
        total = scheme.dealt_sum(published, threshold=threshold)
        for x, given in answers.items():
            total.check(given, member=x)

    box_bytes = scheme.parcel_bytes + SEAL_OVERHEAD
    return {
        "box_bytes": box_bytes,
        "commitment_bytes": sum(len(text) + 3 for text in published[0].commitments),
        "deal_s": deal_seconds,
        "share_s": cpu_seconds(share, repeats=3),
        "commit_s": cpu_seconds(commit, repeats=3),
        "box_s": cpu_seconds(lambda: seal_all(dealings[0].parcels), repeats=3),
        "member_s": cpu_seconds(answer, repeats=3),
        "server_s": cpu_seconds(check_answers, repeats=3),
        "member_bytes_down": clients * box_bytes,
        "member_bytes_up": scheme.answer_bytes,
    }
