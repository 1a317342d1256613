"""Verification of an audit bundle."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from fedrec.errors import ConfigError
from fedrec.privacy.audit import verify as verifier


def verify(
    bundle: str | Path, *, server_keys: Collection[str] = (), merchants: Mapping[str, str] | None = None
) -> verifier.Outcome:
    """Recheck an audit bundle: chains, signatures, receipts, rules, and every epsilon from the raw history.

    Args:
        bundle: an ``audit.json``; the pages beside it are checked too.
        server_keys: the servers' public keys, obtained independently, to compare.
        merchants: merchants' public keys by name, obtained independently, to compare.

    Returns:
        The outcome: ``ok`` where everything that could be checked held, ``complete`` where nothing was
        missing, ``verdict`` in words, ``failures`` by merchant.

    Raises:
        ConfigError: a key is malformed, or the file is not an audit bundle.
    """
    try:
        anchors = verifier.Anchors(
            servers=frozenset(verifier.public_key(text) for text in server_keys),
            merchants=dict(verifier.named_key(f"{name}={key}") for name, key in (merchants or {}).items()),
        )
        return verifier.verify(Path(bundle), anchors=anchors)
    except (ValueError, verifier.UnusableError) as error:
        raise ConfigError(str(error)) from None
