"""The extra that recognition needs."""

from __future__ import annotations

from fedrec._internal import extras


def require_packages(*modules: str, purpose: str) -> None:
    """Check that packages of the extra ``recognition`` are installed; imports none of them.

    Args:
        modules: names as they are imported.
        purpose: what needs them, as the beginning of a sentence.

    Raises:
        MissingExtraError: one isn't installed.
    """
    extras.require_packages(*modules, extra="recognition", purpose=purpose)
