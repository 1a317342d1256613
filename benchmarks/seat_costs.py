"""Measure what the seats of a committee cost, with and without witnesses; for ``secure_aggregation.py``.

The committee's numbers are the planner's own defaults. What a merchant deals and seals, and what a member
adds, depends on the seats and on the ring's degree, not on the size of the model.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import numpy as np
from measure import cpu_seconds
from numpy.typing import NDArray

from fedrec.privacy.aggregation import scheme_registry
from fedrec.privacy.aggregation.scheme import CommitteeScheme
from fedrec.privacy.aggregation.seats import choose_seats
from fedrec.privacy.aggregation.wire import ciphertext_bytes
from fedrec.privacy.identity import SEAL_OVERHEAD, SealingKey, seal
from fedrec.privacy.randomness import Randomness
from fedrec.server.cohort_defaults import default_colluders

TRAINING = "cd" * 32
COHORTS = (3, 10, 100)
WITNESSES = (0, 5)
VALUE_BITS = 16


def seat_rows(dimension: int) -> Iterator[dict[str, Any]]:
    """Yield a row for each cohort, without witnesses and with five.

    ``deal_s`` is a merchant's, for its key of one round: shares, degree proof and sealed boxes. ``member_s``
    and the member's bytes are for opening the sum of the whole cohort.
    """
    values = np.random.default_rng(1).integers(-1000, 1000, dimension)
    for clients in COHORTS:
        for witnesses in WITNESSES:
            yield _row(values, clients=clients, witnesses=witnesses)


def _row(values: NDArray[np.int64], *, clients: int, witnesses: int) -> dict[str, Any]:
    seats = choose_seats(cohort=clients, colluders=default_colluders(clients), witnesses=witnesses)
    parameters = scheme_registry.choose_parameters(
        "kahe", dimension=values.size, cohort=clients, max_abs_sum=clients << (VALUE_BITS - 1)
    )
    scheme, rng = scheme_registry.create("kahe", parameters), Randomness.from_os()
    assert isinstance(scheme, CommitteeScheme)
    members, threshold = seats.members, seats.threshold
    keys = [SealingKey.generate() for _ in range(members)]
    binding = secrets.token_bytes(64)

    def encrypted() -> Any:
        return scheme.encrypt(values, training_id=TRAINING, round_number=1, rng=rng)

    def deal_and_seal(key: Any) -> list[bytes]:
        dealt = scheme.deal(key, members=members, threshold=threshold, statement=b"seats", rng=rng)
        boxes = zip(keys, dealt.parcels, strict=True)
        return [seal(to.public, parcel, binding=binding) for to, parcel in boxes]

    small = scheme_registry.create(
        "kahe",
        scheme_registry.choose_parameters(
            "kahe", dimension=1000, cohort=clients, max_abs_sum=clients << (VALUE_BITS - 1)
        ),
    )
    assert isinstance(small, CommitteeScheme)
    # A key is taken once, so each repetition needs its own; one of a small model has the same length.
    spare = [
        small.encrypt(values[:1000], training_id=TRAINING, round_number=1, rng=rng).key for _ in range(7)
    ]
    assert small.parcel_bytes == scheme.parcel_bytes
    deal_seconds = cpu_seconds(lambda: deal_and_seal(spare.pop()), repeats=5)
    dealt = scheme.deal(encrypted().key, members=members, threshold=threshold, statement=b"seats", rng=rng)
    box = seal(keys[0].public, dealt.parcels[0], binding=binding)

    def answer() -> bytes:
        shares = [
            scheme.accept(
                keys[0].open(box, binding=binding),
                dealt.published,
                member=1,
                threshold=threshold,
                statement=b"seats",
            )
            for _ in range(clients)
        ]
        return scheme.combine_shares(shares)

    return {
        "scheme": "kahe, default seats",
        "parameters": values.size,
        "clients": clients,
        "witnesses": witnesses,
        "seats": members,
        "threshold": threshold,
        "corrupt": seats.corrupt,
        "upload_bytes": ciphertext_bytes(parameters) + members * (scheme.parcel_bytes + SEAL_OVERHEAD),
        "seat_bytes": members * (scheme.parcel_bytes + SEAL_OVERHEAD),
        "deal_s": deal_seconds,
        "member_s": cpu_seconds(answer, repeats=3),
        "member_bytes_down": clients * (scheme.parcel_bytes + SEAL_OVERHEAD),
        "member_bytes_up": scheme.answer_bytes,
    }
