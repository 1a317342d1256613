"""Scheme ckks: sums exact by analysis, answers that hold integers alone, and what its parsers refuse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedrec.errors import AggregationError, ProtocolError, RefusedError
from fedrec.privacy.aggregation import ckks, scheme_registry, wire
from fedrec.privacy.aggregation.ckks import CkksScheme
from fedrec.privacy.aggregation.ckks_parameters import DEGREE, LARGEST_SLOT_ERROR, CkksParameters
from fedrec.privacy.aggregation.scheme import KeyPair, SumOfCiphertexts
from fedrec.privacy.derived_parameters import derive
from fedrec.privacy.randomness import Randomness
from fedrec.protocol.messages import JoinRequest, TrainRequest, UnmaskRequest
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.schema import sha256_hex
from fedrec.protocol.statements import COMMITMENT_CONTEXT, SignedCommitment
from fedrec.protocol.transport import unpack
from tests.support.cohort import Cohort, InProcessGrid

Int64Array = NDArray[np.int64]
POLICY = {"scheme": "ckks", "threshold": 1}


def make(*, dimension: int, cohort: int, max_abs_sum: int) -> CkksScheme:
    parameters = scheme_registry.choose_parameters(
        "ckks", dimension=dimension, cohort=cohort, max_abs_sum=max_abs_sum
    )
    scheme = scheme_registry.create("ckks", parameters)
    assert isinstance(scheme, CkksScheme)
    return scheme


def encrypt(scheme: CkksScheme, keys: KeyPair, values: Int64Array) -> bytes:
    return scheme.encrypt(
        values, training_id="ab" * 32, round_number=1, rng=Randomness.from_os(), public_key=keys.public
    ).ciphertext


def summed(scheme: CkksScheme, ciphertexts: list[bytes]) -> SumOfCiphertexts:
    total = scheme.new_sum()
    for ciphertext in ciphertexts:
        total.add(ciphertext)
    return total


def opened(scheme: CkksScheme, keys: KeyPair, ciphertexts: list[bytes]) -> Int64Array:
    total = summed(scheme, ciphertexts)
    answer = scheme.answer(total, private_key=keys.private, contributors=len(ciphertexts))
    assert len(answer) == scheme.answer_bytes
    return scheme.open(
        total,
        answers={1: answer},
        threshold=1,
        contributors=len(ciphertexts),
        training_id="ab" * 32,
        round_number=1,
    )


@settings(max_examples=25, deadline=None)
@given(
    dimension=st.sampled_from([1, 2, 63, 64, 65, 4095, 4096, 4097, 9001]),
    cohort=st.integers(1, 12),
    bits=st.integers(1, 25),
    seed=st.integers(0, 2**32),
)
def test_sums_are_exact_at_the_extremes_too(dimension: int, cohort: int, bits: int, seed: int) -> None:
    bound = 2**bits - 1
    scheme = make(dimension=dimension, cohort=cohort, max_abs_sum=bound)
    keys = scheme.make_keys()
    chance = np.random.default_rng(seed)
    each = bound // cohort
    vectors = [chance.integers(-each, each + 1, dimension) for _ in range(cohort)]
    for vector in vectors:
        vector[0], vector[-1] = each, -each
    got = opened(scheme, keys, [encrypt(scheme, keys, vector) for vector in vectors])
    assert np.array_equal(got, sum(vectors))


def test_values_that_overflow_come_back_modulo_the_field() -> None:
    scheme = make(dimension=3, cohort=3, max_abs_sum=100)  # fields of 8 bits
    keys = scheme.make_keys()
    vectors = [np.array([127, -128, 10**15]), np.array([127, -128, 5]), np.array([1, 1, 2**62])]
    got = opened(scheme, keys, [encrypt(scheme, keys, vector) for vector in vectors])
    exact = [sum(int(vector[i]) for vector in vectors) for i in range(3)]
    assert got.tolist() == [(value + 128) % 256 - 128 for value in exact]


def test_the_slot_error_stays_below_its_bound_which_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    scheme = make(dimension=4096, cohort=100, max_abs_sum=2**24)
    p = scheme.parameters
    keys = scheme.make_keys()
    chance = np.random.default_rng(1)
    largest = 2 ** (p.field_bits - 1)
    vectors = [chance.integers(-largest, largest, 4096) for _ in range(100)]
    total = summed(scheme, [encrypt(scheme, keys, vector) for vector in vectors])
    assert isinstance(total, ckks.CkksSum)
    private = scheme._read_key(wire.PRIVATE_KEY, keys.private, count=DEGREE)
    raw = scheme._engine.decrypt(total.coefficients[None, :], scale=p.scale, private_key=private)
    error = np.abs(raw.view(np.float64)[0] - sum(vectors)).max()
    assert 0 < error < p.slot_error() / 2
    assert p.slot_error() <= LARGEST_SLOT_ERROR
    # A bound below the noise that is there refuses the sum.
    monkeypatch.setattr(CkksParameters, "slot_error", lambda self: error / 2)
    with pytest.raises(AggregationError, match="doesn't decrypt"):
        scheme.answer(total, private_key=keys.private, contributors=100)


def test_an_answer_is_a_function_of_the_integers_alone() -> None:
    scheme = make(dimension=5000, cohort=2, max_abs_sum=10**5)
    keys = scheme.make_keys()
    values = np.random.default_rng(0).integers(-50_000, 50_000, 5000)
    uploads = [encrypt(scheme, keys, values) for _ in range(2)]
    assert uploads[0] != uploads[1]
    answers = {
        scheme.answer(summed(scheme, [upload]), private_key=keys.private, contributors=1)
        for upload in uploads
    }
    assert len(answers) == 1


def test_another_key_does_not_decrypt() -> None:
    scheme = make(dimension=10, cohort=2, max_abs_sum=100)
    keys, other = scheme.make_keys(), scheme.make_keys()
    total = summed(scheme, [encrypt(scheme, keys, np.arange(10))])
    with pytest.raises(AggregationError, match="doesn't decrypt"):
        scheme.answer(total, private_key=other.private, contributors=1)
    with pytest.raises(AggregationError, match="a public key of"):
        encrypt(scheme, KeyPair(private=b"", public=keys.private), np.arange(10))
    with pytest.raises(AggregationError, match="a private key of"):
        scheme.answer(total, private_key=keys.public, contributors=1)
    assert keys.private.hex() not in repr(keys)


def test_transparent_zero_and_changed_ciphertexts_are_refused() -> None:
    scheme = make(dimension=5000, cohort=2, max_abs_sum=100)
    p = scheme.parameters
    keys = scheme.make_keys()
    good = encrypt(scheme, keys, np.arange(5000))
    blocks = wire.decode(good, p).reshape(p.blocks, 2, DEGREE)
    for block in range(p.blocks):
        transparent = blocks.copy()
        transparent[block, 1] = 0
        with pytest.raises(AggregationError, match="transparent"):
            scheme.new_sum().add(wire.encode(transparent.reshape(-1), p))
    with pytest.raises(AggregationError, match="zero throughout"):
        scheme.new_sum().add(wire.encode(np.zeros_like(blocks).reshape(-1), p))
    changed = blocks.copy()
    changed[0, 0, 7] = (int(changed[0, 0, 7]) + 2**50) % p.modulus
    total = summed(scheme, [wire.encode(changed.reshape(-1), p)])
    with pytest.raises(AggregationError, match="doesn't decrypt"):
        scheme.answer(total, private_key=keys.private, contributors=1)
    other = make(dimension=5000, cohort=3, max_abs_sum=100)
    with pytest.raises(AggregationError, match="other parameters"):
        other.new_sum().add(good)


def test_counts_and_answers_are_checked() -> None:
    scheme = make(dimension=10, cohort=1, max_abs_sum=100)
    keys = scheme.make_keys()
    upload = encrypt(scheme, keys, np.arange(10))
    total = summed(scheme, [upload])
    with pytest.raises(AggregationError, match="cohort"):
        total.add(upload)
    with pytest.raises(AggregationError, match="not the 2 stated"):
        scheme.answer(total, private_key=keys.private, contributors=2)
    answer = scheme.answer(total, private_key=keys.private, contributors=1)
    where = {"threshold": 1, "contributors": 1, "training_id": "ab" * 32, "round_number": 1}
    for answers in ({}, {1: answer[:-1]}, {1: answer + b"0"}, {1: b""}, {1: answer, 2: answer}, {1: upload}):
        with pytest.raises(AggregationError):
            scheme.open(total, answers=answers, **where)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value"),
    [("dimension", 0), ("cohort", 5000), ("field_bits", 40), ("field_bits", 1), ("name", "kahe")],
)
def test_parameters_that_are_not_exact_or_out_of_range_are_refused(field: str, value: object) -> None:
    values = {"name": "ckks", "dimension": 10, "cohort": 4, "field_bits": 20} | {field: value}
    with pytest.raises(AggregationError):
        CkksParameters(**values)  # type: ignore[arg-type]


@settings(max_examples=50, deadline=None)
@given(blob=st.binary(max_size=300), seed=st.integers(0, 2**32))
def test_rubbish_keys_raise_only_aggregation_errors(blob: bytes, seed: int) -> None:
    scheme = make(dimension=10, cohort=2, max_abs_sum=100)
    for key in (blob, np.random.default_rng(seed).bytes(scheme.public_key_bytes)):
        with pytest.raises(AggregationError):
            encrypt(scheme, KeyPair(private=b"", public=key), np.arange(10))
        with pytest.raises(AggregationError):
            total = summed(scheme, [])
            scheme.answer(total, private_key=key, contributors=1)


def test_a_training_under_one_key_ends_at_the_clear_model(tmp_path: Path) -> None:
    first, second = Cohort(tmp_path / "a"), Cohort(tmp_path / "b")
    plan = first.plan(**POLICY, committee=("m0",))
    encrypted, records = first.train(plan)
    clear, _ = second.train(second.plan(scheme="none", committee=(), threshold=0))
    assert [record.opened for record in records] == [True] * 3
    np.testing.assert_array_equal(encrypted, clear)
    assert first.merchants["m0"].store.training(plan.training_id).secrets.decryption_private is None


def caught_opening(cohort: Cohort, plan: TrainingPlan) -> tuple[UnmaskRequest, dict[str, bytes]]:
    """What the server asks the holder after the uploads, caught before it is delivered."""
    grid = InProcessGrid(cohort.app(), 4, drop=lambda kind, group, index: kind == "query.unmask")
    coordinator, _ = cohort.coordinator(plan, grid)
    coordinator.close = lambda: None  # type: ignore[method-assign]
    coordinator.run()
    (caught,) = [m for m in grid.requests if m.metadata.message_type == "query.unmask"]
    return unpack(caught.content, UnmaskRequest, max_blob_bytes=10**8)


def test_the_holder_decrypts_one_signed_set_a_round_and_nothing_else(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    plan = cohort.plan(**POLICY, committee=("m0",), rounds=1)
    request, blobs = caught_opening(cohort, plan)
    holder = cohort.merchants["m0"]
    single = request.model_copy(update={"survivors": request.survivors[:1]})
    with pytest.raises(RefusedError, match="3 are required"):
        holder.unmask(single, {"ciphertext-1": blobs["ciphertext-1"]})
    swapped = blobs | {"ciphertext-2": blobs["ciphertext-1"]}
    with pytest.raises(ProtocolError, match="not the one it committed to"):
        holder.unmask(request, swapped)
    _, sent = holder.unmask(request, blobs)
    assert set(sent) == {"answer"}
    smaller = request.model_copy(update={"survivors": request.survivors[:3]})
    with pytest.raises(RefusedError, match="different request"):
        holder.unmask(smaller, blobs)
    with pytest.raises(RefusedError, match="not on the committee"):
        cohort.merchants["m1"].unmask(request, blobs)


def test_a_merchant_without_the_key_opens_single_updates_with_the_server(tmp_path: Path) -> None:
    """The scheme's limit, tried: m1 uploads the negative of m0 and m3, and the holder opens m2 alone."""
    cohort = Cohort(tmp_path)
    plan = cohort.plan(**POLICY, committee=("m0",), rounds=1)
    request, blobs = caught_opening(cohort, plan)
    scheme = derive(plan).scheme
    assert isinstance(scheme, CkksScheme)
    p = scheme.parameters
    rest = summed(scheme, [blobs["ciphertext-1"], blobs["ciphertext-4"]])
    assert isinstance(rest, ckks.CkksSum)
    negative = wire.encode((np.uint64(p.modulus) - rest.coefficients) % np.uint64(p.modulus), p)
    signed = sign_again(cohort, request.survivors[1], negative)
    survivors = (request.survivors[0], signed, *request.survivors[2:])
    _, sent = cohort.merchants["m0"].unmask(
        request.model_copy(update={"survivors": survivors}), blobs | {"ciphertext-2": negative}
    )
    secret = cohort.merchants["m0"].store.training(plan.training_id).secrets.decryption_private
    assert secret is not None
    alone = scheme.answer(summed(scheme, [blobs["ciphertext-3"]]), private_key=secret, contributors=1)
    assert sent["answer"] == alone


def sign_again(cohort: Cohort, signed: SignedCommitment, ciphertext: bytes) -> SignedCommitment:
    """The same merchant's commitment to another ciphertext."""
    commitment = signed.commitment.model_copy(update={"ciphertext_hash": sha256_hex(ciphertext)})
    identity = cohort.identities[commitment.merchant]
    signature = identity.sign(commitment.canonical_bytes(), context=COMMITMENT_CONTEXT)
    return SignedCommitment(commitment=commitment, signature=signature.hex())


def test_an_opening_that_fails_is_never_tried_again_nor_another_set_after_it(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    plan = cohort.plan(**POLICY, committee=("m0",), rounds=1)
    request, blobs = caught_opening(cohort, plan)
    # m1 signs a ciphertext of another key: the sum of this set does not decrypt.
    scheme = derive(plan).scheme
    assert isinstance(scheme, CkksScheme)
    other = encrypt(scheme, scheme.make_keys(), np.zeros(plan.dimension, dtype=np.int64))
    spoilt = sign_again(cohort, request.survivors[1], other)
    survivors = (request.survivors[0], spoilt, *request.survivors[2:])
    failing = request.model_copy(update={"survivors": survivors}), blobs | {"ciphertext-2": other}
    with pytest.raises(AggregationError, match="doesn't decrypt"):
        cohort.merchants["m0"].unmask(*failing)
    for _ in range(2):
        with pytest.raises(RefusedError, match="already has an answer"):
            cohort.merchants["m0"].unmask(request, blobs)
        with pytest.raises(RefusedError, match="isn't tried again"):
            cohort.merchants["m0"].unmask(*failing)
        cohort.restart("m0")


def test_a_key_that_the_holder_did_not_sign_is_refused_before_any_charge(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    plan = cohort.plan(**POLICY, committee=("m0",), rounds=1)
    grid = InProcessGrid(cohort.app(), 4, drop=lambda kind, group, index: kind == "train")
    coordinator, _ = cohort.coordinator(plan, grid)
    coordinator.close = lambda: None  # type: ignore[method-assign]
    coordinator.run()
    caught = next(m for m in grid.requests if m.metadata.message_type == "train")
    request, blobs = unpack(caught.content, TrainRequest, max_blob_bytes=10**8)
    scheme = make(dimension=plan.dimension, cohort=4, max_abs_sum=100)
    with pytest.raises(ProtocolError, match="not the one that its statement names"):
        cohort.merchants["m1"].train(request, blobs | {"encryption-key": scheme.make_keys().public})
    with pytest.raises(ProtocolError, match="missing"):
        cohort.merchants["m1"].train(request.model_copy(update={"encryption_key": None}), blobs)
    assert request.encryption_key is not None
    forged = request.encryption_key.model_copy(update={"signature": "0" * 128})
    with pytest.raises(ProtocolError, match="not signed"):
        cohort.merchants["m1"].train(request.model_copy(update={"encryption_key": forged}), blobs)
    assert cohort.charges("m1") == []


@pytest.mark.parametrize("committee", [(), ("m0", "m1")])
def test_one_merchant_holds_the_key(tmp_path: Path, committee: tuple[str, ...]) -> None:
    cohort = Cohort(tmp_path)
    plan = cohort.plan(scheme="ckks", committee=committee, threshold=len(committee))
    with pytest.raises(RefusedError, match="committee of 1"):
        cohort.merchants["m0"].join(JoinRequest(plan=plan))
