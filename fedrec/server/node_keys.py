"""Read the keys by which merchants authenticate to Flower: ECDSA on P-384 and no other."""

from __future__ import annotations

from functools import lru_cache

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from fedrec.errors import ConfigError


@lru_cache(maxsize=4096)
def flower_key(pem: str) -> bytes:
    """Return a public key in the form that Flower uses; raise ``ConfigError`` unless it is on P-384."""
    try:
        key = load_pem_public_key(pem.encode("ascii"))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"a node key can't be read: {error}") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise ConfigError("a node key is not an elliptic-curve key on P-384")
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
