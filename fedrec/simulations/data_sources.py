"""Read a run's data, divide it among merchants, and write model inputs to disk for the workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedrec._internal import number_format
from fedrec.config import SimulationConfig
from fedrec.errors import ConfigError, OperatingSystemError
from fedrec.vision.dataset_registry import FOLDER, GIVEN, REGISTRY, DatasetRequest, DatasetSpec
from fedrec.vision.datasets import DataSplits, open_folder
from fedrec.vision.folders import Layout
from fedrec.vision.imageset import ImageSet, Skipped
from fedrec.vision.listing.found_encoding import with_found_encoding
from fedrec.vision.listing.photo_places import PhotoPlace
from fedrec.vision.near_duplicates import near_duplicates
from fedrec.vision.partition import MerchantShare, parse_partition, partition
from fedrec.vision.splits import EVALUATION_SPLIT, FolderAccount, ResolvedSplits, resolve_splits

DEFAULT_MERCHANTS = 8
_SPLIT_KEY = b"fedrec/simulation/split/1"

DIGESTS_FILE = "digests"
_DIGEST_BYTES = 32


@dataclass(frozen=True)
class MerchantData:
    """What a merchant is told of its own photos; files by name.

    Attributes:
        merchant: its name.
        records: how many records it trains on.
        skipped: files that could not be used, with the reasons.
        ignored: entries that are no photos, with the reasons.
        duplicates_dropped: files that are copies of another.
        near_duplicates: groups of photos that look alike. All of them are kept, and each counts as a record.
    """

    merchant: str
    records: int
    skipped: tuple[Skipped, ...]
    ignored: tuple[Skipped, ...]
    duplicates_dropped: tuple[str, ...]
    near_duplicates: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Source:
    """The data of a run.

    Attributes:
        name: the data's name.
        splits: training, validation and test data.
        shares: the records of each merchant.
        merchants: what each merchant is told of its own photos.
        skipped: files that could not be used.
        account: what became of everything else in the folder.
        duplicates_dropped: number of records dropped as copies.
        absent: merchants whose folders hold nothing to train on.
    """

    name: str
    splits: ResolvedSplits
    shares: tuple[MerchantShare, ...]
    merchants: tuple[MerchantData, ...]
    skipped: tuple[Skipped, ...]
    account: FolderAccount
    duplicates_dropped: int
    absent: tuple[str, ...]

    @property
    def near_duplicates(self) -> int:
        """How many photos look like another photo of the same merchant."""
        return sum(len(group) for merchant in self.merchants for group in merchant.near_duplicates)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the model's outputs."""
        return self.splits.train.classes


def chosen_dataset(config: SimulationConfig) -> tuple[DatasetSpec, Path | None]:
    """Return the data set that the options name, and its folder."""
    if config.data is not None:
        return FOLDER, config.data
    return REGISTRY.get(config.dataset), config.data_root


def with_encoding(config: SimulationConfig) -> SimulationConfig:
    """Return the options with the encoding of names in their folders, found unless it is given."""
    for path in (config.data, config.eval_data):
        if config.names_encoding is None and path is not None:
            found = with_found_encoding(path).names_encoding
            config = config.model_copy(update={"names_encoding": found})
    return config


class DataReader:
    """Loads the data that options name, and keeps it for the next run that names the same."""

    def __init__(self) -> None:
        self._asked: tuple[DatasetSpec, DatasetRequest] | None = None
        self._splits: DataSplits | None = None

    def read(self, config: SimulationConfig) -> DataSplits:
        """Return the splits; raise ``ConfigError`` or ``DataError`` if they can't be loaded."""
        spec, root = chosen_dataset(config)
        if config.unit == "product" and not spec.products:
            raise ConfigError("--unit product needs --data DIR with CLASS/PRODUCT/ folders of photos")
        request = DatasetRequest(
            root=root,
            merchants=0 if spec.fixed else config.merchants or DEFAULT_MERCHANTS,
            seed=0 if spec.fixed else config.seed or 0,
            unit=config.unit,
            names_encoding=config.names_encoding,
        )
        if self._splits is None or self._asked != (spec, request):
            # Dropped first, so that two sets are never held at once.
            self._splits = None
            self._splits = spec.open(request)
            self._asked = (spec, request)
        return self._splits


def open_source(
    config: SimulationConfig, *, given: DataSplits | None = None, reader: DataReader | None = None
) -> Source:
    """Load the data, and divide it among merchants.

    Args:
        config: the options.
        given: the data as an object; None loads what the options name.
        reader: loads it, and may have it from an earlier run; None for one of its own.

    Returns:
        The run's data.

    Raises:
        DataError: the data can't be used.
        ConfigError: the options don't fit the data.
    """
    seed = config.seed or 0
    wanted = config.merchants
    layout: Layout = "product" if config.unit == "product" else "class"
    name, splits = GIVEN.name, given
    if splits is None:
        name = chosen_dataset(config)[0].name if config.data is None else str(config.data)
        splits = (reader or DataReader()).read(config)
    if config.eval_data is not None:
        place = PhotoPlace(config.eval_data, config.names_encoding)
        public = open_folder(place, classes=splits.train.classes, layout=layout, unit=config.unit)
        # It replaces the test split: no photo is held out of training, and copies are left out.
        splits = replace(splits, test=public.train, test_name=EVALUATION_SPLIT)
    resolved = resolve_splits(splits, key=_SPLIT_KEY)
    division = parse_partition(config.partition)
    absent: tuple[str, ...] = ()
    merchants: int | None = wanted or DEFAULT_MERCHANTS
    if division.follows_folders:
        merchants, absent = _by_folder(splits.train, resolved.train, wanted=wanted)
    shares = partition(resolved.train, spec=division, merchants=merchants, seed=seed)
    return Source(
        name=name,
        splits=resolved,
        shares=shares,
        merchants=tuple(_own_data(share, resolved.train, splits) for share in shares),
        skipped=_skipped(splits),
        account=splits.account,
        duplicates_dropped=splits.train.duplicates_dropped
        + sum(share.duplicates_dropped for share in shares),
        absent=absent,
    )


def _by_folder(given: ImageSet, kept: ImageSet, *, wanted: int | None) -> tuple[int | None, tuple[str, ...]]:
    """Return the required number of merchants (None for any), and the merchants left without records."""
    met = [record.merchant for record in given.records] + [skip.merchant for skip in given.skipped]
    named = {merchant for merchant in met if merchant is not None}
    absent = named - {record.merchant for record in kept.records}
    # A user counts all folders, those without usable photos included.
    return None if wanted == len(named) else wanted, tuple(sorted(absent))


def _own_data(share: MerchantShare, train: ImageSet, splits: DataSplits) -> MerchantData:
    mine, given = train.subset(share.indices).records, splits.train
    copies = [record.name for record in given.dropped if record.merchant == share.name]
    copies += [train.records[index].name for index in share.dropped]
    return MerchantData(
        merchant=share.name,
        records=len(mine),
        skipped=tuple(skip for skip in given.skipped if skip.merchant == share.name),
        ignored=tuple(skip for skip in splits.account.unread if skip.merchant == share.name),
        duplicates_dropped=tuple(sorted(copies)),
        near_duplicates=tuple(
            tuple(mine[position].name for position in group)
            for group in near_duplicates([record.perceptual_hash for record in mine])
        ),
    )


def _skipped(splits: DataSplits) -> tuple[Skipped, ...]:
    """List the files that could not be used; names of public photos begin with their split's name."""
    found = [skip for part in (splits.train, splits.validation) if part is not None for skip in part.skipped]
    own = splits.test_name == EVALUATION_SPLIT
    for skip in () if splits.test is None else splits.test.skipped:
        found.append(replace(skip, name=f"{EVALUATION_SPLIT}/{skip.name}") if own else skip)
    return tuple(found)


def write_arrays(
    folder: Path, inputs: NDArray[np.generic], labels: NDArray[np.int64], *, digests: Sequence[bytes]
) -> None:
    """Write one merchant's model inputs to disk; the arrays are memory-mapped by its worker.

    Args:
        folder: a new folder (mode 0700).
        inputs: model inputs, shape (n, views, ...).
        labels: int64, shape (n,).
        digests: 32 bytes for each record.

    Raises:
        OperatingSystemError: they can't be written, mostly since the disk is full.
    """
    try:
        folder.mkdir(parents=True, mode=0o700)
        np.save(folder / "inputs.npy", inputs, allow_pickle=False)
        np.save(folder / "labels.npy", labels, allow_pickle=False)
        (folder / DIGESTS_FILE).write_bytes(b"".join(digests))
    # On a full disk numpy's says how much was written, and not where or why.
    except OSError as error:
        raise OperatingSystemError(
            f"{number_format.size(inputs.nbytes)} of a merchant's model inputs can't be written to "
            f"{folder.parent} ({error.strerror or error}): make room there, or name another folder by TMPDIR"
        ) from None


def read_digests(folder: Path) -> tuple[bytes, ...]:
    """Read the digests that :func:`write_arrays` wrote, 32 bytes each."""
    data = (folder / DIGESTS_FILE).read_bytes()
    return tuple(data[start : start + _DIGEST_BYTES] for start in range(0, len(data), _DIGEST_BYTES))
