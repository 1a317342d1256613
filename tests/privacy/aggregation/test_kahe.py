from __future__ import annotations

import copy
import math
import pickle
import subprocess
import sys
from typing import Any, cast

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedrec.errors import AggregationError, ConfigError
from fedrec.privacy.aggregation import ckks, dealing, packing, ring, scheme_registry, seal, wire
from fedrec.privacy.aggregation.dealing import Dealing
from fedrec.privacy.aggregation.parameters import SchemeParameters, is_prime, noise_bound
from fedrec.privacy.aggregation.scalar_sharing import ORDER
from fedrec.privacy.aggregation.scheme import (
    CommitteeScheme,
    Encrypted,
    HolderScheme,
    KeyMaterial,
    Scheme,
    SumOfCiphertexts,
)
from fedrec.privacy.randomness import Randomness

TRAINING, OTHER = "ab" * 32, "cd" * 32
Int64Array = NDArray[np.int64]


def make(name: str, *, dimension: int, cohort: int, max_abs_sum: int) -> Scheme:
    parameters = scheme_registry.choose_parameters(
        name, dimension=dimension, cohort=cohort, max_abs_sum=max_abs_sum
    )
    return scheme_registry.create(name, parameters)


class Round:
    """One round among merchants, with a committee of five and threshold three."""

    def __init__(self, scheme: Scheme, vectors: list[Int64Array], *, training: str = TRAINING) -> None:
        self.scheme = scheme
        rng = Randomness.from_os()
        self.uploads: list[Encrypted] = [
            scheme.encrypt(v, training_id=training, round_number=3, rng=rng) for v in vectors
        ]
        self.dealings: list[Dealing] = []
        if isinstance(scheme, CommitteeScheme):
            self.dealings = [
                scheme.deal(upload.key, members=5, threshold=3, rng=rng) for upload in self.uploads
            ]

    def total(self, who: list[int]) -> SumOfCiphertexts:
        total = self.scheme.new_sum()
        for i in who:
            total.add(self.uploads[i].ciphertext)
        return total

    def answers(self, who: list[int], members: tuple[int, ...] = (1, 3, 5)) -> dict[int, bytes]:
        if not isinstance(self.scheme, CommitteeScheme):
            return {}
        return {
            x: self.scheme.combine_shares([self.dealings[i].parcels[x - 1] for i in who], member=x)
            for x in members
        }

    def open(
        self,
        who: list[int],
        *,
        total: SumOfCiphertexts | None = None,
        answers: dict[int, bytes] | None = None,
        training: str = TRAINING,
        round_number: int = 3,
        threshold: int = 3,
    ) -> Int64Array:
        return self.scheme.open(
            self.total(who) if total is None else total,
            answers=self.answers(who) if answers is None else answers,
            threshold=threshold,
            contributors=len(who),
            training_id=training,
            round_number=round_number,
        )


def small_round(merchants: int = 3, dimension: int = 3000) -> tuple[Round, list[Int64Array]]:
    scheme = make("kahe", dimension=dimension, cohort=max(merchants, 2), max_abs_sum=100_000)
    chance = np.random.default_rng(0)
    vectors = [chance.integers(-20_000, 20_000, dimension) for _ in range(merchants)]
    return Round(scheme, vectors), vectors


@settings(max_examples=25, deadline=None)
@given(
    dimension=st.sampled_from([1, 2, 63, 64, 65, 127, 129, 4095, 4097, 9001]),
    cohort=st.integers(1, 12),
    bits=st.integers(1, 40),
    seed=st.integers(0, 2**32),
    data=st.data(),
)
def test_sums_are_exact_with_dropouts_and_extreme_values(
    dimension: int, cohort: int, bits: int, seed: int, data: st.DataObject
) -> None:
    bound = 2**bits - 1
    scheme = make("kahe", dimension=dimension, cohort=cohort, max_abs_sum=bound)
    chance = np.random.default_rng(seed)
    each = bound // cohort
    vectors = [chance.integers(-each, each + 1, dimension) for _ in range(cohort)]
    for v in vectors:  # the extremes that a field must hold, in one place all together
        v[0], v[-1] = each, -each
    survivors = data.draw(st.lists(st.integers(0, cohort - 1), min_size=1, unique=True))
    got = Round(scheme, vectors).open(survivors)
    assert got.dtype == np.int64
    assert np.array_equal(got, sum(vectors[i] for i in survivors))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), cohort=st.integers(1, 6), wild=st.sampled_from([10, 18, 30, 62]))
def test_the_scheme_none_opens_bit_identically_even_where_sums_overflow(
    seed: int, cohort: int, wild: int
) -> None:
    chance = np.random.default_rng(seed)
    vectors = [chance.integers(-(2**wild), 2**wild, 700) for _ in range(cohort)]
    opened = [
        Round(make(name, dimension=700, cohort=cohort, max_abs_sum=2**17), vectors).open(list(range(cohort)))
        for name in ("kahe", "none")
    ]
    assert np.array_equal(opened[0], opened[1])


def test_overflow_wraps_its_field_and_moves_the_neighbour_by_one() -> None:
    values = np.zeros(512, dtype=np.int64)
    values[5] = 8  # one more than a 4-bit field holds; value 5's neighbour is value 256 + 5
    packed = packing.pack(values, fields=2, field_bits=4)
    back = packing.unpack(packed, dimension=512, fields=2, field_bits=4)
    assert back[5] == -8 and back[261] == 1
    assert np.count_nonzero(back) == 2


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32), fields=st.integers(1, 4), field_bits=st.integers(2, 15))
def test_packing_equals_python_integers(seed: int, fields: int, field_bits: int) -> None:
    low, high = -(1 << (field_bits - 1)), 1 << (field_bits - 1)
    values = np.random.default_rng(seed).integers(low, high, 100)
    packed = packing.pack(values, fields=fields, field_bits=field_bits)
    count = packing.coefficient_count(100, fields)
    modulus = 1 << (fields * field_bits)
    for i in range(count):
        own = [int(values[k * count + i]) << (field_bits * k) for k in range(fields) if k * count + i < 100]
        assert (int(packed[i]) - sum(own)) % modulus == 0 and -modulus // 2 <= packed[i] < modulus // 2
    assert np.array_equal(packing.unpack(packed, dimension=100, fields=fields, field_bits=field_bits), values)


def test_parts_of_a_packing_and_of_masks_are_those_of_the_whole() -> None:
    values = np.random.default_rng(0).integers(-100, 100, 9_000)
    whole = packing.pack(values, fields=3, field_bits=9)
    parts = [
        packing.pack_part(values, fields=3, field_bits=9, start=start, stop=min(start + 640, whole.size))
        for start in range(0, whole.size, 640)
    ]
    assert np.array_equal(np.concatenate(parts), whole)
    p = scheme_registry.choose_parameters("kahe", dimension=100, cohort=3, max_abs_sum=1000)
    assert p.modulus is not None
    degree = p.ring_degree
    masks = ring.Masks(
        np.arange(degree) % 5 - 2, training_id=TRAINING, round_number=1, degree=degree, modulus=p.modulus
    )
    together = masks.part(0, 20 * degree + 64)
    assert np.array_equal(
        np.concatenate([masks.part(0, 9 * degree), masks.part(9 * degree, 20 * degree + 64)]), together
    )


def test_ring_products_equal_schoolbook_multiplication() -> None:
    p = scheme_registry.choose_parameters("kahe", dimension=100, cohort=3, max_abs_sum=1000)
    n, q = p.ring_degree, p.modulus
    assert q is not None
    engine = ring.engine(n, q)
    chance = np.random.default_rng(1)
    left = chance.integers(0, q, n).astype(np.uint64)
    right = np.zeros(n, dtype=np.int64)
    right[[0, 1, n - 1]] = 3, -2, 5
    got = engine.products(
        engine.transform(left)[None], engine.multiplier(engine.transform(ring.lift(right, q)))
    )[0]
    for i in (0, 1, 2, 777, n - 2, n - 1):
        want = 0
        for j, factor in ((0, 3), (1, -2), (n - 1, 5)):
            sign = 1 if i >= j else -1  # x**n = -1
            want += sign * factor * int(left[(i - j) % n])
        assert int(got[i]) == want % q


def test_fast_and_documented_buffer_paths_agree() -> None:
    assert seal.FAST_BUFFERS
    p = scheme_registry.choose_parameters("kahe", dimension=100, cohort=3, max_abs_sum=1000)
    assert p.modulus is not None
    chance = np.random.default_rng(2)
    public = chance.integers(0, p.modulus, (3, p.ring_degree)).astype(np.uint64)
    key = chance.integers(0, p.modulus, p.ring_degree).astype(np.uint64)
    results = []
    for fast in (True, False):
        engine = seal.RingEngine(degree=p.ring_degree, modulus=p.modulus, fast=fast)
        transformed = engine.transform(key)
        results.append((transformed, engine.products(public, engine.multiplier(transformed))))
    assert np.array_equal(results[0][0], results[1][0])
    assert np.array_equal(results[0][1], results[1][1])


_WRONG_LAYOUT = """
import numpy as np
from fedrec.privacy.aggregation import seal
seal.{name} = {value}
print(seal.fast_buffers_work(), flush=True)
"""


@pytest.mark.parametrize(
    ("name", "values"),
    [("_INSTANCE_VALUE_OFFSET", (0, 8, 24, 32, 40, 48)), ("_DYN_ARRAY_OFFSET", (0, 8, 24, 32, 40, 2**40))],
)
def test_a_wrong_layout_gives_the_slow_path_and_not_a_crash(name: str, values: tuple[int, ...]) -> None:
    """In a process of its own: there is no exception to catch where a wild pointer is followed."""
    lines = "".join(_WRONG_LAYOUT.format(name=name, value=value) for value in values)
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stdout.split()) == (0, ["False"] * len(values)), done.stderr


def test_a_buffer_with_other_content_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seal, "_slow_write", lambda holder, values: None)
    assert not seal.fast_buffers_work()


@pytest.mark.parametrize("name", ["kahe", "ckks"])
def test_sums_are_exact_by_the_slow_path_too(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fast(holder: object) -> NDArray[np.uint64]:
        raise AssertionError("the slow path looked at the buffers")

    monkeypatch.setattr(seal, "FAST_BUFFERS", False)
    monkeypatch.setattr(seal, "_view", fast)
    ring.engine.cache_clear()
    ckks._engine.cache_clear()
    try:
        scheme = make(name, dimension=5000, cohort=3, max_abs_sum=100_000)
        vectors = [np.random.default_rng(i).integers(-30_000, 30_000, 5000) for i in range(3)]
        if isinstance(scheme, HolderScheme):
            keys = scheme.make_keys()
            total = scheme.new_sum()
            for vector in vectors:
                total.add(
                    scheme.encrypt(
                        vector,
                        training_id=TRAINING,
                        round_number=3,
                        rng=Randomness.from_os(),
                        public_key=keys.public,
                    ).ciphertext
                )
            answer = scheme.answer(total, private_key=keys.private, contributors=3)
            got = scheme.open(
                total, answers={1: answer}, threshold=1, contributors=3, training_id=TRAINING, round_number=3
            )
        else:
            got = Round(scheme, vectors).open([0, 1, 2])
        assert np.array_equal(got, sum(vectors))
    finally:
        ring.engine.cache_clear()
        ckks._engine.cache_clear()


def test_public_polynomials_are_those_of_the_definition_and_depend_on_everything() -> None:
    p = scheme_registry.choose_parameters("kahe", dimension=100, cohort=3, max_abs_sum=1000)
    assert p.modulus is not None
    base = {"training_id": TRAINING, "round_number": 3, "first": 0, "degree": p.ring_degree}
    first = ring.public_polynomials(**base, count=2, modulus=p.modulus)  # type: ignore[arg-type]
    assert first.max() < p.modulus
    assert abs(float(first.mean()) / p.modulus - 0.5) < 0.03
    shifted = ring.public_polynomials(**{**base, "first": 1}, count=1, modulus=p.modulus)  # type: ignore[arg-type]
    assert np.array_equal(first[1], shifted[0])
    seen = {first[0].tobytes(), first[1].tobytes()}
    for change in ({"training_id": OTHER}, {"round_number": 4}, {"degree": 4096}):
        seen.add(ring.public_polynomials(**{**base, **change}, count=1, modulus=p.modulus)[0].tobytes())  # type: ignore[arg-type]
    assert len(seen) == 5
    with pytest.raises(AggregationError):
        ring.public_polynomials(**{**base, "training_id": "x"}, count=1, modulus=p.modulus)  # type: ignore[arg-type]


def test_noise_has_the_stated_standard_deviation() -> None:
    scheme = make("kahe", dimension=40_000, cohort=3, max_abs_sum=1000)
    p = scheme.parameters
    assert p.modulus is not None
    upload = scheme.encrypt(
        np.zeros(40_000, dtype=np.int64), training_id=TRAINING, round_number=3, rng=Randomness.from_os()
    )
    assert upload.key is not None
    key = upload.key.take()
    masks = ring.Masks(
        key, training_id=TRAINING, round_number=3, degree=p.ring_degree, modulus=p.modulus
    ).part(0, p.coefficients)
    error = wire.decode(upload.ciphertext, p).astype(np.int64) - masks.astype(np.int64)
    error = (error + p.modulus // 2) % p.modulus - p.modulus // 2
    for sample in (error, key):
        assert abs(sample.std() - 7) < 6 * 7 / math.sqrt(2 * sample.size)
        assert abs(sample.mean()) < 6 * 7 / math.sqrt(sample.size) and np.abs(sample).max() < 70


def test_ciphertexts_say_nothing_without_the_key() -> None:
    scheme = make("kahe", dimension=40_000, cohort=3, max_abs_sum=1000)
    p = scheme.parameters
    assert p.modulus is not None
    zeros = np.zeros(40_000, dtype=np.int64)
    rng = Randomness.from_os()
    one, two = (scheme.encrypt(zeros, training_id=TRAINING, round_number=3, rng=rng) for _ in range(2))
    left, right = (wire.decode(u.ciphertext, p).astype(np.int64) for u in (one, two))
    difference = (left - right) % p.modulus
    # Under one key for both, every difference would be two errors: below 100 or above q - 100.
    for sample in (left, difference):
        counts, _ = np.histogram(sample, bins=16, range=(0, p.modulus))
        expected = sample.size / 16
        assert ((counts - expected) ** 2 / expected).sum() < 60


def test_a_wrong_key_or_missing_key_does_not_open() -> None:
    trial, _ = small_round()
    with pytest.raises(AggregationError, match="doesn't open"):
        trial.open([0, 1, 2], answers=trial.answers([0, 1]))
    with pytest.raises(AggregationError, match="doesn't open"):
        trial.open([0, 1], answers=trial.answers([1, 2]))
    with pytest.raises(AggregationError, match="doesn't open"):
        trial.open([0], answers=trial.answers([0]), training=OTHER)
    with pytest.raises(AggregationError, match="doesn't open"):
        trial.open([0], round_number=4)


@pytest.mark.parametrize("max_abs_sum", [1, 100_000, 1 << 30])
def test_a_wrong_key_does_not_open_however_small_the_model(max_abs_sum: int) -> None:
    """One coefficient of the key moved by one: residues are uniform, and few of them could pass by chance."""
    scheme = make("kahe", dimension=1, cohort=3, max_abs_sum=max_abs_sum)
    assert scheme.parameters.coefficients >= 256
    opened = 0
    for _ in range(60):
        trial = Round(scheme, [np.ones(1, dtype=np.int64)] * 3)
        answers = trial.answers([0, 1, 2])
        # Member 3's share counts -5/4 times at zero, beside those of members 1 and 5.
        one = -4 * pow(5, -1, ORDER)
        try:
            trial.open([0, 1, 2], answers={**answers, 3: moved(answers[3], x=3, add=one)})
            opened += 1
        except AggregationError:
            pass
    assert opened == 0


@pytest.mark.parametrize("cohort", [2, 3, 10, 100, 1000, 4096])
def test_uniform_residues_are_far_from_noise_in_every_cohort(cohort: int) -> None:
    for bits in range(8, 34, 5):
        p = make("kahe", dimension=1, cohort=cohort, max_abs_sum=1 << bits).parameters
        assert isinstance(p, SchemeParameters)
        limit = ring.NOISE_STD * math.sqrt(2 * cohort) + cohort / 2 + 1
        assert p.step / math.sqrt(12) > 1.5 * limit


def test_noise_that_is_too_wide_everywhere_is_detected_without_an_outlier() -> None:
    """Every coefficient moved by 25, well within the largest error that an honest sum may have."""
    trial, vectors = small_round()
    p = trial.scheme.parameters
    assert p.modulus is not None and isinstance(p, SchemeParameters)
    moved = wire.decode(trial.uploads[0].ciphertext, p)
    shift = np.where(np.arange(moved.size) % 2, 25, p.modulus - 25).astype(np.uint64)
    changed = wire.encode(ring.add_modulo(moved, shift, p.modulus), p)
    assert p.noise_bound > 25 + 40
    total = trial.scheme.new_sum()
    for blob in (changed, trial.uploads[1].ciphertext, trial.uploads[2].ciphertext):
        total.add(blob)
    with pytest.raises(AggregationError, match="doesn't open"):
        trial.open([0, 1, 2], total=total)
    assert np.array_equal(trial.open([0, 1, 2]), sum(vectors))


def test_ciphertexts_of_other_rounds_or_trainings_spoil_the_sum() -> None:
    trial, vectors = small_round()
    other = Round(trial.scheme, vectors, training=OTHER)
    total = trial.total([0, 1])
    total.add(other.uploads[2].ciphertext)
    with pytest.raises(AggregationError, match="doesn't open"):
        trial.open([0, 1, 2], total=total)


def test_fewer_shares_than_the_threshold_do_not_open() -> None:
    trial, _ = small_round()
    two = trial.answers([0, 1, 2], members=(1, 2))
    with pytest.raises(AggregationError, match="too few"):
        trial.open([0, 1, 2], answers=two)
    # Whoever lies about the threshold gets a key out of the bound, not the sum.
    with pytest.raises(AggregationError, match="too large"):
        trial.open([0, 1, 2], answers=two, threshold=2)


def moved(answer: bytes, *, x: int, add: int = 1) -> bytes:
    """An answer whose share of the first packed coefficients is another one."""
    count = len(answer) // 32 - 1
    share = dealing.decode_share(answer, member=x, count=count)
    return dealing.encode_share(x, [(share[0] + add) % ORDER, *share[1:]])


def test_wrong_answers_are_told_from_right_ones_by_the_commitments() -> None:
    trial, vectors = small_round()
    assert isinstance(trial.scheme, CommitteeScheme)
    everyone = [0, 1, 2]
    answers = trial.answers(everyone, members=(1, 2, 3, 4, 5))
    dealt = trial.scheme.dealt_sum([one.published for one in trial.dealings], threshold=3)
    for x, answer in answers.items():
        dealt.check(answer, member=x)
        for wrong, reason in (
            (moved(answer, x=x), "not the sum"),
            (answer[:-1] + bytes([answer[-1] ^ 1]), "not the sum"),  # the random one alone
            (answers[x % 5 + 1], "labelled"),
            (trial.answers([0, 1], members=(x,))[x], "not the sum"),
            (b"", "should have"),
        ):
            with pytest.raises(AggregationError, match=reason):
                dealt.check(wrong, member=x)
    assert np.array_equal(trial.open(everyone, answers=answers), sum(vectors))
    parcels = [one.parcels for one in trial.dealings]
    with pytest.raises(AggregationError, match="labelled as member 2's"):
        trial.scheme.combine_shares([parcels[0][0], parcels[1][1]], member=1)
    with pytest.raises(AggregationError):
        trial.scheme.combine_shares([], member=1)


def test_an_answer_of_another_round_is_wrong() -> None:
    trial, vectors = small_round()
    other = Round(trial.scheme, vectors)
    assert isinstance(trial.scheme, CommitteeScheme)
    dealt = trial.scheme.dealt_sum([one.published for one in trial.dealings], threshold=3)
    with pytest.raises(AggregationError, match="not the sum"):
        dealt.check(other.answers([0, 1, 2])[3], member=3)


def test_contributors_and_cohort_are_checked() -> None:
    trial, _ = small_round()
    with pytest.raises(AggregationError, match="not the 2 stated"):
        trial.open([0, 1], total=trial.total([0]))
    total = trial.total([0, 1, 2])
    with pytest.raises(AggregationError, match="cohort"):
        total.add(trial.uploads[0].ciphertext)
    with pytest.raises(AggregationError):
        trial.scheme.open(
            make("none", dimension=3000, cohort=3, max_abs_sum=10).new_sum(),
            answers={},
            threshold=1,
            contributors=1,
            training_id=TRAINING,
            round_number=3,
        )


def test_a_key_is_used_once_and_never_shown() -> None:
    scheme = make("kahe", dimension=10, cohort=2, max_abs_sum=100)
    rng = Randomness.seeded(1)
    values = np.arange(10, dtype=np.int64)
    first = scheme.encrypt(values, training_id=TRAINING, round_number=1, rng=rng)
    second = scheme.encrypt(values, training_id=TRAINING, round_number=1, rng=rng)
    assert first.ciphertext != second.ciphertext
    assert first.key is not None and second.key is not None
    assert isinstance(scheme, CommitteeScheme)
    scheme.deal(first.key, members=3, threshold=2, rng=rng)
    with pytest.raises(AggregationError, match="already been used"):
        scheme.deal(first.key, members=3, threshold=2, rng=rng)
    for leak in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            leak(second.key)
    assert repr(second.key) == "KeyMaterial(unused)"


def test_a_key_is_erased_when_it_is_shared() -> None:
    scheme = make("kahe", dimension=10, cohort=2, max_abs_sum=100)
    polynomial = np.ones(scheme.parameters.ring_degree, dtype=np.int64)
    assert isinstance(scheme, CommitteeScheme)
    scheme.deal(KeyMaterial(polynomial), members=3, threshold=2, rng=Randomness.seeded(1))
    assert not polynomial.any()


@pytest.mark.parametrize("cohort", [1, 3, 10])
def test_noise_bound_covers_the_exact_tail(cohort: int) -> None:
    """Of the sum of so many discrete Gaussians, by convolving their law with itself."""
    coefficients = 500_000
    bound = noise_bound(coefficients=coefficients, cohort=cohort)
    one = np.exp(-(np.arange(-140, 141) ** 2) / (2 * 7.0**2))
    one, total = one / one.sum(), np.ones(1)
    for _ in range(cohort):
        total = np.convolve(total, one)
    middle = total.size // 2
    tail = 2 * total[middle + bound :].sum()
    assert (
        0 < tail * coefficients * 1000 <= 2.0**-41
    )  # half of a run's 2**-40; the other: test_calibration.py
    chernoff = bound**2 / (2 * 49 * cohort) / math.log(2)
    assert -46 < math.log2(2 * coefficients * 1000) - chernoff <= -41


@pytest.mark.parametrize(("part", "at_most"), [(0, -173), (0.5, -390)])
def test_two_honest_keys_hide_each_other_as_the_reduction_asks(part: float, at_most: int) -> None:
    """The one step of Hint-RLWE's reduction that isn't exact, by its definition, for one coefficient.

    Given the sum z of two keys of width 7, one of them is a discrete Gaussian of width 7 / sqrt(2) around
    z / 2. The reduction makes it of its own problem's secret, of width 3.5 around zero, and of one around
    z / 2 that it draws. Of z / 2 the part after the point matters.
    """
    with mpmath.workdps(150):

        def law(width: Any, around: float) -> dict[int, Any]:
            weights = {y: mpmath.exp(-((y - around) ** 2) / (2 * width**2)) for y in range(-120, 121)}
            total = mpmath.fsum(weights.values())
            return {y: weight / total for y, weight in weights.items()}

        half = mpmath.mpf(ring.NOISE_STD) / 2
        secret, drawn, wanted = law(half, 0), law(half, part), law(half * mpmath.sqrt(2), part)
        for y in (*range(-6, 7), -40, -23, 19, 40):
            made = mpmath.fsum(secret[i] * drawn[y - i] for i in range(-80, 81))
            assert abs(made / wanted[y] - 1) < mpmath.mpf(2) ** at_most


@pytest.mark.parametrize("cohort", [2, 10, 100, 1000])
@pytest.mark.parametrize("bits", [4, 12, 18, 26])
def test_chosen_parameters_are_secure_exact_and_sized(cohort: int, bits: int) -> None:
    p = scheme_registry.choose_parameters("kahe", dimension=422_000, cohort=cohort, max_abs_sum=2**bits)
    assert isinstance(p, SchemeParameters)
    assert p.modulus is not None
    assert p.modulus_bits <= {2048: 54, 4096: 109}[p.ring_degree]
    assert p.modulus % (2 * p.ring_degree) == 1 and is_prime(p.modulus)
    assert p.modulus == p.step * 2**p.plaintext_bits + 1
    assert p.field_bits == bits + 2
    assert p.step / 2 > noise_bound(coefficients=p.coefficients, cohort=cohort) + cohort


@pytest.mark.parametrize("cohort", [2, 3, 5, 10, 20, 50, 70, 100, 300, 1000])
def test_a_members_work_does_not_grow_with_the_model(cohort: int) -> None:
    """The ring degree decides it: of a cohort it is one, for values of up to 17 bits."""
    degrees, answers = set(), set()
    for dimension in (1, 12_000, 1_000_000, 12_000_000, 2**28):
        for bits in (2, 10, 16):
            p = scheme_registry.choose_parameters(
                "kahe", dimension=dimension, cohort=cohort, max_abs_sum=cohort * 2**bits
            )
            scheme = scheme_registry.create("kahe", p)
            assert isinstance(scheme, CommitteeScheme)
            degrees.add(p.ring_degree)
            answers.add((scheme.answer_bytes, scheme.parcel_bytes))
    assert len(degrees) == len(answers) == 1
    large = scheme_registry.choose_parameters("kahe", dimension=10**6, cohort=100, max_abs_sum=100 * 2**15)
    assert large.coefficients * large.coefficient_bits <= 0.9 * 32 * 10**6  # bits, beside float32's


def test_unreachable_and_unknown_choices() -> None:
    with pytest.raises(AggregationError, match="no "):
        scheme_registry.choose_parameters("kahe", dimension=10, cohort=4000, max_abs_sum=2**46)
    with pytest.raises(AggregationError):
        scheme_registry.choose_parameters("kahe", dimension=0, cohort=4, max_abs_sum=10)
    for call in (
        lambda: scheme_registry.choose_parameters("paillier", dimension=1, cohort=1, max_abs_sum=1),
        lambda: scheme_registry.create(
            "paillier", scheme_registry.choose_parameters("none", dimension=1, cohort=1, max_abs_sum=1)
        ),
    ):
        with pytest.raises(ConfigError, match="kahe, ckks, none"):
            call()
    assert scheme_registry.names() == ("kahe", "ckks", "none")


def test_primality_against_trial_division() -> None:
    sieve = [n for n in range(2, 2000) if all(n % k for k in range(2, math.isqrt(n) + 1))]
    assert [n for n in range(2000) if is_prime(n)] == sieve
    for composite in (3215031751, 3825123056546413051, (2**31 - 1) ** 2):
        assert not is_prime(composite)  # strong pseudoprimes to the first bases
    assert is_prime(2**61 - 1)


def test_wrong_vectors_are_refused() -> None:
    for name in scheme_registry.names():
        scheme = make(name, dimension=10, cohort=2, max_abs_sum=100)
        for wrong in (np.zeros(9, dtype=np.int64), np.zeros(10), np.zeros((10, 1), dtype=np.int64)):
            with pytest.raises(AggregationError):
                scheme.encrypt(
                    cast(Any, wrong), training_id=TRAINING, round_number=1, rng=Randomness.seeded(1)
                )
        for training, number in (("", 1), ("AB" * 32, 1), (TRAINING, -1), (TRAINING, 2**64)):
            with pytest.raises(AggregationError):
                scheme.encrypt(
                    np.zeros(10, dtype=np.int64),
                    training_id=training,
                    round_number=number,
                    rng=Randomness.seeded(1),
                )
