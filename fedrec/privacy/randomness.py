"""The only source of randomness: ChaCha20 keystreams, keyed by the operating system or by a seed."""

from __future__ import annotations

import hashlib
import os
import struct

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from numpy.typing import NDArray

_KEY_BYTES = 32
_ZEROS = bytes(1 << 20)
"""Input of the cipher; kept, since allocating and clearing it took as long as the cipher."""
_MANTISSA_SHIFT = np.uint64(12)
_SEED_DOMAIN = b"fedrec/randomness/seeded/1"
_CHILD_DOMAIN = b"fedrec/randomness/child/1"


def _encode(label: str | int) -> bytes:
    """Encode a label with its type and length, so that no two label lists encode alike."""
    kind, text = (b"i", str(label)) if isinstance(label, int) else (b"s", label)
    data = text.encode()
    return kind + struct.pack("<I", len(data)) + data


class Randomness:
    """A ChaCha20 keystream (RFC 8439's block function) read as bytes, integers or uniforms.

    Streams from :meth:`from_os` are fit for noise, sampling and keys. Streams from :meth:`seeded` are NOT:
    whoever knows the seed can subtract the noise. They exist for reproducible simulations, and whatever uses
    one says so in its output (``is_seeded``).
    """

    def __init__(self, key: bytes, *, is_seeded: bool) -> None:
        if len(key) != _KEY_BYTES:
            raise ValueError(f"a ChaCha20 key has {_KEY_BYTES} bytes, not {len(key)}")
        self._key = key
        self.is_seeded = is_seeded
        # A key is used by one stream only, so that the constant nonce never repeats under it.
        stream_key = hashlib.sha256(b"fedrec/randomness/stream/1" + key).digest()
        self._cipher = Cipher(algorithms.ChaCha20(stream_key, bytes(16)), mode=None).encryptor()

    @classmethod
    def from_os(cls) -> Randomness:
        """Start a stream under a fresh key from the operating system's CSPRNG."""
        return cls(os.urandom(_KEY_BYTES), is_seeded=False)

    @classmethod
    def seeded(cls, seed: int, *labels: str | int) -> Randomness:
        """Start a reproducible stream, for simulation only: no privacy against anyone who knows the seed.

        Args:
            seed: the simulation's seed.
            labels: name of the stream; streams of different labels are independent.

        Returns:
            The stream, with ``is_seeded`` True.
        """
        encoded = b"".join(_encode(label) for label in (seed, *labels))
        return cls(hashlib.sha256(_SEED_DOMAIN + encoded).digest(), is_seeded=True)

    @classmethod
    def expanding(cls, secret: bytes, *, domain: bytes) -> Randomness:
        """Start the stream that a uniform secret is expanded into, by everybody who knows it.

        Args:
            secret: uniform bytes from the operating system's CSPRNG, at least 32.
            domain: what the secret is for; streams of different domains are independent.

        Returns:
            The stream.
        """
        return cls(hashlib.sha256(domain + secret).digest(), is_seeded=False)

    def child(self, *labels: str | int) -> Randomness:
        """Derive the independent stream of some labels; it doesn't depend on what was read from this one.

        Args:
            labels: name of the stream.

        Returns:
            The stream.
        """
        encoded = b"".join(_encode(label) for label in labels)
        key = hashlib.sha256(_CHILD_DOMAIN + self._key + encoded).digest()
        return Randomness(key, is_seeded=self.is_seeded)

    def bytes(self, count: int) -> bytes:
        """Return the next ``count`` bytes."""
        return self._keystream(count).tobytes()

    def _keystream(self, count: int) -> NDArray[np.uint8]:
        out = np.empty(count, dtype=np.uint8)
        zeros = memoryview(_ZEROS)
        for start in range(0, count, len(_ZEROS)):
            piece = out[start : start + len(_ZEROS)]
            self._cipher.update_into(zeros[: piece.size], piece.data)
        return out

    def uint64(self, count: int) -> NDArray[np.uint64]:
        """Return ``count`` uniform 64-bit integers, shape (count,)."""
        return self._keystream(8 * count).view("<u8").astype(np.uint64, copy=False)

    def uint32(self, count: int) -> NDArray[np.uint32]:
        """Return ``count`` uniform 32-bit integers, shape (count,)."""
        return self._keystream(4 * count).view("<u4").astype(np.uint32, copy=False)

    def uint16(self, count: int) -> NDArray[np.uint16]:
        """Return ``count`` uniform 16-bit integers, shape (count,)."""
        return self._keystream(2 * count).view("<u2").astype(np.uint16, copy=False)

    def uniform(self, count: int) -> NDArray[np.float64]:
        """Return uniforms strictly inside (0, 1) on the grid (k + 1/2) / 2**52.

        Each of them is a float64 without rounding: k + 1/2 has 53 digits at most.

        Args:
            count: n.

        Returns:
            float64 (n,).
        """
        mantissas = (self.uint64(count) >> _MANTISSA_SHIFT).astype(np.float64)
        uniforms: NDArray[np.float64] = (mantissas + 0.5) * 2.0**-52
        return uniforms

    def integers(self, count: int, *, bound: int) -> NDArray[np.uint64]:
        """Return integers exactly uniform on [0, bound), by masked rejection.

        Args:
            count: n.
            bound: 1 to 2**63.

        Returns:
            uint64 (n,).

        Raises:
            ValueError: ``bound`` is out of range.
        """
        if not 0 < bound <= 2**63:
            raise ValueError(f"bound must be between 1 and 2**63, not {bound}")
        mask = np.uint64((1 << (bound - 1).bit_length()) - 1)
        out = self.uint64(count) & mask
        rejected = np.flatnonzero(out >= np.uint64(bound))
        while rejected.size:
            out[rejected] = self.uint64(rejected.size) & mask
            rejected = rejected[out[rejected] >= np.uint64(bound)]
        return out
