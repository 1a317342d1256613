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

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import torch

from fedrec._internal.text import one_line
from fedrec.clients.charging import dataset_version
from fedrec.clients.photo_counts import SET_CHANGED, PhotoCounts, photo_text
from fedrec.clients.policy import MerchantPolicy
from fedrec.clients.record_tags import RecordTags, record_filter
from fedrec.clients.records import Records, TrainingData
from fedrec.clients.store import MerchantStore
from fedrec.clients.store_types import FixedSet
from fedrec.observability.deduplicated_log import DeduplicatedLog
from fedrec.privacy.identity import SigningIdentity
from fedrec.protocol.plan import TrainingPlan, Unit
from fedrec.vision.imageset import hash_of_digests

_log = logging.getLogger(__name__)
_NOISE_ALONE: Final = (
    "training {}: noise alone is sent ({}), and it costs budget; 'fedrec client status' says why, "
    "'fedrec client pause' ends that"
)


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
        self._failures = DeduplicatedLog(_log)

    def fix(self, plan: TrainingPlan, *, policy: MerchantPolicy) -> FixedSet:
        """Fix the set of a training, once it can be read: the records that plan and policy allow.

        Args:
            plan: the training's plan.
            policy: the rules in force.

        Returns:
            The fixed set.
        """
        found = self._store.fixed_set(plan.training_id)
        # A folder that could not be read at the join, such as a disk that wasn't mounted, is read as soon as
        # it can be. A policy that refuses changes would take that for one.
        if found is not None and (found.version or policy.changed_data == "refuse"):
            return found
        loaded = self._load(plan)
        if loaded is None and found is not None:
            return found
        if loaded is None:
            counts = PhotoCounts(unit=plan.unit, problem=self._problem)
            fixed = FixedSet(tags=frozenset(), held=frozenset(), version="", photo_summary="")
        else:
            fixed, added = self._choose(plan, loaded, policy=policy)
            counts = self._count(plan, loaded, fixed).model_copy(update={"added": added})
        summary = photo_text(counts, changed_data=policy.changed_data)
        stored = self._store.put_fixed_set(plan.training_id, replace(fixed, photo_summary=summary))
        self._store.put_photo_counts(plan.training_id, counts)
        self._warn_of_noise_alone(plan, counts)
        if counts.added:
            _log.info(
                "training %s: %ss were added since the last charge and are used from now on; %s",
                plan.training_id[:16],
                plan.unit,
                SET_CHANGED.format(unit=plan.unit),
            )
        elif counts.new:
            _log.info(
                "training %s: %ss that were added since the last charge are left out, as policy "
                "'changed_data' says",
                plan.training_id[:16],
                plan.unit,
            )
        return stored

    def load(self, plan: TrainingPlan, fixed: FixedSet) -> None:
        """Load the records of a training that goes on after a restart, so that its next round needn't wait.

        Args:
            plan: the training's plan.
            fixed: its fixed set.
        """
        if not fixed.tags or (self._loaded is not None and self._loaded.training_id == plan.training_id):
            return
        loaded = self._load(plan)
        before = self._store.photo_counts(plan.training_id) or PhotoCounts(unit=plan.unit)
        if loaded is None:
            counts = before.model_copy(update={"problem": self._problem, "used": 0})
        else:
            counts = self._count(plan, loaded, fixed).model_copy(update={"added": before.added})
            if counts.new:
                _log.info(
                    "training %s goes on with its own %ss; those that were added since are in no step of it: "
                    "'fedrec client status' says what becomes of them",
                    plan.training_id[:16],
                    plan.unit,
                )
        self._note(plan, counts)

    def _warn_of_noise_alone(self, plan: TrainingPlan, counts: PhotoCounts) -> None:
        """Log, once a training, that its steps use no record; a folder that can't be read was logged."""
        if counts.used or counts.problem:
            return
        why = f"no {plan.unit} of this machine is used"
        self._failures.write(plan.training_id, _NOISE_ALONE.format(plan.training_id[:16], why))

    def _note(self, plan: TrainingPlan, counts: PhotoCounts) -> None:
        """Store counts if they have changed."""
        self._warn_of_noise_alone(plan, counts)
        if counts != self._store.photo_counts(plan.training_id):
            self._store.put_photo_counts(plan.training_id, counts)

    def _choose(self, plan: TrainingPlan, loaded: _Loaded, *, policy: MerchantPolicy) -> tuple[FixedSet, int]:
        """Return a training's set, and how many of its records no earlier charge counted."""
        data = loaded.data
        held = frozenset(map(self._tags.tag, data.held))
        version = dataset_version(self._identity, hash_of_digests(data.held))
        counted, fresh = self._store.counted(), frozenset[bytes]()
        if counted is not None and (held <= counted.held or policy.changed_data == "refuse"):
            # A missing record is no change: every record that is used was counted before.
            held, version = counted.held, counted.version
        elif counted is not None:
            fresh = held - counted.held
            # A missing record may come back, and whether others were added meanwhile must not affect it.
            held |= counted.held
        keeps = self._keeps(plan)
        tags = frozenset(
            tag
            for tag, digest in zip(loaded.tags, data.digests, strict=True)
            if tag in held and keeps(digest)
        )
        return FixedSet(tags=tags, held=held, version=version, photo_summary=""), len(fresh & tags)

    def _keeps(self, plan: TrainingPlan) -> Callable[[bytes], bool]:
        return record_filter(plan, self._tags, declared=self._declared(plan.unit))

    def _count(self, plan: TrainingPlan, loaded: _Loaded, fixed: FixedSet) -> PhotoCounts:
        """Count the records in the folder by what became of them."""
        keeps, there = self._keeps(plan), frozenset(loaded.tags)
        numbers = Counter(
            "new" if tag not in fixed.held else "other_class" if keeps(digest) else "beyond_share"
            for digest, tag in ((digest, self._tags.tag(digest)) for digest in loaded.data.held)
            if tag not in fixed.tags
        )
        gone, forgotten = fixed.tags - there, self._store.forgotten()
        return PhotoCounts(
            unit=plan.unit,
            held=len(loaded.data.held),
            used=len(fixed.tags & there),
            missing=len(gone - forgotten),
            forgotten=len(gone & forgotten),
            new=numbers["new"],
            other_class=numbers["other_class"],
            beyond_share=numbers["beyond_share"],
        )

    def records(self, plan: TrainingPlan, fixed: FixedSet) -> Records:
        """Return the records of a training's set that are in the folder now.

        Args:
            plan: the training's plan.
            fixed: its fixed set.

        Returns:
            The records; none if the folder can't be read.
        """
        self.load(plan, fixed)
        loaded = self._loaded
        if loaded is None or loaded.training_id != plan.training_id:
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
        self._note_used(plan, fixed, used=len(left))
        if len(left) == len(loaded.tags):
            return Records(data.inputs, data.labels)
        # Not a copy of the inputs: they may be mapped from disk, and larger than the memory.
        return Records(data.inputs, data.labels, places=torch.tensor(left, dtype=torch.int64))

    def _note_used(self, plan: TrainingPlan, fixed: FixedSet, *, used: int) -> None:
        """Store that records of the set have gone or come back since they were counted."""
        counts = self._store.photo_counts(plan.training_id)
        if counts is None or counts.used == used:
            return
        forgotten = len(fixed.tags & self._store.forgotten())
        missing = max(0, len(fixed.tags) - used - forgotten)
        change = {"used": used, "missing": missing, "forgotten": forgotten}
        now = counts.model_copy(update=change)
        self._warn_of_noise_alone(plan, now)
        self._store.put_photo_counts(plan.training_id, now)

    def close(self, training_id: str) -> None:
        """Drop a training's records from memory."""
        if self._loaded is not None and self._loaded.training_id == training_id:
            self._loaded = None

    def _load(self, plan: TrainingPlan) -> _Loaded | None:
        try:
            data = self._data_for(plan)
        # Every exception is caught: the server must not see that the photos cause a failure.
        except Exception as error:
            self._problem = one_line(error)
            # Names of photos must not be kept in a log.
            self._failures.write(
                plan.training_id,
                _NOISE_ALONE.format(plan.training_id[:16], type(error).__name__),
            )
            _log.debug("details: %s", error)
            return None
        self._failures.end(plan.training_id)
        self._loaded = _Loaded(
            training_id=plan.training_id, data=data, tags=tuple(map(self._tags.tag, data.digests))
        )
        return self._loaded
