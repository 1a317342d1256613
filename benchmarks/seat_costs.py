"""Measure what the seats of a committee cost, with and without witnesses; for ``secure_aggregation.py``.

The committee's numbers are the planner's own defaults. What a merchant deals and seals, and what a member
adds, depends on the seats and on the ring's degree, not on the size of the model.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

from measure import cpu_seconds

from fedrec.clients.unmasking import right_sum
from fedrec.privacy.aggregation import ring, scheme_registry
from fedrec.privacy.aggregation.scheme import CommitteeScheme, KeyMaterial
from fedrec.privacy.aggregation.seats import choose_seats
from fedrec.privacy.aggregation.wire import ciphertext_bytes
from fedrec.privacy.identity import SEAL_OVERHEAD, SealingKey, seal
from fedrec.privacy.randomness import Randomness
from fedrec.server.cohort_defaults import default_colluders

COHORTS = (3, 10, 100)
WITNESSES = (0, 5)
VALUE_BITS = 16


def seat_rows(dimension: int) -> Iterator[dict[str, Any]]:
    """Yield a row for each cohort, without witnesses and with five.

    ``deal_s`` is a merchant's, for its key of one round: shares, commitments and sealed boxes. ``member_s``
    and the member's bytes are for opening the sum of the whole cohort. ``server_s`` is for adding the
    dealers' commitments and checking every member's answer against them.
    """
    for clients in COHORTS:
        for witnesses in WITNESSES:
            yield _row(dimension, clients=clients, witnesses=witnesses)


def _row(dimension: int, *, clients: int, witnesses: int) -> dict[str, Any]:
    seats = choose_seats(cohort=clients, colluders=default_colluders(clients), witnesses=witnesses)
    parameters = scheme_registry.choose_parameters(
        "kahe", dimension=dimension, cohort=clients, max_abs_sum=clients << (VALUE_BITS - 1)
    )
    scheme, rng = scheme_registry.create("kahe", parameters), Randomness.from_os()
    assert isinstance(scheme, CommitteeScheme)
    members, threshold = seats.members, seats.threshold
    keys = [SealingKey.generate() for _ in range(members)]
    binding = secrets.token_bytes(64)

    def deal_and_seal(key: Any) -> list[bytes]:
        dealt = scheme.deal(key, members=members, threshold=threshold, rng=rng)
        boxes = zip(keys, dealt.parcels, strict=True)
        return [seal(to.public, parcel, binding=binding) for to, parcel in boxes]

    # A key is taken once, so each repetition needs its own.
    spare = [KeyMaterial(ring.small(parameters.ring_degree, rng)) for _ in range(7)]
    deal_seconds = cpu_seconds(lambda: deal_and_seal(spare.pop()), repeats=5)
    dealings = [
        scheme.deal(
            KeyMaterial(ring.small(parameters.ring_degree, rng)),
            members=members,
            threshold=threshold,
            rng=rng,
        )
        for _ in range(clients)
    ]
    published = [dealt.published for dealt in dealings]
    boxes = [seal(keys[0].public, dealt.parcels[0], binding=binding) for dealt in dealings]

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

    return {
        "scheme": "kahe, default seats",
        "parameters": dimension,
        "clients": clients,
        "witnesses": witnesses,
        "seats": members,
        "threshold": threshold,
        "corrupt": seats.corrupt,
        "upload_bytes": ciphertext_bytes(parameters) + members * (scheme.parcel_bytes + SEAL_OVERHEAD),
        "commitment_bytes": sum(len(text) + 3 for text in published[0].commitments),
        "seat_bytes": members * (scheme.parcel_bytes + SEAL_OVERHEAD),
        "deal_s": deal_seconds,
        "member_s": cpu_seconds(answer, repeats=3),
        "server_s": cpu_seconds(check_answers, repeats=3),
        "member_bytes_down": clients * (scheme.parcel_bytes + SEAL_OVERHEAD),
        "member_bytes_up": scheme.answer_bytes,
    }
