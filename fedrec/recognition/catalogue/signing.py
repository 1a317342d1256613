"""Sign and check published catalogues with Ed25519."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedrec._internal.files import write_secret
from fedrec._internal.signed_bytes import signed_bytes
from fedrec.errors import ConfigError

_CONTEXT: Final = b"fedrec/published-catalogue/1"
KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64


class Signer(Protocol):
    """A private key that signs, such as a merchant's identity."""

    @property
    def public(self) -> bytes:
        """The public key, 32 raw bytes."""
        ...

    def sign(self, message: bytes, *, context: bytes) -> bytes:
        """Sign a message for one purpose.

        Args:
            message: any bytes.
            context: name of the purpose.

        Returns:
            The signature, 64 bytes.
        """
        ...


class CatalogueKey:
    """A key of one catalogue's own, in a file (mode 0600) that is made on first use.

    Args:
        path: the file.

    Raises:
        ConfigError: the file holds no key.
    """

    def __init__(self, path: Path) -> None:
        with suppress(FileExistsError):
            write_secret(path, Ed25519PrivateKey.generate().private_bytes_raw())
        try:
            self._key = Ed25519PrivateKey.from_private_bytes(path.read_bytes())
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} can't be used as a key ({error}): restore it from a backup") from None

    @property
    def public(self) -> bytes:
        """The public key, 32 raw bytes."""
        return self._key.public_key().public_bytes_raw()

    def sign(self, message: bytes, *, context: bytes) -> bytes:
        """Sign a message for one purpose.

        Args:
            message: any bytes.
            context: name of the purpose.

        Returns:
            The signature, 64 bytes.
        """
        return self._key.sign(signed_bytes(message, context=context))


def sign_digest(signer: Signer, digest: bytes) -> bytes:
    """Sign the digest of a published catalogue.

    Args:
        signer: the merchant's key.
        digest: 32 bytes.

    Returns:
        The signature, 64 bytes.
    """
    return signer.sign(digest, context=_CONTEXT)


def is_signed(public: bytes, digest: bytes, signature: bytes) -> bool:
    """Tell whether the digest of a published catalogue is signed.

    Args:
        public: the merchant's public key, 32 bytes.
        digest: 32 bytes.
        signature: 64 bytes.

    Returns:
        Whether the key's holder signed it.
    """
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, signed_bytes(digest, context=_CONTEXT))
    except (InvalidSignature, ValueError):
        return False
    return True
