"""A merchant's keys: Ed25519 to sign; X25519 with ML-KEM-768 to receive sealed boxes.

A box stays closed to whoever breaks one of X25519 (RFC 7748) and ML-KEM-768 (FIPS 203): its key is HKDF of
both shared secrets and the whole transcript, the concatenation that Giacon, Heuer and Poettering 2018 ("KEM
Combiners") prove secure while one of the two is.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import lru_cache

from cryptography.exceptions import InvalidSignature, InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedrec._internal.shared_results import SHARED
from fedrec._internal.signed_bytes import signed_bytes
from fedrec.errors import AggregationError, ConfigError
from fedrec.privacy.randomness import Randomness

KEY_BYTES = 32
SIGNATURE_BYTES = 64

_KEM_PUBLIC_BYTES = 1184
_KEM_SEED_BYTES = 64
_KEM_CIPHERTEXT_BYTES = 1088
_TAG_BYTES = 16
SEALING_KEY_BYTES = KEY_BYTES + _KEM_PUBLIC_BYTES
"""A public sealing key: the X25519 key, then the ML-KEM-768 encapsulation key."""
SEALING_SECRET_BYTES = KEY_BYTES + _KEM_SEED_BYTES
SEAL_OVERHEAD = KEY_BYTES + _KEM_CIPHERTEXT_BYTES + _TAG_BYTES
"""Bytes that a sealed box adds to its plaintext: ephemeral key, ML-KEM ciphertext and tag, 1136."""

_SEAL_DOMAIN = b"fedrec/seal/2"
_NO_KEM = (
    "this build of the package cryptography has no ML-KEM-768: "
    "install a wheel of it, 48 or later, or build it with OpenSSL 3.5 or later"
)
# A box's key is derived from a fresh ephemeral key and used once, so a constant nonce never repeats under it.
_NONCE = bytes(12)


class SigningIdentity:
    """An Ed25519 key pair (RFC 8032) that identifies a merchant until it exchanges the key.

    Args:
        key: the private key.
        kept_secrets: an earlier key's :meth:`own_secret` by purpose, which outlive the exchange.
    """

    def __init__(self, key: Ed25519PrivateKey, *, kept_secrets: Mapping[bytes, bytes] | None = None) -> None:
        self._key = key
        self._kept_secrets = dict(kept_secrets or {})
        self._public = key.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> SigningIdentity:
        """Make a fresh key from the operating system's entropy."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_private_bytes(
        cls, data: bytes, *, kept_secrets: Mapping[bytes, bytes] | None = None
    ) -> SigningIdentity:
        """Read a private key.

        Args:
            data: 32 raw bytes.
            kept_secrets: an earlier key's :meth:`own_secret` by purpose.

        Returns:
            The identity.

        Raises:
            ValueError: the key has another length.
        """
        return cls(Ed25519PrivateKey.from_private_bytes(data), kept_secrets=kept_secrets)

    def private_bytes(self) -> bytes:
        """Return the private key, 32 raw bytes, for the merchant's own disk."""
        return self._key.private_bytes_raw()

    @property
    def public(self) -> bytes:
        """The public key, 32 raw bytes."""
        return self._public

    def sign(self, message: bytes, *, context: bytes) -> bytes:
        """Sign a message for one purpose.

        Args:
            message: any bytes.
            context: name of the purpose; a signature is valid for this one only.

        Returns:
            The signature, 64 bytes.
        """
        return self._key.sign(signed_bytes(message, context=context))

    def own_secret(self, *, context: bytes) -> bytes:
        """Return a secret of this key for one purpose, as the key of a MAC.

        Ed25519 signatures are deterministic (RFC 8032, section 5.1.6), so the result is always the same.

        Args:
            context: name of the purpose.

        Returns:
            64 bytes that only the holder of the private key can compute.
        """
        if context in self._kept_secrets:
            return self._kept_secrets[context]
        return self.sign(b"", context=context)

    def __repr__(self) -> str:
        return f"SigningIdentity(public={self._public.hex()})"


def verify(public: bytes, message: bytes, signature: bytes, *, context: bytes) -> bool:
    """Return whether a signature is valid; malformed input gives False.

    Args:
        public: the signer's public key, 32 bytes.
        message: the signed bytes.
        signature: 64 bytes.
        context: name of the purpose that it was signed for.

    Returns:
        True if ``public`` signed this message for this purpose.
    """
    if len(public) != KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    # Committee members that one process hosts verify the same signatures, and so does the server.
    return SHARED.of(
        ("signature", public, signature, context, message),
        lambda: _verify(public, message, signature, context),
        size=lambda _: len(message) + 512,
    )


def _verify(public: bytes, message: bytes, signature: bytes, context: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, signed_bytes(message, context=context))
    except (InvalidSignature, ValueError):
        return False
    return True


class SealingKey:
    """An X25519 and an ML-KEM-768 key pair that receives sealed boxes; made per training, then erased."""

    def __init__(self, key: X25519PrivateKey, kem: MLKEM768PrivateKey) -> None:
        self._key, self._kem = key, kem
        self._public = key.public_key().public_bytes_raw() + kem.public_key().public_bytes_raw()

    @classmethod
    def generate(cls, rng: Randomness | None = None) -> SealingKey:
        """Make a fresh key pair.

        Args:
            rng: stream to draw it from, for simulation only; None for the operating system's entropy.

        Returns:
            The key pair.

        Raises:
            ConfigError: the installed package ``cryptography`` was built without ML-KEM.
        """
        try:
            if rng is not None:
                return cls.from_private_bytes(rng.bytes(SEALING_SECRET_BYTES))
            return cls(X25519PrivateKey.generate(), MLKEM768PrivateKey.generate())
        except UnsupportedAlgorithm:
            raise ConfigError(_NO_KEM) from None

    @classmethod
    def from_private_bytes(cls, data: bytes) -> SealingKey:
        """Read :meth:`private_bytes`, 96 raw bytes; ``ValueError`` for another length."""
        key, seed = data[:KEY_BYTES], data[KEY_BYTES:]
        return cls(X25519PrivateKey.from_private_bytes(key), MLKEM768PrivateKey.from_seed_bytes(seed))

    def private_bytes(self) -> bytes:
        """Return the X25519 key and ML-KEM-768's seed, 32 and 64 raw bytes, for the merchant's own disk."""
        return self._key.private_bytes_raw() + self._kem.private_bytes_raw()

    @property
    def public(self) -> bytes:
        """The public key, 1216 raw bytes: X25519's, then ML-KEM-768's."""
        return self._public

    def open(self, box: bytes, *, binding: bytes) -> bytes:
        """Open a box that :func:`seal` made.

        Args:
            box: the sealed bytes.
            binding: what the box is for, as it was sealed.

        Returns:
            The plaintext.

        Raises:
            AggregationError: the box is for another key or binding, or was changed.
        """
        if len(box) < SEAL_OVERHEAD:
            raise AggregationError("a sealed box is too short to be one")
        header, sealed = box[: KEY_BYTES + _KEM_CIPHERTEXT_BYTES], box[KEY_BYTES + _KEM_CIPHERTEXT_BYTES :]
        try:
            shared = self._key.exchange(X25519PublicKey.from_public_bytes(header[:KEY_BYTES]))
            # Another key's ciphertext gives a secret that nobody knows, and no error (FIPS 203, 6.3).
            encapsulated = self._kem.decapsulate(header[KEY_BYTES:])
            cipher = _box_cipher(encapsulated, shared, receiver=self._public, header=header, binding=binding)
            return cipher.decrypt(_NONCE, sealed, binding)
        except (InvalidTag, ValueError) as error:
            raise AggregationError(
                "a sealed box doesn't open: it is for another member, round or training, or was changed"
            ) from error

    def __repr__(self) -> str:
        return f"SealingKey(public={self._public[:KEY_BYTES].hex()}...)"


def _box_cipher(
    encapsulated: bytes, shared: bytes, *, receiver: bytes, header: bytes, binding: bytes
) -> ChaCha20Poly1305:
    """Derive a box's cipher from both secrets (32 bytes each), the receiver's keys and the header."""
    info = _SEAL_DOMAIN + receiver + header + struct.pack("<Q", len(binding)) + binding
    derive = HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=None, info=info)
    return ChaCha20Poly1305(derive.derive(encapsulated + shared))


@lru_cache(maxsize=128)
def _sealing_halves(public: bytes) -> tuple[X25519PublicKey, MLKEM768PublicKey]:
    """Read a public key, once for the rounds in which the same committee is sealed to.

    Returns:
        The X25519 and the ML-KEM-768 half.

    Raises:
        AggregationError: a half is malformed.
        ConfigError: the installed package ``cryptography`` was built without ML-KEM.
    """
    if len(public) != SEALING_KEY_BYTES:
        raise AggregationError(
            f"a sealing key has {len(public)} bytes, not the {SEALING_KEY_BYTES} of X25519 and ML-KEM-768"
        )
    try:
        return (
            X25519PublicKey.from_public_bytes(public[:KEY_BYTES]),
            MLKEM768PublicKey.from_public_bytes(public[KEY_BYTES:]),
        )
    except ValueError:
        raise AggregationError("the ML-KEM-768 half of a sealing key is malformed") from None
    except UnsupportedAlgorithm:
        raise ConfigError(_NO_KEM) from None


def _exchange(public: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    """Agree on two secrets with a key's holder: X25519's, its ephemeral key, ML-KEM's, its ciphertext."""
    key, kem = _sealing_halves(public)
    ephemeral = X25519PrivateKey.generate()
    try:
        shared = ephemeral.exchange(key)
    except ValueError:
        raise AggregationError(
            "the X25519 half of a sealing key is of small order: it seals nothing"
        ) from None
    encapsulated, ciphertext = kem.encapsulate()
    return shared, ephemeral.public_key().public_bytes_raw(), encapsulated, ciphertext


def check_sealing_public(public: bytes) -> None:
    """Check that :func:`seal` accepts a public key, by a trial of both halves.

    Args:
        public: 1216 bytes.

    Raises:
        AggregationError: a half isn't a usable key.
    """
    _exchange(public)


def seal(public: bytes, plaintext: bytes, *, binding: bytes) -> bytes:
    """Seal bytes to a :class:`SealingKey`, by X25519, ML-KEM-768, HKDF-SHA256 and ChaCha20-Poly1305.

    Args:
        public: the receiver's public key, 1216 bytes.
        plaintext: any bytes.
        binding: what the box is for; it enters the key derivation and is authenticated, and the receiver must
            give the same.

    Returns:
        Ephemeral public key, ML-KEM ciphertext, then ciphertext and tag: ``SEAL_OVERHEAD`` bytes more than
        the plaintext.

    Raises:
        AggregationError: a half of ``public`` isn't a usable key.
    """
    shared, ephemeral, encapsulated, ciphertext = _exchange(public)
    header = ephemeral + ciphertext
    cipher = _box_cipher(encapsulated, shared, receiver=public, header=header, binding=binding)
    return header + cipher.encrypt(_NONCE, plaintext, binding)
