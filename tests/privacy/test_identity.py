from __future__ import annotations

import hmac
import struct
from typing import NoReturn

import pytest
from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.errors import AggregationError, ConfigError
from fedrec.privacy.identity import (
    SEAL_OVERHEAD,
    SealingKey,
    SigningIdentity,
    check_sealing_public,
    seal,
    verify,
)
from fedrec.privacy.randomness import Randomness
from fedrec.protocol.statements import SEALING_KEY_DIGITS

CLOSED = "doesn't open: it is for another|too short to be one"
"""What the holder of a key is told of a box that isn't for it, or was changed."""


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


def test_moving_bytes_between_context_and_message_invalidates_the_signature() -> None:
    merchant = SigningIdentity.generate()
    signature = merchant.sign(b"bc", context=b"a")
    assert not verify(merchant.public, b"c", signature, context=b"ab")
    assert not verify(merchant.public, b"abc", signature, context=b"")


@settings(max_examples=50, deadline=None)
@given(public=st.binary(max_size=40), signature=st.binary(max_size=70))
def test_verify_is_false_for_rubbish(public: bytes, signature: bytes) -> None:
    assert verify(public, b"m", signature, context=b"c") is False
    assert verify(public.ljust(32, b"\1")[:32], b"m", signature.ljust(64, b"\2")[:64], context=b"c") is False


def test_keys_survive_storage_and_are_never_printed() -> None:
    merchant, member = SigningIdentity.generate(), SealingKey.generate()
    again = SigningIdentity.from_private_bytes(merchant.private_bytes())
    assert again.public == merchant.public
    assert verify(merchant.public, b"m", again.sign(b"m", context=b"c"), context=b"c")
    box = seal(member.public, b"secret", binding=b"b")
    assert SealingKey.from_private_bytes(member.private_bytes()).open(box, binding=b"b") == b"secret"
    for key in (merchant, member):
        assert key.private_bytes().hex() not in repr(key)
    with pytest.raises(ValueError, match="32 bytes"):
        SigningIdentity.from_private_bytes(b"short")
    for wrong in (
        b"",
        member.private_bytes()[:32],
        member.private_bytes()[32:],
        member.private_bytes() + b"0",
    ):
        with pytest.raises(ValueError, match=r"32|64"):
            SealingKey.from_private_bytes(wrong)


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
    with pytest.raises(AggregationError, match=CLOSED):
        other.open(box, binding=binding)
    with pytest.raises(AggregationError, match=CLOSED):
        member.open(box, binding=binding + b"\0")


def rfc5869(secret: bytes, info: bytes) -> bytes:
    """HKDF-SHA256 with no salt, 32 bytes, written out."""
    return hmac.digest(hmac.digest(bytes(32), secret, "sha256"), info + b"\x01", "sha256")


def halves(member: SealingKey) -> tuple[X25519PrivateKey, MLKEM768PrivateKey]:
    """What whoever breaks one or the other of a member's keys has."""
    private = member.private_bytes()
    return X25519PrivateKey.from_private_bytes(private[:32]), MLKEM768PrivateKey.from_seed_bytes(private[32:])


def opens(secret: bytes, info: bytes, box: bytes, binding: bytes) -> bool:
    try:
        ChaCha20Poly1305(rfc5869(secret, info)).decrypt(bytes(12), box[1120:], binding)
    except InvalidTag:
        return False
    return True


def test_a_boxs_key_is_derived_from_both_secrets_and_the_whole_transcript() -> None:
    member, binding = SealingKey.generate(), b"what the box is for"
    box = seal(member.public, b"share", binding=binding)
    key, kem = halves(member)
    assert member.public == key.public_key().public_bytes_raw() + kem.public_key().public_bytes_raw()
    assert len(member.public) == 2 * 608 == SEALING_KEY_DIGITS // 2 and len(member.private_bytes()) == 96
    ephemeral, ciphertext = box[:32], box[32:1120]
    shared = key.exchange(X25519PublicKey.from_public_bytes(ephemeral))
    encapsulated = kem.decapsulate(ciphertext)
    domain, bound = b"fedrec/seal/2", struct.pack("<Q", len(binding)) + binding
    info = domain + member.public + ephemeral + ciphertext + bound
    assert opens(encapsulated + shared, info, box, binding)
    assert not opens(encapsulated + shared, info, box, b"")  # the binding is authenticated besides
    # One secret, or the other with anything known in the missing one's place.
    for less in (shared, encapsulated, encapsulated + bytes(32), bytes(32) + shared, shared + encapsulated):
        assert not opens(less, info, box, binding)
    # Each part of the transcript changes the key.
    for other in (
        b"",
        domain + ephemeral + ciphertext + bound,
        domain + member.public + ciphertext + bound,
        domain + member.public + ephemeral + bound,
        domain + member.public + ephemeral + ciphertext,
        domain + member.public[:32] + ephemeral + ciphertext + bound,
    ):
        assert not opens(encapsulated + shared, other, box, binding)


def test_recorded_traffic_stays_closed_when_one_half_is_broken() -> None:
    """With the member's whole X25519 key, or its whole ML-KEM key, and every box that was ever sent to it."""
    member, other = SealingKey.generate(), SealingKey.generate()
    boxes = [seal(member.public, b"share", binding=b"b") for _ in range(5)]
    (key, kem), (other_key, other_kem) = halves(member), halves(other)
    for broken in (SealingKey(key, other_kem), SealingKey(other_key, kem)):
        for box in boxes:
            with pytest.raises(AggregationError, match=CLOSED):
                broken.open(box, binding=b"b")
            shared = key.exchange(X25519PublicKey.from_public_bytes(box[:32]))
            encapsulated = kem.decapsulate(box[32:1120])
            info = b"fedrec/seal/2" + member.public + box[:1120] + struct.pack("<Q", 1) + b"b"
            guess = other_kem.decapsulate(box[32:1120])
            assert not opens(guess + shared, info, box, b"b")
            assert not opens(encapsulated + other_key.exchange(key.public_key()), info, box, b"b")


def test_halves_of_two_boxes_or_two_keys_do_not_go_together() -> None:
    member, other = SealingKey.generate(), SealingKey.generate()
    one, two = (seal(member.public, b"share", binding=b"b") for _ in range(2))
    for mixed in (
        two[:32] + one[32:],
        one[:32] + two[32:1120] + one[1120:],
        one[:1120] + two[1120:],
        one[32:],  # without the X25519 half
        one[:32] + one[1120:],  # without the ML-KEM half
        bytes(32) + one[32:],
        one[:32] + bytes(1088) + one[1120:],
    ):
        with pytest.raises(AggregationError, match=CLOSED):
            member.open(mixed, binding=b"b")
    mixed_key = member.public[:32] + other.public[32:]
    with pytest.raises(AggregationError, match=CLOSED):
        member.open(seal(mixed_key, b"share", binding=b"b"), binding=b"b")


def test_a_machine_without_the_algorithm_gets_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    public = SealingKey.generate().public

    def unsupported(*_: object) -> NoReturn:
        raise UnsupportedAlgorithm("no")

    for half, name in ((MLKEM768PrivateKey, "generate"), (MLKEM768PublicKey, "from_public_bytes")):
        monkeypatch.setattr(f"fedrec.privacy.identity.{half.__name__}", type("", (), {name: unsupported}))
    for call in (
        SealingKey.generate,
        lambda: seal(public, b"", binding=b""),
        lambda: check_sealing_public(public),
    ):
        with pytest.raises(ConfigError, match="has no ML-KEM-768"):
            call()


def test_changed_boxes_do_not_open() -> None:
    member = SealingKey.generate()
    box = seal(member.public, b"share", binding=b"b")
    for position in (*range(0, 1120, 13), *range(1120, len(box))):
        broken = bytearray(box)
        broken[position] ^= 1
        with pytest.raises(AggregationError, match=CLOSED):
            member.open(bytes(broken), binding=b"b")
    for wrong in (box[:-1], box + b"\0", b"", box[:SEAL_OVERHEAD]):
        with pytest.raises(AggregationError, match=CLOSED):
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
    good = SealingKey.generate().public
    check_sealing_public(good)
    key, kem = good[:32], good[32:]
    # Coefficients of 12 bits, two in three bytes; the modulus is 3329 (FIPS 203, 7.2 has them checked).
    beyond = (3329).to_bytes(3, "little")
    for public, reason in (
        *((point.to_bytes(32, "little") + kem, "small order") for point in SMALL_ORDER),
        *((key + kem[:at] + beyond + kem[at + 3 :], "ML-KEM-768") for at in (0, 3, 1149)),
        (key + b"\xff" * 1184, "ML-KEM-768"),
        *((public, "bytes") for public in (b"", b"short", key, kem, good[:-1], good + b"\0", kem + b"\0")),
    ):
        with pytest.raises(AggregationError, match=reason):
            check_sealing_public(public)
        with pytest.raises(AggregationError, match=reason):
            seal(public, b"share", binding=b"b")


@pytest.mark.parametrize("point", [0, 1, FIELD])
def test_a_box_with_an_ephemeral_key_of_small_order_is_refused(point: int) -> None:
    """Its X25519 secret, all zeros, is known to everybody; what is left would rest on ML-KEM alone."""
    member = SealingKey.generate()
    encapsulated, ciphertext = halves(member)[1].public_key().encapsulate()
    header = point.to_bytes(32, "little") + ciphertext
    info = b"fedrec/seal/2" + member.public + header + struct.pack("<Q", 1) + b"b"
    cipher = ChaCha20Poly1305(rfc5869(encapsulated + bytes(32), info))
    box = header + cipher.encrypt(bytes(12), b"share", b"b")
    with pytest.raises(AggregationError, match="doesn't open"):
        member.open(box, binding=b"b")
