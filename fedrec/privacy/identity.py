"""A merchant's keys: Ed25519 to sign, X25519 to receive sealed boxes."""

from __future__ import annotations

import struct

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedrec.errors import AggregationError
from fedrec.privacy.randomness import Randomness

KEY_BYTES = 32
SIGNATURE_BYTES = 64
SEAL_OVERHEAD = 48
"""Bytes that a sealed box has more than its plaintext: the ephemeral key (32) and the tag (16)."""

_SIGN_DOMAIN = b"fedrec/sign/1"
_SEAL_DOMAIN = b"fedrec/seal/1"
# A box's key is derived from a fresh ephemeral key and used once, so a constant nonce never repeats under it.
_NONCE = bytes(12)


def _signed(message: bytes, context: bytes) -> bytes:
    """Join domain, context and message, length-prefixed, so that no two pairs encode alike."""
    return (
        _SIGN_DOMAIN + struct.pack("<Q", len(context)) + context + struct.pack("<Q", len(message)) + message
    )


class SigningIdentity:
    """An Ed25519 key pair (RFC 8032), the long-lived name of a merchant."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self._public = key.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> SigningIdentity:
        """Make a fresh key from the operating system's entropy."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_private_bytes(cls, data: bytes) -> SigningIdentity:
        """Read a private key of 32 raw bytes; raises ``ValueError`` for another length."""
        return cls(Ed25519PrivateKey.from_private_bytes(data))

    def private_bytes(self) -> bytes:
        """Return the private key, 32 raw bytes, for the merchant's own disk."""
        return self._key.private_bytes_raw()

    @property
    def public(self) -> bytes:
        """The public key, 32 raw bytes."""
        return self._public

    def sign(self, message: bytes, *, context: bytes) -> bytes:
        """Sign a message for one purpose, named by ``context``; returns 64 bytes."""
        return self._key.sign(_signed(message, context))

    def __repr__(self) -> str:
        return f"SigningIdentity(public={self._public.hex()})"


def verify(public: bytes, message: bytes, signature: bytes, *, context: bytes) -> bool:
    """Tell whether a signature is that of ``public`` on this message for this purpose; rubbish is False."""
    if len(public) != KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, _signed(message, context))
    except (InvalidSignature, ValueError):
        return False
    return True


def _box_cipher(shared: bytes, *, ephemeral: bytes, receiver: bytes, binding: bytes) -> ChaCha20Poly1305:
    info = _SEAL_DOMAIN + ephemeral + receiver + struct.pack("<Q", len(binding)) + binding
    derive = HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=None, info=info)
    return ChaCha20Poly1305(derive.derive(shared))


class SealingKey:
    """An X25519 key pair (RFC 7748) that sealed boxes are addressed to; made per training, then erased."""

    def __init__(self, key: X25519PrivateKey) -> None:
        self._key = key
        self._public = key.public_key().public_bytes_raw()

    @classmethod
    def generate(cls, rng: Randomness | None = None) -> SealingKey:
        """Make a fresh key, from the operating system's entropy or from the stream given (for simulation)."""
        if rng is None:
            return cls(X25519PrivateKey.generate())
        return cls(X25519PrivateKey.from_private_bytes(rng.bytes(KEY_BYTES)))

    @classmethod
    def from_private_bytes(cls, data: bytes) -> SealingKey:
        """Read a private key of 32 raw bytes; raises ``ValueError`` for another length."""
        return cls(X25519PrivateKey.from_private_bytes(data))

    def private_bytes(self) -> bytes:
        """Return the private key, 32 raw bytes, for the merchant's own disk."""
        return self._key.private_bytes_raw()

    @property
    def public(self) -> bytes:
        """The public key, 32 raw bytes."""
        return self._public

    def open(self, box: bytes, *, binding: bytes) -> bytes:
        """Open a box of :func:`seal`; raises ``AggregationError`` unless it is for this key and binding."""
        if len(box) < SEAL_OVERHEAD:
            raise AggregationError("a sealed box is too short to be one")
        ephemeral, sealed = box[:KEY_BYTES], box[KEY_BYTES:]
        try:
            shared = self._key.exchange(X25519PublicKey.from_public_bytes(ephemeral))
            cipher = _box_cipher(shared, ephemeral=ephemeral, receiver=self._public, binding=binding)
            return cipher.decrypt(_NONCE, sealed, binding)
        except (InvalidTag, ValueError) as error:
            raise AggregationError(
                "a sealed box doesn't open: it is for another member, round or training, or was changed"
            ) from error

    def __repr__(self) -> str:
        return f"SealingKey(public={self._public.hex()})"


def can_seal_to(public: bytes) -> bool:
    """Tell whether :func:`seal` takes this X25519 key: by a trial exchange, which a small order fails."""
    try:
        X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        return False
    return True


def seal(public: bytes, plaintext: bytes, *, binding: bytes) -> bytes:
    """Seal bytes to the holder of an X25519 key: ephemeral X25519, HKDF-SHA256 (RFC 5869), ChaCha20-Poly1305.

    ``binding`` names what the box is for; it enters the key derivation and is authenticated, and the receiver
    must name the same. Returns ephemeral public key, ciphertext and tag. Raises ``AggregationError`` if
    ``public`` isn't a usable key.
    """
    key = X25519PrivateKey.generate()
    ephemeral = key.public_key().public_bytes_raw()
    try:
        shared = key.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise AggregationError("a member's sealing key isn't a valid X25519 public key") from error
    cipher = _box_cipher(shared, ephemeral=ephemeral, receiver=public, binding=binding)
    return ephemeral + cipher.encrypt(_NONCE, plaintext, binding)
