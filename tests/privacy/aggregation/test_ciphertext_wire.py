from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.errors import AggregationError
from fedrec.privacy.aggregation import packing, scheme_registry, wire
from fedrec.privacy.aggregation.parameters import SchemeParameters
from fedrec.privacy.aggregation.scheme import CommitteeScheme, HolderScheme, Scheme
from fedrec.privacy.randomness import Randomness

TRAINING = "ab" * 32
HEADER_BYTES = 48


def make(name: str, **changes: int) -> Scheme:
    arguments = {"dimension": 200, "cohort": 4, "max_abs_sum": 1000, **changes}
    return scheme_registry.create(name, scheme_registry.choose_parameters(name, **arguments))


def upload(scheme: Scheme) -> bytes:
    values = np.arange(scheme.parameters.dimension, dtype=np.int64) - 100
    key = scheme.make_keys().public if isinstance(scheme, HolderScheme) else None
    return scheme.encrypt(
        values, training_id=TRAINING, round_number=1, rng=Randomness.from_os(), public_key=key
    ).ciphertext


def refuses(scheme: Scheme, blob: bytes) -> None:
    total = scheme.new_sum()
    with pytest.raises(AggregationError):
        total.add(blob)
    assert total.count == 0


@settings(max_examples=60, deadline=None)
@given(bits=st.integers(2, 60), groups=st.integers(1, 5), seed=st.integers(0, 2**32))
def test_bit_packing_is_exact_and_as_small_as_stated(bits: int, groups: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 1 << bits, packing.GROUP * groups).astype(np.uint64)
    values[0], values[-1] = (1 << bits) - 1, 0
    data = packing.to_bytes(values, bits)
    assert len(data) * 8 == values.size * bits
    assert np.array_equal(packing.from_bytes(data, count=values.size, bits=bits), values)


def test_bit_packing_matches_its_description() -> None:
    # One group of 49 bits: a single lane, so the bytes are the integer of all coefficients joined.
    values = np.random.default_rng(0).integers(0, 1 << 49, 64).astype(np.uint64)
    joined = sum(int(v) << (49 * i) for i, v in enumerate(values))
    assert packing.to_bytes(values, 49) == joined.to_bytes(64 * 49 // 8, "little")


@pytest.mark.parametrize("name", scheme_registry.names())
def test_every_flipped_header_bit_is_refused(name: str) -> None:
    scheme = make(name)
    blob = upload(scheme)
    scheme.new_sum().add(blob)
    for bit in range(HEADER_BYTES * 8):
        broken = bytearray(blob)
        broken[bit // 8] ^= 1 << bit % 8
        with pytest.raises(AggregationError):
            scheme.new_sum().add(bytes(broken))


@pytest.mark.parametrize("name", scheme_registry.names())
def test_truncated_oversized_and_empty_are_refused(name: str) -> None:
    scheme = make(name)
    blob = upload(scheme)
    assert len(blob) == wire.ciphertext_bytes(scheme.parameters)
    for wrong in (blob[:-1], blob + b"\0", b"", blob[:HEADER_BYTES], blob * 2):
        refuses(scheme, wrong)


@pytest.mark.parametrize("name", scheme_registry.names())
def test_other_parameters_are_refused(name: str) -> None:
    scheme = make(name)
    # The same ring, packing and length, but another cohort or dimension.
    for other in (make(name, cohort=5), make(name, dimension=199)):
        assert wire.ciphertext_bytes(other.parameters) == wire.ciphertext_bytes(scheme.parameters)
        refuses(scheme, upload(other))
    refuses(make("none"), upload(make("kahe")))
    with pytest.raises(AggregationError):
        scheme_registry.create("kahe" if name == "none" else "none", scheme.parameters)


def test_coefficients_outside_the_ring_are_refused() -> None:
    scheme = make("kahe")
    p = scheme.parameters
    assert p.modulus is not None
    coefficients = wire.decode(upload(scheme), p)
    for position in (0, 17, p.coefficients - 1):
        crafted = coefficients.copy()
        crafted[position] = p.modulus - 1
        scheme.new_sum().add(wire.encode(crafted, p))
        crafted[position] = p.modulus
        refuses(scheme, wire.encode(crafted, p))


def test_a_tampered_ciphertext_does_not_open_to_the_sum() -> None:
    scheme = make("kahe", dimension=2000)
    p = scheme.parameters
    assert isinstance(p, SchemeParameters)
    rng = Randomness.from_os()
    sent = scheme.encrypt(np.zeros(2000, dtype=np.int64), training_id=TRAINING, round_number=1, rng=rng)
    assert isinstance(scheme, CommitteeScheme)
    dealing = scheme.deal(sent.key, members=1, threshold=1, rng=rng)
    crafted = wire.decode(sent.ciphertext, p)
    crafted[5] = (int(crafted[5]) + p.step // 2) % (p.modulus or 1)
    total = scheme.new_sum()
    total.add(wire.encode(crafted, p))
    with pytest.raises(AggregationError, match="doesn't open"):
        scheme.open(
            total,
            answers={1: dealing.parcels[0]},
            threshold=1,
            contributors=1,
            training_id=TRAINING,
            round_number=1,
        )


@pytest.mark.parametrize("name", scheme_registry.names())
@settings(max_examples=60, deadline=None)
@given(blob=st.binary(max_size=300), seed=st.integers(0, 2**32))
def test_rubbish_raises_only_aggregation_errors(name: str, blob: bytes, seed: int) -> None:
    scheme = make(name)
    refuses(scheme, blob)
    refuses(scheme, np.random.default_rng(seed).bytes(wire.ciphertext_bytes(scheme.parameters)))
    if isinstance(scheme, CommitteeScheme):
        with pytest.raises(AggregationError):
            scheme.combine_shares([blob], member=1)


values = st.one_of(
    st.none(), st.booleans(), st.floats(), st.text(max_size=8), st.integers(-(2**70), 2**70), st.just([])
)
GOOD = make("kahe").parameters


@settings(max_examples=150, deadline=None)
@given(field=st.sampled_from([field.name for field in fields(SchemeParameters)]), value=values)
def test_parameters_are_validated_or_kept_as_they_are(field: str, value: object) -> None:
    assert isinstance(GOOD, SchemeParameters)
    changes: dict[str, Any] = {field: value}
    try:
        made = replace(GOOD, **changes)
    except AggregationError:
        return
    assert type(value) is type(getattr(GOOD, field))
    assert getattr(made, field) == value


def test_insecure_or_inexact_parameters_are_refused() -> None:
    assert isinstance(GOOD, SchemeParameters)
    for changes in (
        {"modulus_bits": 55, "ring_degree": 2048},
        {"ring_degree": 1024},
        {"ring_degree": 3000},
        {"modulus_bits": 0},
        {"ring_degree": 0},
        {"cohort": 4096},
        {"field_bits": 40},
        {"dimension": True},
        {"name": ""},
    ):
        with pytest.raises(AggregationError):
            replace(GOOD, **changes)


CHANGES = {"dimension": 201, "cohort": 5, "max_abs_sum": 100_000}


def test_every_parameter_enters_the_digest() -> None:
    digests = {make(name).parameters.digest() for name in scheme_registry.names()}
    digests |= {make("kahe", **{name: value}).parameters.digest() for name, value in CHANGES.items()}
    assert len(digests) == len(scheme_registry.names()) + len(CHANGES)
