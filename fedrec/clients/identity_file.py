"""Read and write the file of a party's identity key.

A merchant identifies its records by hashes under secrets that follow from its first identity key. They
outlive an exchange of the key: otherwise all photos would look new, and those that were to be forgotten would
be used again. A file whose key was exchanged therefore has those secrets after the key.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from fedrec._internal.files import sync_folder
from fedrec.errors import ConfigError
from fedrec.privacy.identity import KEY_BYTES, SIGNATURE_BYTES, SigningIdentity

RECORD_TAG_CONTEXT = b"fedrec/record-tag/1"
DATASET_VERSION_CONTEXT = b"fedrec/dataset-version/1"

_KEPT = (RECORD_TAG_CONTEXT, DATASET_VERSION_CONTEXT)
_WHOLE = KEY_BYTES + len(_KEPT) * SIGNATURE_BYTES


def read_identity(path: Path) -> SigningIdentity:
    """Read an identity key.

    Returns:
        The identity, with the secrets of earlier keys.

    Raises:
        ConfigError: the file can't be used.
    """
    try:
        data = path.read_bytes()
        key, secrets = (data[:KEY_BYTES], data[KEY_BYTES:]) if len(data) == _WHOLE else (data, b"")
        kept = {
            context: secrets[start : start + SIGNATURE_BYTES]
            for context, start in zip(_KEPT, range(0, len(secrets), SIGNATURE_BYTES), strict=False)
        }
        return SigningIdentity.from_private_bytes(key, kept_secrets=kept)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} can't be used: {error}; restore it from a backup") from None


def successor(identity: SigningIdentity) -> bytes:
    """Make a fresh key that goes on with the secrets of an identity.

    Args:
        identity: the present identity.

    Returns:
        The content of the successor's file.
    """
    secrets = [identity.own_secret(context=context) for context in _KEPT]
    return b"".join((SigningIdentity.generate().private_bytes(), *secrets))


def current_identity(file: Path, *, waiting: Path, is_recorded: Callable[[bytes], bool]) -> SigningIdentity:
    """Read a party's identity key; finish an exchange of keys that a crash stopped.

    Args:
        file: the identity key.
        waiting: the key that takes its place once the exchange is on record.
        is_recorded: whether the last exchange on record led to a public key.

    Returns:
        The identity.

    Raises:
        ConfigError: a key can't be used.
        LedgerError: the record can't be read.
    """
    if waiting.exists() and is_recorded(read_identity(waiting).public):
        adopt(file, waiting=waiting)
    return read_identity(file)


def adopt(file: Path, *, waiting: Path) -> None:
    """Replace the identity key by the next one; the old key is gone.

    Args:
        file: the identity key.
        waiting: the next one; another process may have moved it already.
    """
    with suppress(FileNotFoundError):
        waiting.replace(file)
    sync_folder(file.parent)
