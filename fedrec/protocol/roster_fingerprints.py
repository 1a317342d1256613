"""Compute the fingerprint of a roster, which people compare out of band."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Sequence

from fedrec.protocol.plan import Peer
from fedrec.protocol.schema import sha256_hex

_FINGERPRINTS: deque[tuple[tuple[Peer, ...], tuple[Peer, ...], str]] = deque(maxlen=8)
"""The last rosters, none of which can change, and their fingerprints: a plan is checked several times."""


def roster_fingerprint(roster: Sequence[Peer], witnesses: Sequence[Peer] = ()) -> str:
    """Compute the fingerprint of a roster and its witnesses, which people compare out of band.

    Args:
        roster: the merchants.
        witnesses: the witnesses.

    Returns:
        SHA-256 of all names and keys with their roles, sorted by name; 64 hexadecimal digits.
    """
    for kept, others_kept, fingerprint in tuple(_FINGERPRINTS):
        if kept is roster and others_kept is witnesses:
            return fingerprint
    merchants, others = (
        sorted([peer.name, peer.signing_key] for peer in peers) for peers in (roster, witnesses)
    )
    named = ["fedrec/roster/2", merchants, others] if others else ["fedrec/roster/1", merchants]
    result = sha256_hex(json.dumps(named, separators=(",", ":")).encode())
    if isinstance(roster, tuple) and isinstance(witnesses, tuple):
        _FINGERPRINTS.append((roster, witnesses, result))
    return result
