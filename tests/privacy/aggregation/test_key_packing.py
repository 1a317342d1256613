"""Packed keys: sums of scalars are sums of keys, negative coefficients included."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.errors import AggregationError
from fedrec.privacy.aggregation import kahe
from fedrec.privacy.aggregation.key_packing import KeyPacking
from fedrec.privacy.aggregation.scalar_sharing import ORDER


def packed(key: list[int], packing: KeyPacking) -> list[int]:
    """By the definition, a coefficient at a time."""
    out = []
    for start in range(0, len(key), packing.per_scalar):
        part = key[start : start + packing.per_scalar]
        out.append(sum(digit << (packing.bits * i) for i, digit in enumerate(part)) % ORDER)
    return out


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 200), bound=st.integers(1, 5000), keys=st.integers(1, 6), seed=st.integers(0, 99))
def test_sums_of_packed_keys_unpack_to_the_sums(count: int, bound: int, keys: int, seed: int) -> None:
    packing = KeyPacking(count=count, bound=bound)
    assert 2 ** (packing.bits - 1) > bound and packing.bits * packing.per_scalar <= 255
    chance = np.random.default_rng(seed)
    each = bound // keys
    chosen = [chance.integers(-each, each + 1, count) for _ in range(keys)]
    for sign, key in zip((1, -1), chosen, strict=False):
        key[:: 1 + count // 7] = sign * each
    extreme = np.where(chance.integers(0, 2, count) > 0, bound, -bound)
    for parts in (chosen, [extreme], [np.full(count, -bound)], [np.full(count, bound)]):
        rows = [packing.pack(part) for part in parts]
        assert rows == [packed(part.tolist(), packing) for part in parts]
        total = [sum(column) % ORDER for column in zip(*rows, strict=True)]
        assert np.array_equal(packing.unpack(total), np.sum(parts, axis=0))


@pytest.mark.parametrize(("cohort", "bits"), [(3, 8), (10, 9), (100, 11), (1000, 13)])
def test_a_key_of_the_scheme_takes_few_scalars(cohort: int, bits: int) -> None:
    p = kahe.choose_parameters(dimension=11_000_000, cohort=cohort, max_abs_sum=cohort << 16)
    packing = p.key_packing
    assert (packing.bits, packing.per_scalar) == (bits, 255 // bits)
    assert packing.scalars == -(-p.ring_degree // (255 // bits))


def test_what_no_keys_sum_to_is_refused() -> None:
    packing = KeyPacking(count=40, bound=127)
    good = packing.pack(np.arange(40) - 20)
    for wrong in (good[:1], [*good, 0], []):
        with pytest.raises(AggregationError, match="scalars"):
            packing.unpack(wrong)
    for top in (1 << 248, ORDER // 2, ORDER - (1 << 248)):
        with pytest.raises(AggregationError, match="too large"):
            packing.unpack([top, good[1]])
    for beyond in (1, -1):
        with pytest.raises(AggregationError, match="beyond its end"):
            packing.unpack([good[0], (good[1] + (beyond << (8 * 20))) % ORDER])
    for key in (np.full(40, 128), np.zeros(39, dtype=np.int64)):
        with pytest.raises(AggregationError, match="at most 127"):
            packing.pack(key)
