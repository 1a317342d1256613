"""The keystream against the cipher used directly, and its uniform integers against counting."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.privacy.randomness import Randomness


def test_stream_is_the_chacha20_keystream_of_its_key() -> None:
    key = bytes(range(32))
    direct = Cipher(
        algorithms.ChaCha20(hashlib.sha256(b"fedrec/randomness/stream/1" + key).digest(), bytes(16)),
        mode=None,
    ).encryptor()
    stream = Randomness(key, is_seeded=False)
    assert stream.bytes(10) + stream.bytes(90) == direct.update(bytes(100))


def test_streams_from_the_operating_system_never_repeat() -> None:
    assert Randomness.from_os().bytes(32) != Randomness.from_os().bytes(32)
    assert not Randomness.from_os().is_seeded
    assert not Randomness.from_os().child("noise").is_seeded


def test_seeds_equal_modulo_two_to_the_32_give_different_streams() -> None:
    assert Randomness.seeded(12345).bytes(32) != Randomness.seeded(12345 + 7 * 2**32).bytes(32)


def test_seeded_streams_repeat_and_their_labels_are_unambiguous() -> None:
    assert Randomness.seeded(1, "a", 2).bytes(64) == Randomness.seeded(1, "a", 2).bytes(64)
    streams = [("ab", "c"), ("a", "bc"), ("abc",), ("a", "b", "c"), (1, 2), ("1", "2"), (12,), ()]
    assert len({Randomness.seeded(7, *labels).bytes(16) for labels in streams}) == len(streams)
    assert len({Randomness.seeded(7).child(*labels).bytes(16) for labels in streams}) == len(streams)


def test_a_child_does_not_depend_on_the_position_of_its_parent() -> None:
    parent = Randomness.seeded(3)
    before = parent.child("noise").bytes(16)
    parent.bytes(1000)
    assert parent.child("noise").bytes(16) == before
    assert parent.child("noise").is_seeded


@settings(max_examples=30, deadline=None)
@given(bound=st.integers(1, 2**63), seed=st.integers(0, 2**70))
def test_integers_stay_below_their_bound(bound: int, seed: int) -> None:
    values = Randomness.seeded(seed).integers(200, bound=bound)
    assert all(int(value) < bound for value in values)


def test_integers_are_uniform() -> None:
    counts = np.bincount(Randomness.seeded(5).integers(60_000, bound=6).astype(np.int64), minlength=6)
    assert ((counts - 10_000) ** 2 / 10_000).sum() < 25.7  # chi-square, 5 degrees of freedom, p = 1e-4


def test_uniforms_are_inside_the_open_interval() -> None:
    uniforms = Randomness.seeded(9).uniform(100_000)
    assert 0.0 < uniforms.min() < 1e-3
    assert 1.0 - 1e-3 < uniforms.max() < 1.0
    assert abs(uniforms.mean() - 0.5) < 4 / np.sqrt(12 * 100_000)


@pytest.mark.parametrize("bound", [0, -1, 2**63 + 1])
def test_integers_refuse_a_bound_out_of_range(bound: int) -> None:
    with pytest.raises(ValueError, match="bound"):
        Randomness.from_os().integers(1, bound=bound)
