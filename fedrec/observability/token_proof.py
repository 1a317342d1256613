"""Prove to a page's script that this server knows the token, before the script sends it.

A page's port is open to every user of the machine: while the page isn't served, another user's program can
take the port and wait for the tab that is still open. The script therefore asks for the token's HMAC over a
nonce of its own, and sends the token to nobody else.
"""

from __future__ import annotations

import hmac
import re
from typing import Final

PROOF_PATH: Final = "/proof"
NONCE: Final = r"^[0-9a-f]{64}$"
"""A nonce: 32 bytes as lower-case hexadecimal digits."""
_CONTEXT: Final = b"fedrec page\n"


def is_nonce(text: str) -> bool:
    """Return whether a text is a nonce."""
    return re.fullmatch(NONCE, text) is not None


def proof_of(token: bytes, *, nonce: str) -> str:
    """Return the proof that this server knows the token, in hexadecimal digits.

    Args:
        token: the page's token; it must be random: whoever asks can try guesses against the proof.
        nonce: what the script chose.

    Returns:
        The HMAC-SHA256.
    """
    return hmac.digest(token, _CONTEXT + nonce.encode("ascii"), "sha256").hex()
