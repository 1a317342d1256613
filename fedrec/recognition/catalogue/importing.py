"""Bring the rows of a CSV file into a catalogue, in batches that are each on disk before the next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from PIL import Image

from fedrec._internal.text import counted, one_line
from fedrec.errors import DataError
from fedrec.observability.progress import Stage, Tell
from fedrec.recognition.catalogue.catalogue import OWN, Catalogue
from fedrec.recognition.catalogue.changes import PhotoFile, put_photo, put_product
from fedrec.recognition.catalogue.contents import StoredPhoto, StoredProduct, find_product
from fedrec.recognition.catalogue.csv_file import BadRow, Row, count_lines, read_rows
from fedrec.recognition.catalogue.photo_model import PhotoModel
from fedrec.recognition.catalogue.photo_prints import kept_print
from fedrec.recognition.catalogue.photos import picture_of, read_file, sha256_of, stored_text
from fedrec.recognition.catalogue.products import Product

BATCH: Final = 32
"""Photos that are computed and committed together."""


@dataclass
class Imported:
    """What became of the rows.

    Attributes:
        added: photos that are new.
        changed: photos or products that differ from what was there.
        unchanged: rows that were there already.
        failed: rows that can't be used.
    """

    added: int = 0
    changed: int = 0
    unchanged: int = 0
    failed: int = 0

    def __str__(self) -> str:
        return (
            f"{counted(self.added, 'photo')} added, {self.changed:,} changed, {self.unchanged:,} unchanged, "
            f"{counted(self.failed, 'row')} failed"
        )


@dataclass
class _Batch:
    """Rows whose photos are computed together.

    Attributes:
        products: each product once.
        photos: the rows' products and photos, those with a picture in the order of ``pictures``.
        pictures: pictures to compute.
    """

    products: dict[str, Product] = field(default_factory=dict)
    photos: list[tuple[str, PhotoFile]] = field(default_factory=list)
    pictures: list[Image.Image] = field(default_factory=list)


def check_places(path: Path, photos: Path | None) -> None:
    """Check that there is something to import, before a catalogue is made for it.

    Args:
        path: the CSV file.
        photos: the folder that photos' paths start from; None for the CSV file's own.

    Raises:
        DataError: the file can't be read or has no usable header, or there is no such folder.
    """
    next(read_rows(path), None)
    if photos is not None and not photos.is_dir():
        raise DataError(f"--photos: there is no folder {photos}")


def import_file(
    catalogue: Catalogue,
    model: PhotoModel,
    path: Path,
    *,
    photos: Path | None = None,
    tell: Tell,
    on_event: Callable[[str], None] = lambda event: None,
) -> Imported:
    """Import a CSV file; a run that was killed is continued by the next.

    Args:
        catalogue: open for writing.
        model: the catalogue's model.
        path: the CSV file.
        photos: the folder that photos' paths start from, and never leave; None for the CSV file's own.
        tell: receives progress, and a line for each row that can't be used.
        on_event: called with the name of each step of writing; tests interrupt it there.

    Returns:
        What became of the rows.

    Raises:
        ConfigError: the catalogue's vectors are of another model.
        DataError: the file can't be read, or has no usable header.
    """
    catalogue.check_model(model.used, labels=True)
    root = (photos or path.parent).resolve()
    # The first line names the columns.
    total, done = max(count_lines(path) - 1, 1), Imported()
    batch = _Batch()
    for row in read_rows(path):
        try:
            if isinstance(row, BadRow):
                raise DataError(row.reason)
            _take(row, root, catalogue, model, batch, done)
        except DataError as error:
            done.failed += 1
            text = f"line {row.line}: {one_line(error)}"
            tell(Stage("import", 0, 0, plain=text))
        if len(batch.pictures) == BATCH or len(batch.photos) + len(batch.products) >= 8 * BATCH:
            _write(batch, catalogue, model, on_event)
            batch = _Batch()
            tell(Stage("photos", min(row.line - 1, total), total))
    _write(batch, catalogue, model, on_event)
    tell(Stage("photos", total, total))
    return done


def _take(
    row: Row, root: Path, catalogue: Catalogue, model: PhotoModel, batch: _Batch, done: Imported
) -> None:
    """Compare a row with what is there, and put what is to be done into the batch."""
    file = inside(root, row.photo)
    try:
        data = read_file(file)
    except DataError as error:
        raise DataError(f"photo {one_line(row.photo, most=80)!r}: {error}") from None
    photo = PhotoFile(row.photo, stored_text(file), sha256_of(data))
    product = row.product
    stored = find_product(catalogue, product.name)
    held = None if stored is None else _held(stored, photo.name)
    if (
        held is None
        or held.sha256 != photo.sha256
        or not held.has_vector
        or held.labels_of != model.used.labels_of
    ):
        try:
            picture = picture_of(data)
        except DataError as error:
            raise DataError(f"photo {one_line(row.photo, most=80)!r}: {error}") from None
        batch.pictures.append(picture)
        batch.photos.append((product.name, replace(photo, kept_print=kept_print(picture))))
        batch.products[product.name] = product
        done.added += held is None
        done.changed += held is not None
    elif stored is None or stored.product != product:
        batch.products[product.name] = product
        done.changed += 1
    else:
        done.unchanged += 1


def _held(stored: StoredProduct, name: str) -> StoredPhoto | None:
    return next((photo for photo in stored.photos if photo.name == name), None)


def inside(root: Path, name: str) -> Path:
    """Return the file that a relative path names.

    Args:
        root: the folder, resolved.
        name: the path.

    Returns:
        The file, with its links followed.

    Raises:
        DataError: it lies outside the folder.
    """
    try:
        path = (root / name).resolve()
        leaves = Path(name).is_absolute() or not path.is_relative_to(root)
    except (OSError, ValueError, RuntimeError):
        raise DataError(f"photo {one_line(name, most=80)!r} is no path of a file") from None
    if leaves:
        raise DataError(f"photo {one_line(name, most=80)!r} leaves the folder of photos")
    return path


def _write(batch: _Batch, catalogue: Catalogue, model: PhotoModel, on_event: Callable[[str], None]) -> None:
    if not batch.products:
        return
    vectors = model.describe(batch.pictures)
    on_event("computed")
    with catalogue.transaction() as connection:
        keys = {
            name: put_product(connection, product, merchant=OWN) for name, product in batch.products.items()
        }
        on_event("products written")
        for (name, photo), vector in zip(batch.photos, vectors, strict=True):
            put_photo(connection, keys[name], photo, vector)
        on_event("photos written")
    on_event("committed")
