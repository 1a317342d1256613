"""Training and evaluation splits; whether a training record is held out depends on that record alone."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from fedrec.errors import DataError
from fedrec.vision.imageset import ImageSet, Skipped

EVALUATION_SPLIT: Final = "eval-data"
"""Name of the split that is public photos of the operator's own."""
VALIDATION_SPLIT: Final = "validation"
"""Name of the split by which rounds are compared."""
METRICS_SHARE: Final = 0.2
"""Share of the training records held out for the final metrics if there is no test or validation split."""
VALIDATION_SHARE: Final = 0.1
"""Share of the training records held out for the accuracy of each round if there is no validation split."""


@dataclass(frozen=True)
class FolderAccount:
    """What became of the entries of a folder, or of the rows of a table.

    Attributes:
        folders: how many folders were read.
        unread: entries that are no photos, with the reasons. Photos that can't be used stand in their
            split's ``skipped``.
        notes: what was decided on names and folders where it isn't plain, in one line each.
        doubts: what speaks against the way in which the photos are read, in one line each.
    """

    folders: int = 0
    unread: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True)
class DataSplits:
    """The splits that the data came with.

    Attributes:
        train: training records.
        validation: for the accuracy of each round; None without such a split.
        test: for the final metrics; None without such a split.
        held: digests of all training records in a folder, whatever their classes; empty for other data.
        test_name: name of ``test`` in reports.
        account: what became of the other entries of a folder; empty for other data.
    """

    train: ImageSet
    validation: ImageSet | None = None
    test: ImageSet | None = None
    held: tuple[bytes, ...] = ()
    test_name: str = "test"
    account: FolderAccount = field(default_factory=FolderAccount)


@dataclass(frozen=True)
class ResolvedSplits:
    """What is trained on and what is measured on.

    Attributes:
        train: training records.
        validation: for the accuracy of each round; None if no record fell into it.
        metrics: for the final metrics.
        metrics_split: name of ``metrics``: the test split's name, "validation" or "holdout" (taken from the
            training records).
        leaked_dropped: number of evaluation records left out because an exact copy is trained on.
    """

    train: ImageSet
    validation: ImageSet | None
    metrics: ImageSet
    metrics_split: str
    leaked_dropped: int


def _falls_in(digest: bytes, *, key: bytes, split: str, share: float) -> bool:
    """Return whether a record is taken for ``split``: its HMAC-SHA256, as a fraction, is below ``share``."""
    code = hmac.digest(key, split.encode("utf-8") + b"\0" + digest, "sha256")
    return int.from_bytes(code[:8], "big") < int(share * 2**64)


def _without(images: ImageSet, digests: set[bytes]) -> ImageSet:
    kept: Iterable[int] = (i for i, record in enumerate(images.records) if record.digest not in digests)
    return images.subset(list(kept))


def resolve_splits(splits: DataSplits, *, key: bytes) -> ResolvedSplits:
    """Decide what is trained on and what is measured on.

    The final metrics come from the test split, else from validation, else from ``METRICS_SHARE`` of the
    training records; the accuracy of each round from validation, else from ``VALIDATION_SHARE`` of the
    training records. Whether a training record is taken depends on ``key`` and its own digest alone.
    Evaluation records with an exact copy among those trained on are left out and counted.

    Args:
        splits: the splits that the data came with.
        key: key of the HMAC that chooses held-out records.

    Returns:
        The splits to use.

    Raises:
        DataError: no record is left to train or to measure on.
    """
    metrics_name = "holdout"
    if splits.test is not None:
        metrics_name = splits.test_name
    elif splits.validation is not None:
        metrics_name = "validation"
    holds_out = splits.test is None and splits.validation is None
    taken: dict[str, list[int]] = {"train": [], "holdout": [], "validation": []}
    for index, record in enumerate(splits.train.records):
        goes_to = "train"
        if holds_out and _falls_in(record.digest, key=key, split="metrics", share=METRICS_SHARE):
            goes_to = "holdout"
        elif splits.validation is None and _falls_in(
            record.digest, key=key, split="validation", share=VALIDATION_SHARE
        ):
            goes_to = "validation"
        taken[goes_to].append(index)
    train = splits.train.subset(taken["train"])
    digests = {record.digest for record in train.records}
    given = splits.train.subset(taken["validation"]) if splits.validation is None else splits.validation
    validation = _without(given, digests)
    leaked = len(given) - len(validation)
    metrics = validation
    if splits.test is not None or holds_out:
        measured = splits.train.subset(taken["holdout"]) if splits.test is None else splits.test
        metrics = _without(measured, digests)
        leaked += len(measured) - len(metrics)
    if not len(train):
        raise DataError(
            f"all {len(splits.train)} training pictures fell into evaluation splits: add pictures"
        )
    if not len(metrics):
        source = splits.validation if metrics_name == VALIDATION_SPLIT else splits.test
        unread = () if source is None else source.skipped
        example = f" (e.g. {unread[0].name}: {unread[0].reason})" if unread else ""
        raise DataError(
            f"the {metrics_name} split holds no picture to measure on that isn't trained on{example}: "
            "add a test/ folder with the classes in it, or give --eval-data"
        )
    return ResolvedSplits(train, validation if len(validation) else None, metrics, metrics_name, leaked)
