"""The records that a training uses: fixed once it is joined, less what is gone from the folder since.

The set is fixed outside the join's answer, whose time and words would otherwise tell of the photos. Before
every charge a record that was deleted, edited, can't be read or was forgotten drops out; one that comes back
as it was is used again; a new one waits for the next training, or for the merchant's rule to let it in. Each
of these depends on the record alone, so that two neighbouring folders still differ in that record alone in
every step, also where the record comes after the first training: were a new one to keep the others out, its
presence would move a sum by all of them.

A merchant that holds more records than its plan allows for uses each by a keyed hash of the record against a
threshold. The threshold follows from the noised size that it declared, never from the number of its records:
the k records of the smallest hashes would be another set, by two records, once a record is added.
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
    """Names records by a keyed hash: what is kept about them tells nothing without the merchant's key."""

    def __init__(self, identity: SigningIdentity) -> None:
        self._key = identity.own_secret(context=b"fedrec/record-tag/1")

    def tag(self, digest: bytes) -> bytes:
        """Return the tag of a record or photo, 16 bytes."""
        return hmac.digest(self._key, digest, "sha256")[:TAG_BYTES]

    def share(self, digest: bytes, *, training_id: str) -> float:
        """Return the record's own number in [0, 1) for a training, on a grid of 2**-53."""
        code = hmac.digest(self._key, b"keep\0" + training_id.encode() + b"\0" + digest, "sha256")
        return (int.from_bytes(code[:8], "big") >> 11) * 2.0**-53


def used_share(plan: TrainingPlan, *, declared: int) -> float:
    """Return the share of records that a merchant of this declared size uses of a plan, at most 1."""
    return min(1.0, plan.records_largest / max(1, declared))


def record_filter(plan: TrainingPlan, tags: RecordTags, *, declared: int | None) -> Callable[[bytes], bool]:
    """Return what says of a record's digest whether its merchant, of this declared size, uses it in a plan.

    Asked before pixels are read: a plan for small merchants, which its sizes are judged by, would else have a
    large one hold all its photos as inputs.
    """
    share = 1.0 if declared is None else used_share(plan, declared=declared)
    return lambda digest: tags.share(digest, training_id=plan.training_id) < share


@dataclass
class _Loaded:
    training_id: str
    data: TrainingData
    tags: tuple[bytes, ...]


class TrainingSets:
    """Fixes the set of every training, and gives what is left of it.

    ``data_for`` reads the folder as a plan takes it; what it raises leaves the merchant with noise alone, and
    is told to the merchant. ``declared`` is the size that the merchant declared, noised, None where it
    declared none.
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
        """Fix the set of a training, once: what is there now, as far as plan and policy let it be used."""
        found = self._store.fixed_set(plan.training_id)
        if found is not None:
            return found
        loaded = self._load(plan)
        if loaded is None:
            fixed = FixedSet(tags=frozenset(), held=frozenset(), version="", photo_summary=self._problem)
        else:
            fixed = self._chosen(plan, loaded, policy=policy)
        return self._store.put_fixed_set(plan.training_id, fixed)

    def _chosen(self, plan: TrainingPlan, loaded: _Loaded, *, policy: MerchantPolicy) -> FixedSet:
        data = loaded.data
        held = frozenset(map(self._tags.tag, data.held))
        version = dataset_version(self._identity, hash_of_digests(data.held))
        counted, new = self._store.counted(), 0
        if counted is not None and (held <= counted.held or policy.changed_data == "refuse"):
            # What went away is no change: everything that is used was counted before.
            new = len(held - counted.held)
            held, version = counted.held, counted.version
        elif counted is not None:
            # What is gone may come back: that another record came in between must not matter to it.
            held |= counted.held
        declared = self._declared(plan.unit)
        share = 1.0 if declared is None else used_share(plan, declared=declared)
        keeps = record_filter(plan, self._tags, declared=declared)
        tags = frozenset(
            tag
            for tag, digest in zip(loaded.tags, data.digests, strict=True)
            if tag in held and keeps(digest)
        )
        few = "" if share == 1.0 else f", about {share:.0%} of each size as the plan is for smaller merchants"
        summary = (
            f"{len(tags)} of {len(data.held)} {plan.unit}s are used{few}"
            if tags
            else f"noise alone is sent: none of {len(data.held)} {plan.unit}s is of the training's classes"
        )
        if new:
            summary += (
                f"; {new} that came since the last charge are left out: policy 'changed_data' is 'refuse', "
                "'count_together' would let them in"
            )
        return FixedSet(tags=tags, held=held, version=version, photo_summary=summary)

    def records(self, plan: TrainingPlan, fixed: FixedSet) -> Records:
        """Return the records of a training's set that are there now; none where the folder can't be read."""
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
        """Let go of a training's records."""
        if self._loaded is not None and self._loaded.training_id == training_id:
            self._loaded = None

    def _load(self, plan: TrainingPlan) -> _Loaded | None:
        try:
            data = self._data_for(plan)
        # Whatever the photos make it fail with, the server must see no difference.
        except Exception as error:
            self._problem = f"noise alone is sent: {one_line(error)}"
            # A log that is kept names no photo.
            _log.warning(
                "training %s: noise alone is sent (%s); 'fedrec client status' says why",
                plan.training_id[:16],
                type(error).__name__,
            )
            _log.debug("what it was: %s", error)
            return None
        self._loaded = _Loaded(
            training_id=plan.training_id, data=data, tags=tuple(map(self._tags.tag, data.digests))
        )
        return self._loaded
