"""Tell of each photo in a merchant's folder whether the open training uses it, and if not, why."""

from __future__ import annotations

import hashlib
import io
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from fedrec._internal.text import one_line
from fedrec.clients.forgetting import forget_digests
from fedrec.clients.merchant_home import MerchantHome
from fedrec.clients.policy import MerchantPolicy
from fedrec.clients.record_tags import RecordTags
from fedrec.clients.store_view import StoredTags, read_tags, readable_plan
from fedrec.errors import ConfigError, DataError, FedrecError
from fedrec.protocol.plan import TrainingPlan, Unit
from fedrec.vision.datasets import open_folder
from fedrec.vision.imageset import ImageSet
from fedrec.vision.products import ProductSet

STATES: Final = (
    "used", "ready", "waiting", "refused", "other_class", "beyond_share", "forgotten", "product_forgotten",
    "copy", "unusable",
)  # fmt: skip
"""What may become of a photo. Before a training every usable one is ``ready``."""
MOST_SHOWN: Final = 24
_CHECK_SECONDS: Final = 10.0
_SIDE: Final = 240
_TOGETHER: Final = 2
"""Thumbnails that are made at the same time: a large photo takes much memory."""


class ListedPhoto(NamedTuple):
    """A photo's name and class, its state (of :data:`STATES`), and why its file can't be used."""

    name: str
    label: str
    state: str
    reason: str


@dataclass(frozen=True)
class _Photo:
    """A photo of the folder, or a file that can't be used."""

    name: str
    label: str
    digest: bytes = b""
    tag: bytes = b""
    record_tag: bytes = b""
    record_digest: bytes = b""
    position: int = -1
    copy: bool = False
    reason: str = ""


@dataclass(frozen=True)
class _Scan:
    """What a folder held when it was read."""

    number: int
    photos: tuple[_Photo, ...] = ()
    images: ImageSet | None = None
    problem: str = ""
    by_record: Mapping[bytes, tuple[bytes, ...]] = field(default_factory=dict)


class PhotoView:
    """Reads the folder in a thread of its own, again when it changes, and never writes. Thread-safe.

    Args:
        home: the merchant's folder.
        unit: returns the ledger's unit.
        changed_data: returns the policy's rule about photos that were added.
    """

    def __init__(
        self, home: MerchantHome, *, unit: Callable[[], Unit], changed_data: Callable[[], str]
    ) -> None:
        self._home, self._unit, self._changed_data = home, unit, changed_data
        self._mutex = threading.Lock()
        self._drawing = threading.Semaphore(_TOGETHER)
        self._scan = _Scan(0)
        self._stamp = b""
        self._checked = -_CHECK_SECONDS
        self._reader: threading.Thread | None = None

    def refresh(self, *, wait: bool = False) -> None:
        """Read the folder if it has changed.

        Args:
            wait: whether to return only when it is read.
        """
        with self._mutex:
            reader = self._reader
            if reader is None and (wait or time.monotonic() >= self._checked + _CHECK_SECONDS):
                reader = self._reader = threading.Thread(target=self._read, name="photos", daemon=True)
                reader.start()
        if wait and reader is not None:
            reader.join()

    @property
    def problem(self) -> str:
        """Why the folder can't be read; empty if it can."""
        with self._mutex:
            return self._scan.problem

    def listed(self) -> list[ListedPhoto]:
        """Return all photos with their states, in the order of their names."""
        with self._mutex:
            scan = self._scan
        states = self._states(scan)
        return [
            ListedPhoto(photo.name, photo.label, state, photo.reason)
            for photo, state in zip(scan.photos, states, strict=True)
        ]

    def page(self, *, state: str | None, start: int) -> dict[str, object]:
        """Return some photos, and how many there are in each state.

        Args:
            state: the state to show; None for all.
            start: how many to leave out before the first.

        Returns:
            A JSON document.
        """
        with self._mutex:
            scan, reading = self._scan, self._reader is not None
        states = self._states(scan)
        chosen = [number for number, found in enumerate(states) if state in (None, found)]
        return {
            "reading": reading,
            "scan": scan.number,
            "problem": scan.problem,
            "counts": {name: count for name, count in Counter(states).items() if count},
            "total": len(chosen),
            "step": MOST_SHOWN,
            "photos": [
                {
                    "number": number,
                    "name": scan.photos[number].name,
                    "class": scan.photos[number].label,
                    "state": states[number],
                    "reason": scan.photos[number].reason,
                }
                for number in chosen[start : start + MOST_SHOWN]
            ],
        }

    def thumbnail(self, number: int, *, scan: int) -> bytes:
        """Return a photo as a small JPEG.

        Args:
            number: the photo's number.
            scan: number of the scan that gave it.

        Returns:
            The file's content.

        Raises:
            DataError: there is no such photo any more.
        """
        images, photo = self._photo(number, scan=scan)
        with self._drawing:
            image = images.image(photo.position)
            image.thumbnail((_SIDE, _SIDE))
            out = io.BytesIO()
            image.save(out, "JPEG", quality=80)
        return out.getvalue()

    def forget(self, number: int, *, scan: int) -> str:
        """Exclude a photo from all later steps.

        Args:
            number: the photo's number.
            scan: number of the scan that gave it.

        Returns:
            The photo's name.

        Raises:
            DataError: there is no such photo any more.
        """
        images, photo = self._photo(number, scan=scan)
        with self._mutex:
            scan_photos = self._scan.photos
        if not images.holds(photo.position):
            raise DataError("that photo has changed or gone")
        # A table may give a photo to several products.
        forget_digests(self._home, {each.digest for each in scan_photos if each.name == photo.name})
        return photo.name

    def _photo(self, number: int, *, scan: int) -> tuple[ImageSet, _Photo]:
        with self._mutex:
            found = self._scan
        if scan != found.number or found.images is None or not 0 <= number < len(found.photos):
            raise DataError("the photos were read again since")
        photo = found.photos[number]
        if photo.position < 0:
            raise DataError("that file can't be read as a photo")
        return found.images, photo

    def _states(self, scan: _Scan) -> list[str]:
        try:
            stored = read_tags(self._home.store)
        except FedrecError:
            stored = StoredTags()
        plan = None if stored.plan is None else readable_plan(stored.plan)
        later = "waiting" if self._changed_data() == "count_together" else "refused"
        return [_state(photo, scan, stored, plan=plan, later=later) for photo in scan.photos]

    def _read(self) -> None:
        try:
            settings = self._home.settings()
            stamp = _stamp(settings.data)
            if stamp != self._stamp:
                number = self._scan.number + 1
                try:
                    scan = self._scanned(number)
                except (FedrecError, OSError) as error:
                    scan = _Scan(number, problem=one_line(error))
                with self._mutex:
                    self._scan, self._stamp = scan, stamp
        except ConfigError as error:
            with self._mutex:
                self._scan = _Scan(self._scan.number + 1, problem=one_line(error))
        finally:
            with self._mutex:
                self._reader, self._checked = None, time.monotonic()

    def _scanned(self, number: int) -> _Scan:
        settings, unit = self._home.settings(), self._unit()
        train = open_folder(
            settings.place, layout=settings.layout, unit=unit, may_be_empty=True, one_merchant=True
        ).train
        images = train.photos if isinstance(train, ProductSet) else train
        tags = RecordTags(self._home.identity())
        photos, by_record = _photos(train, images, tags)
        return _Scan(number, tuple(photos), images, by_record=by_record)


def view_of(home: MerchantHome) -> PhotoView:
    """Make the view of a merchant's photos by its ledger's unit and its policy."""

    def unit() -> Unit:
        return "product" if home.declared_count().unit == "product" else "record"

    def changed_data() -> str:
        try:
            return MerchantPolicy.load(home.folder / "policy.toml").changed_data
        except ConfigError:
            return MerchantPolicy.without_limits(modes=["off"], schemes=["none"]).changed_data

    return PhotoView(home, unit=unit, changed_data=changed_data)


def _photos(
    train: ImageSet, images: ImageSet, tags: RecordTags
) -> tuple[list[_Photo], dict[bytes, tuple[bytes, ...]]]:
    """List all photos of a folder, and the tags of each product's photos by the product's tag."""
    position = {record.digest: index for index, record in enumerate(images.records)}
    products: dict[tuple[int, str], bytes] = {}
    by_record: dict[bytes, tuple[bytes, ...]] = {}
    if isinstance(train, ProductSet):
        for record, digests in zip(train.records, train.photo_digests(), strict=True):
            products[record.label, record.name] = record.digest
            by_record[tags.tag(record.digest)] = tuple(map(tags.tag, digests))
    found = []
    for record, copy in [
        *((record, False) for record in images.records),
        *((record, True) for record in images.dropped),
    ]:
        digest = record.digest
        if isinstance(train, ProductSet):
            # A product that is a copy of another isn't there.
            digest = products.get((record.label, record.product or ""), b"")
        found.append(
            _Photo(
                name=record.name,
                label=images.classes[record.label],
                digest=record.digest,
                tag=tags.tag(record.digest),
                record_tag=tags.tag(digest),
                record_digest=digest,
                position=position[record.digest],
                copy=copy or not digest,
            )
        )
    found.sort(key=lambda photo: photo.name)
    found += [_Photo(name=file.name, label="", reason=file.reason) for file in images.skipped]
    return found, by_record


def _state(photo: _Photo, scan: _Scan, stored: StoredTags, *, plan: TrainingPlan | None, later: str) -> str:
    """Say what became of a photo; ``later`` is the state of one that came after the set was fixed."""
    if photo.reason:
        return "unusable"
    if photo.tag in stored.forgotten:
        return "forgotten"
    if photo.copy:
        return "copy"
    if stored.fixed is None or plan is None:
        return "ready"
    if photo.record_tag in stored.fixed.tags:
        others = scan.by_record.get(photo.record_tag, ())
        return "product_forgotten" if stored.forgotten.intersection(others) else "used"
    if photo.record_tag not in stored.fixed.held:
        return later
    return "beyond_share" if photo.label in plan.classes else "other_class"


def _stamp(root: Path) -> bytes:
    """Return a hash of names, sizes and times of all files below a folder, or of a table's own file."""
    code = hashlib.sha256()
    for path in (str(root), *_files(root)):
        try:
            found = Path(path).stat()
        except OSError:
            continue
        code.update(
            f"{path}\0{found.st_size}\0{found.st_mtime_ns}\0{found.st_ino}\n".encode("utf-8", "replace")
        )
    return code.digest()


def _files(root: Path) -> Iterator[str]:
    for folder, folders, names in os.walk(root):
        folders.sort()
        yield from (os.path.join(folder, name) for name in sorted(names))  # noqa: PTH118 (100,000 of them)
