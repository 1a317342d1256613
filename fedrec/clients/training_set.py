"""Fix the records that a training uses, and load those that are still in the folder at each step.

The set is fixed after the reply to the join is sent, because otherwise the reply's content or duration would
depend on the photos. Before every charge, a record that was deleted, edited, forgotten or can't be read is
removed; a record that is restored unchanged is used again; a new record waits for the next training, or is
left out if the policy says so. Each decision depends on that record alone. Two neighbouring folders therefore
differ in one record in every step, even if the record was added after the first training. If a new record
excluded the others, its presence would change a sum by all of them.

A merchant with more records than its plan allows uses those whose keyed hash is below a threshold. The
threshold follows from the noised size that the merchant declared, never from its number of records. Taking
the k smallest hashes instead would change the set by two records when one record is added.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from fedrec._internal.text import one_line
from fedrec.clients.charging import dataset_version
from fedrec.clients.policy import MerchantPolicy
from fedrec.clients.records import Records, TrainingData
from fedrec.clients.store import MerchantStore
from fedrec.clients.store_types import TAG_BYTES, FixedSet
from fedrec.privacy.identity import SigningIdentity
from fedrec.protocol.plan import TrainingPlan, Unit
from fedrec.vision.imageset import hash_of_digests

_log = logging.getLogger(__name__)


class RecordTags:
    """Identifies records by a keyed hash, which reveals nothing without the merchant's key.

    Args:
        identity: the merchant's signing identity, from which the key is derived.

    """

    def __init__(self, identity: SigningIdentity) -> None:
        self._key = identity.own_secret(context=b"fedrec/record-tag/1")

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


def record_filter(plan: TrainingPlan, tags: RecordTags, *, declared: int | None) -> Callable[[bytes], bool]:
    """Make the predicate that decides, by a record's digest, whether a training uses the record.

    It is applied before pixels are read. Otherwise a plan for small merchants, whose memory is checked for
    their sizes, would make a large merchant load all its photos.

    Args:
        plan: the training's plan.
        tags: the keyed hash of the merchant's records.
        declared: the noised number of units that the merchant declared; None if it declared none.

    Returns:
        The predicate.

    """
    share = 1.0 if declared is None else used_share(plan, declared=declared)
    return lambda digest: tags.selection_value(digest, training_id=plan.training_id) < share


@dataclass
class _Loaded:
    training_id: str
    data: TrainingData
    tags: tuple[bytes, ...]


class TrainingSets:
    """Fixes the set of each training, and returns the records of the set that are still in the folder.

    Args:
        store: the merchant's open store.
        identity: its signing identity.
        data_for: loads the records in the form that a plan's model takes. If it fails, the merchant uploads
            noise alone, and the error is reported to the merchant only.
        declared: returns the noised number of units that the merchant declared; None if it declared none.
        device: the device of the tensors.

    """

    def __init__(
        self,
        *,
        store: MerchantStore,
        identity: SigningIdentity,
        data_for: Callable[[TrainingPlan], TrainingData],
        declared: Callable[[Unit], int | None],
        device: torch.device,
    ) -> None:
        self._store = store
        self._identity = identity
        self._tags = RecordTags(identity)
        self._data_for = data_for
        self._declared = declared
        self._device = device
        self._loaded: _Loaded | None = None
        self._problem = ""

    def fix(self, plan: TrainingPlan, *, policy: MerchantPolicy) -> FixedSet:
        """Fix the set of a training, once: the records in the folder that plan and policy allow.

        Args:
            plan: the training's plan.
            policy: the rules in force.

        Returns:
            The fixed set.

        """
        found = self._store.fixed_set(plan.training_id)
        if found is not None:
            return found
        loaded = self._load(plan)
        if loaded is None:
            fixed = FixedSet(tags=frozenset(), held=frozenset(), version="", photo_summary=self._problem)
        else:
            fixed = self._choose(plan, loaded, policy=policy)
        return self._store.put_fixed_set(plan.training_id, fixed)

    def _choose(self, plan: TrainingPlan, loaded: _Loaded, *, policy: MerchantPolicy) -> FixedSet:
        data = loaded.data
        held = frozenset(map(self._tags.tag, data.held))
        version = dataset_version(self._identity, hash_of_digests(data.held))
        counted, new = self._store.counted(), 0
        if counted is not None and (held <= counted.held or policy.changed_data == "refuse"):
            # A missing record is no change: every record that is used was counted before.
            new = len(held - counted.held)
            held, version = counted.held, counted.version
        elif counted is not None:
            # A missing record may come back, and whether others were added meanwhile must not affect it.
            held |= counted.held
        declared = self._declared(plan.unit)
        share = 1.0 if declared is None else used_share(plan, declared=declared)
        keeps = record_filter(plan, self._tags, declared=declared)
        tags = frozenset(
            tag
            for tag, digest in zip(loaded.tags, data.digests, strict=True)
            if tag in held and keeps(digest)
        )
        few = "" if share == 1.0 else f" (about {share:.0%}, because the plan is for smaller merchants)"
        summary = (
            f"{len(tags)} of {len(data.held)} {plan.unit}s are used{few}"
            if tags
            else f"noise alone is sent: none of {len(data.held)} {plan.unit}s has a class of the training"
        )
        if new:
            summary += (
                f"; {new} added since the last charge are left out: policy 'changed_data' is 'refuse', "
                "'count_together' would include them"
            )
        return FixedSet(tags=tags, held=held, version=version, photo_summary=summary)

    def records(self, plan: TrainingPlan, fixed: FixedSet) -> Records:
        """Return the records of a training's set that are in the folder now.

        Args:
            plan: the training's plan.
            fixed: its fixed set.

        Returns:
            The records; none if the folder can't be read.

        """
        loaded = self._loaded
        if loaded is None or loaded.training_id != plan.training_id:
            loaded = self._load(plan) if fixed.tags else None
            if loaded is None:
                return Records.none(self._device)
        forgotten = self._store.forgotten()
        data = loaded.data
        left = [
            index
            for index, tag in enumerate(loaded.tags)
            if tag in fixed.tags
            and not (forgotten and forgotten.intersection(map(self._tags.tag, data.photos_of(index))))
            and data.holds(index)
        ]
        if len(left) == len(loaded.tags):
            return Records(data.inputs, data.labels)
        chosen = torch.from_numpy(np.array(left, dtype=np.int64))
        return Records(data.inputs[chosen.to(data.inputs.device)], data.labels[chosen.to(data.labels.device)])

    def close(self, training_id: str) -> None:
        """Drop a training's records from memory."""
        if self._loaded is not None and self._loaded.training_id == training_id:
            self._loaded = None

    def _load(self, plan: TrainingPlan) -> _Loaded | None:
        try:
            data = self._data_for(plan)
        # Every exception is caught: the server must not see that the photos cause a failure.
        except Exception as error:
            self._problem = f"noise alone is sent: {one_line(error)}"
            # Names of photos must not be kept in a log.
            _log.warning(
                "training %s: noise alone is sent (%s); 'fedrec client status' says why",
                plan.training_id[:16],
                type(error).__name__,
            )
            _log.debug("details: %s", error)
            return None
        self._loaded = _Loaded(
            training_id=plan.training_id, data=data, tags=tuple(map(self._tags.tag, data.digests))
        )
        return self._loaded
