"""Identify a merchant's records by keyed hashes, and choose by them which records a training uses."""

from __future__ import annotations

import hmac
from collections.abc import Callable

from fedrec.clients.identity_file import RECORD_TAG_CONTEXT
from fedrec.clients.store_types import TAG_BYTES, FixedSet
from fedrec.privacy.identity import SigningIdentity
from fedrec.protocol.plan import TrainingPlan


class RecordTags:
    """Identifies records by a keyed hash, which reveals nothing without the merchant's key.

    Args:
        identity: the merchant's signing identity, from which the key is derived.
    """

    def __init__(self, identity: SigningIdentity) -> None:
        self._key = identity.own_secret(context=RECORD_TAG_CONTEXT)

    def tag(self, digest: bytes) -> bytes:
        """Return the tag of a record or photo, 16 bytes."""
        return hmac.digest(self._key, digest, "sha256")[:TAG_BYTES]

    def selection_value(self, digest: bytes, *, training_id: str) -> float:
        """Return the pseudorandom number of a record in a training, which decides whether it is used.

        Args:
            digest: the record's digest, 32 bytes.
            training_id: the training.

        Returns:
            A multiple of 2**-53 in [0, 1).
        """
        code = hmac.digest(self._key, b"keep\0" + training_id.encode() + b"\0" + digest, "sha256")
        return (int.from_bytes(code[:8], "big") >> 11) * 2.0**-53


def used_share(plan: TrainingPlan, *, declared: int) -> float:
    """Compute the share of its records that a merchant uses in a training.

    Args:
        plan: the training's plan.
        declared: the noised number of units that the merchant declared.

    Returns:
        The share, at most 1.
    """
    return min(1.0, plan.records_largest / max(1, declared))


def record_filter(
    plan: TrainingPlan, tags: RecordTags, *, declared: int | None, fixed: FixedSet | None = None
) -> Callable[[bytes], bool]:
    """Make the predicate that decides, by a record's digest, whether a training uses the record.

    It is applied before pixels are read. Otherwise a plan for small merchants, whose memory is checked for
    their sizes, would make a large merchant load all its photos.

    Args:
        plan: the training's plan.
        tags: the keyed hash of the merchant's records.
        declared: the noised number of units that the merchant declared; None if it declared none.
        fixed: the training's set, once it is fixed: a round then needn't wait for the features of photos that
            were added since.

    Returns:
        The predicate.
    """
    if fixed is not None:
        return lambda digest: tags.tag(digest) in fixed.tags
    share = 1.0 if declared is None else used_share(plan, declared=declared)
    return lambda digest: tags.selection_value(digest, training_id=plan.training_id) < share
