"""Publish a merchant's own products, and merge what merchants published."""

from __future__ import annotations

import shlex
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedrec._internal.text import counted
from fedrec.errors import ConfigError, DataError
from fedrec.observability.progress import Stage, Tell
from fedrec.recognition.catalogue.catalogue import OWN, Catalogue
from fedrec.recognition.catalogue.changes import PhotoFile, Vector, put_photo, put_product, remove_product
from fedrec.recognition.catalogue.contents import StoredProduct, products
from fedrec.recognition.catalogue.filters import Condition, Filter, to_conditions
from fedrec.recognition.catalogue.published import (
    MOST_PHOTOS,
    About,
    PublishedFile,
    PublishedProduct,
    write_published,
)
from fedrec.recognition.catalogue.signing import Signer
from fedrec.recognition.catalogue.stored_vectors import vectors_of

_AHEAD: Final = timedelta(days=1)
_CHUNK: Final = 4096


@dataclass(frozen=True)
class Published:
    """What a file holds.

    Attributes:
        products: number of products.
        photos: number of photos whose vectors it holds.
        linked: number of products with a link.
        priced: number of products with a price.
        attributes: names of the attributes.
    """

    products: int
    photos: int
    linked: int
    priced: int
    attributes: tuple[str, ...]


def publish(
    catalogue: Catalogue, path: Path, *, signer: Signer, vectors: bool = True, filters: Sequence[Filter] = ()
) -> Published:
    """Write a catalogue's own products to a file for a platform.

    Args:
        catalogue: the catalogue; nothing may change it meanwhile.
        path: the file.
        signer: the merchant's key.
        vectors: whether to publish the photos' vectors too.
        filters: which products.

    Returns:
        What the file holds.

    Raises:
        DataError: no product is there, or one has too many photos.
    """
    conditions = [Condition("product.merchant = ?", (OWN,)), *to_conditions(catalogue, filters)]
    keys: list[int] = []
    count = linked = priced = 0
    attributes: set[str] = set()
    for stored in products(catalogue, conditions):
        found = _with_vectors(stored)
        if len(found) > MOST_PHOTOS:
            raise DataError(f"product {stored.product.name} has {len(found)} photos; at most {MOST_PHOTOS}")
        keys += found if vectors else []
        count += 1
        linked += stored.product.link is not None
        priced += stored.product.price is not None
        attributes |= set(stored.product.attributes)
    if not count:
        raise DataError(f"{catalogue.folder} holds no product to publish")
    model = catalogue.model
    about = About(
        # Not to the second alone: the older of two files of one second would be taken after the newer.
        created=datetime.now(UTC),
        embedding_id=model.embedding_id,
        dimension=model.dimension,
        products=count,
        photos=len(keys),
        vectors=vectors,
    )
    again = (
        (stored.product, len(_with_vectors(stored)) if vectors else 0)
        for stored in products(catalogue, conditions)
    )
    write_published(path, about, again, _blocks(catalogue, keys, model.dimension), signer=signer)
    return Published(count, len(keys), linked, priced, tuple(sorted(attributes)))


def _with_vectors(stored: StoredProduct) -> list[int]:
    return [photo.key for photo in stored.photos if photo.has_vector]


def _blocks(catalogue: Catalogue, keys: list[int], dimension: int) -> Iterator[NDArray[np.float16]]:
    for start in range(0, len(keys), _CHUNK):
        wanted = np.array(keys[start : start + _CHUNK], dtype=np.int64)
        there, vectors = vectors_of(catalogue, wanted, dimension=dimension)
        places = {int(key): place for place, key in enumerate(there)}
        yield vectors[[places[int(key)] for key in wanted]]


@dataclass(frozen=True)
class Merged:
    """What a file changed.

    Attributes:
        merchant: whose it is.
        written: products that are new or changed.
        unchanged: products that were there already.
        removed: products that the merchant doesn't offer any more.
    """

    merchant: str
    written: int
    unchanged: int
    removed: int

    def __str__(self) -> str:
        return (
            f"{self.merchant}: {counted(self.written, 'product')} new or changed, "
            f"{self.unchanged:,} unchanged, {self.removed:,} removed"
        )


def merge(catalogue: Catalogue, path: Path, *, keys: Mapping[str, bytes], tell: Tell) -> Merged:
    """Take a merchant's published file into a catalogue; it replaces what that merchant published before.

    Args:
        catalogue: open for writing.
        path: the file.
        keys: public keys of merchants, by the names that results show; those of earlier merges are known.
        tell: receives progress.

    Returns:
        What it changed.

    Raises:
        ConfigError: a name or key is another's, or the vectors are of another model.
        DataError: the file can't be used; nothing of it is taken then.
    """
    with PublishedFile(path) as file:
        merchant = _merchant(catalogue, file, path, keys)
        model, about = catalogue.model, file.about
        if about.vectors and (about.embedding_id, about.dimension) != (model.embedding_id, model.dimension):
            raise ConfigError(
                f"{path}: its vectors are of another model than this catalogue's ({model.description}): "
                "ask the merchant to publish with the same model, or merge into a new catalogue with --model"
            )
        written = 0
        with catalogue.transaction() as connection:
            held = {
                name: (key, digest)
                for key, name, digest in connection.execute(
                    "SELECT id, name, digest FROM product WHERE merchant = ?", (merchant,)
                )
            }
            seen: set[str] = set()
            for number, found in enumerate(file.products()):
                if found.product.name in seen:
                    raise DataError(f"{path} holds product {found.product.name!r} twice")
                seen.add(found.product.name)
                key, digest = held.get(found.product.name, (0, b""))
                if digest != found.digest:
                    # With its photos: a merchant that publishes without vectors has withdrawn them.
                    if key:
                        remove_product(connection, key)
                    key = put_product(connection, found.product, merchant=merchant, digest=found.digest)
                    _put_photos(connection, key, found, about)
                    written += 1
                if number % _CHUNK == 0:
                    tell(Stage("products", number, about.products))
            removed = [key for name, (key, _) in held.items() if name not in seen]
            for key in removed:
                remove_product(connection, key)
            connection.execute(
                "INSERT INTO merchant VALUES (?, ?, ?)"
                " ON CONFLICT (name) DO UPDATE SET published = excluded.published",
                (merchant, file.public, _moment(about)),
            )
        return Merged(merchant, written, about.products - written, len(removed))


def _put_photos(connection: sqlite3.Connection, key: int, found: PublishedProduct, about: About) -> None:
    for number, values in enumerate(found.vectors):
        put_photo(connection, key, PhotoFile(str(number), None, None), Vector(about.embedding_id, values))


def _moment(about: About) -> str:
    """Return when a file was written, as text whose order is that of the moments."""
    return about.created.astimezone(UTC).isoformat(timespec="microseconds")


def _merchant(catalogue: Catalogue, file: PublishedFile, path: Path, keys: Mapping[str, bytes]) -> str:
    """Return the name of the merchant whose key signed a file, and refuse an older file than the last."""
    known: dict[str, tuple[bytes, str | None]] = {
        name: (bytes(public), last)
        for name, public, last in catalogue.rows("SELECT name, public, published FROM merchant")
    }
    for name, public in keys.items():
        if name in known and known[name][0] != public:
            raise ConfigError(
                f"--key: merchant {name!r} has another key here; remove the merchant first if that is right: "
                f"fedrec catalogue remove {shlex.quote(str(catalogue.folder))} --merchant {shlex.quote(name)}"
            )
        if any(public == other and name != theirs for theirs, (other, _) in known.items()):
            raise ConfigError(f"--key: {name!r} has the key of another merchant")
        known.setdefault(name, (public, None))
    merchant = next((name for name, (public, _) in known.items() if public == file.public), None)
    if merchant is None:
        raise ConfigError(
            f"{path} is signed by {file.public.hex()}, which is no merchant's key here: if the merchant "
            "confirms it, give --key NAME=KEY"
        )
    last = known[merchant][1]
    if last is not None and _moment(file.about) < last:
        raise DataError(f"{path} is older than what {merchant} published last ({last})")
    if file.about.created > datetime.now(UTC) + _AHEAD:
        raise DataError(f"{path} is dated {_moment(file.about)}, in the future")
    return merchant
