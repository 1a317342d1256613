from __future__ import annotations

import hmac
import struct

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.errors import AggregationError
from fedrec.privacy.identity import SEAL_OVERHEAD, SealingKey, SigningIdentity, can_seal_to, seal, verify
from fedrec.privacy.randomness import Randomness


def test_signatures_hold_for_one_message_context_and_key() -> None:
    merchant, other = SigningIdentity.generate(), SigningIdentity.generate()
    signature = merchant.sign(b"message", context=b"upload")
    assert len(merchant.public) == 32 and len(signature) == 64
    assert verify(merchant.public, b"message", signature, context=b"upload")
    assert not verify(merchant.public, b"message!", signature, context=b"upload")
    assert not verify(merchant.public, b"message", signature, context=b"answer")
    assert not verify(other.public, b"message", signature, context=b"upload")
    for bit in range(0, 512, 7):
        broken = bytearray(signature)
        broken[bit // 8] ^= 1 << bit % 8
        assert not verify(merchant.public, b"message", bytes(broken), context=b"upload")


def test_moving_bytes_between_context_and_message_breaks_the_signature() -> None:
    merchant = SigningIdentity.generate()
    signature = merchant.sign(b"bc", context=b"a")
    assert not verify(merchant.public, b"c", signature, context=b"ab")
    assert not verify(merchant.public, b"abc", signature, context=b"")


@settings(max_examples=50, deadline=None)
@given(public=st.binary(max_size=40), signature=st.binary(max_size=70))
def test_verify_is_false_for_rubbish(public: bytes, signature: bytes) -> None:
    assert verify(public, b"m", signature, context=b"c") is False
    assert verify(public.ljust(32, b"\1")[:32], b"m", signature.ljust(64, b"\2")[:64], context=b"c") is False


def test_keys_survive_storage_and_never_show() -> None:
    merchant, member = SigningIdentity.generate(), SealingKey.generate()
    again = SigningIdentity.from_private_bytes(merchant.private_bytes())
    assert again.public == merchant.public
    assert verify(merchant.public, b"m", again.sign(b"m", context=b"c"), context=b"c")
    box = seal(member.public, b"secret", binding=b"b")
    assert SealingKey.from_private_bytes(member.private_bytes()).open(box, binding=b"b") == b"secret"
    for key in (merchant, member):
        assert key.private_bytes().hex() not in repr(key)
    with pytest.raises(ValueError):
        SigningIdentity.from_private_bytes(b"short")


def test_seeded_sealing_keys_repeat_and_others_do_not() -> None:
    one = SealingKey.generate(Randomness.seeded(1))
    assert one.public == SealingKey.generate(Randomness.seeded(1)).public
    assert one.public != SealingKey.generate(Randomness.seeded(2)).public
    assert SealingKey.generate().public != SealingKey.generate().public


@settings(max_examples=25, deadline=None)
@given(plaintext=st.binary(max_size=200), binding=st.binary(max_size=50))
def test_boxes_open_for_the_member_and_binding_alone(plaintext: bytes, binding: bytes) -> None:
    member, other = SealingKey.generate(), SealingKey.generate()
    box = seal(member.public, plaintext, binding=binding)
    assert len(box) == len(plaintext) + SEAL_OVERHEAD
    assert member.open(box, binding=binding) == plaintext
    assert box != seal(member.public, plaintext, binding=binding)
    with pytest.raises(AggregationError):
        other.open(box, binding=binding)
    with pytest.raises(AggregationError):
        member.open(box, binding=binding + b"\0")


def test_a_boxs_key_is_derived_from_both_keys_and_the_binding() -> None:
    """By HKDF as RFC 5869 has it, written out; the info is what makes one exchange's keys differ."""
    member, binding = SealingKey.generate(), b"what the box is for"
    box = seal(member.public, b"share", binding=binding)
    ephemeral, sealed = box[:32], box[32:]
    shared = X25519PrivateKey.from_private_bytes(member.private_bytes()).exchange(
        X25519PublicKey.from_public_bytes(ephemeral)
    )

    def derive(info: bytes) -> bytes:
        pseudorandom = hmac.digest(bytes(32), shared, "sha256")
        return hmac.digest(pseudorandom, info + b"\x01", "sha256")

    def opens(info: bytes, bound: bytes) -> bool:
        try:
            return ChaCha20Poly1305(derive(info)).decrypt(bytes(12), sealed, bound) == b"share"
        except InvalidTag:
            return False

    info = b"fedrec/seal/1" + ephemeral + member.public + struct.pack("<Q", len(binding)) + binding
    assert opens(info, binding)
    assert not opens(info, b"")  # the binding is authenticated besides
    without = (
        b"",
        b"fedrec/seal/1",
        b"fedrec/seal/1" + ephemeral + member.public,
        b"fedrec/seal/1" + struct.pack("<Q", len(binding)) + binding,
    )
    assert not any(opens(other, binding) for other in without)


def test_changed_boxes_do_not_open() -> None:
    member = SealingKey.generate()
    box = seal(member.public, b"share", binding=b"b")
    for position in range(len(box)):
        broken = bytearray(box)
        broken[position] ^= 1
        with pytest.raises(AggregationError):
            member.open(bytes(broken), binding=b"b")
    for wrong in (box[:-1], box + b"\0", b"", box[:SEAL_OVERHEAD]):
        with pytest.raises(AggregationError):
            member.open(wrong, binding=b"b")


FIELD = 2**255 - 19
SMALL_ORDER = (
    0,
    1,
    FIELD - 1,
    FIELD,
    FIELD + 1,
    # The two points of order 8 (Bernstein, "Curve25519: new Diffie-Hellman speed records", 2006).
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
)
"""All points of small order, in every encoding: with them the shared secret would be known to everybody."""


def test_degenerate_public_keys_are_refused() -> None:
    for public in (*(point.to_bytes(32, "little") for point in SMALL_ORDER), b"short", b""):
        assert not can_seal_to(public)
        with pytest.raises(AggregationError):
            seal(public, b"share", binding=b"b")
    assert can_seal_to(SealingKey.generate().public)
    with pytest.raises(AggregationError):
        SealingKey.generate().open(bytes(100), binding=b"b")
