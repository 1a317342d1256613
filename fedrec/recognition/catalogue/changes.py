"""Change what a catalogue holds: each function within one transaction of its caller."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedrec.recognition.catalogue.products import Product


@dataclass(frozen=True)
class Vector:
    """What a model says of a photo.

    Attributes:
        embedding_id: the embedding that the vector is of.
        values: float16 (dimension,).
        labels_of: hash of what gave the class; None without classes.
        label: the class.
        probability: of the class.
    """

    embedding_id: str
    values: NDArray[np.float16]
    labels_of: str | None = None
    label: str | None = None
    probability: float | None = None


@dataclass(frozen=True)
class PhotoFile:
    """The file of a photo.

    Attributes:
        name: its name among the product's photos.
        path: the file; None for one of another merchant.
        sha256: hash of the file; None for one of another merchant.
        kept_print: what copies of it are found by; None to leave that as it is.
    """

    name: str
    path: str | None
    sha256: bytes | None
    kept_print: bytes | None = None


def put_product(
    connection: sqlite3.Connection, product: Product, *, merchant: str, digest: bytes | None = None
) -> int:
    """Insert a product, or replace the fields of the one of this name.

    Args:
        connection: in a transaction.
        product: its fields.
        merchant: whose it is.
        digest: hash of how it was published; None for the catalogue's own.

    Returns:
        The product's number.
    """
    key = connection.execute(
        "INSERT INTO product (merchant, name, title, link, price, category, digest)"
        " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (merchant, name) DO UPDATE SET title = excluded.title,"
        " link = excluded.link, price = excluded.price, category = excluded.category,"
        " digest = excluded.digest RETURNING id",
        (
            merchant,
            product.name,
            product.title,
            product.link,
            product.price,
            product.category,
            digest,
        ),
    ).fetchone()[0]
    connection.execute("DELETE FROM attribute WHERE product_id = ?", (key,))
    connection.executemany(
        "INSERT INTO attribute VALUES (?, ?, ?, ?)",
        [
            (key, name, value if isinstance(value, str) else None, None if isinstance(value, str) else value)
            for name, value in product.attributes.items()
        ],
    )
    return int(key)


def put_photo(connection: sqlite3.Connection, product: int, photo: PhotoFile, vector: Vector | None) -> None:
    """Insert a photo with its vector; one of the same name and other content is deleted first.

    A photo's vector never changes: an index that still holds the old one finds a number that is gone.

    Args:
        connection: in a transaction.
        product: the product's number.
        photo: the photo.
        vector: what a model says of it; None for none.
    """
    found = connection.execute(
        "SELECT id, sha256 FROM photo WHERE product_id = ? AND name = ?", (product, photo.name)
    ).fetchone()
    if found is not None and (photo.sha256 is None or found[1] != photo.sha256):
        connection.execute("DELETE FROM photo WHERE id = ?", (found[0],))
        found = None
    if found is None:
        key = connection.execute(
            "INSERT INTO photo (product_id, name, path, sha256) VALUES (?, ?, ?, ?) RETURNING id",
            (product, photo.name, photo.path, photo.sha256),
        ).fetchone()[0]
    else:
        key = found[0]
        connection.execute("UPDATE photo SET path = ? WHERE id = ?", (photo.path, key))
    if vector is not None:
        put_vector(connection, key, vector)
    if photo.kept_print is not None:
        put_print(connection, key, photo.kept_print)


def put_print(connection: sqlite3.Connection, photo: int, content: bytes) -> None:
    """Insert what copies of a photo are found by, or replace it.

    Args:
        connection: in a transaction.
        photo: the photo's number.
        content: its packed print.
    """
    connection.execute("INSERT OR REPLACE INTO print (photo_id, content) VALUES (?, ?)", (photo, content))


def put_vector(connection: sqlite3.Connection, photo: int, vector: Vector) -> None:
    """Insert a photo's vector, or the class alone where the vector is there.

    Args:
        connection: in a transaction.
        photo: the photo's number.
        vector: what a model says of it.
    """
    connection.execute(
        "INSERT INTO vector (photo_id, embedding_id, vector, labels_of, label, probability)"
        " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (photo_id, embedding_id) DO UPDATE SET"
        " labels_of = excluded.labels_of, label = excluded.label, probability = excluded.probability",
        (
            photo,
            vector.embedding_id,
            vector.values.astype("<f2").tobytes(),
            vector.labels_of,
            vector.label,
            vector.probability,
        ),
    )


def remove_product(connection: sqlite3.Connection, key: int) -> None:
    """Delete a product with its photos and vectors.

    Args:
        connection: in a transaction.
        key: the product's number.
    """
    connection.execute("DELETE FROM product WHERE id = ?", (key,))


def remove_photo(connection: sqlite3.Connection, key: int) -> None:
    """Delete a photo with its vectors.

    Args:
        connection: in a transaction.
        key: the photo's number.
    """
    connection.execute("DELETE FROM photo WHERE id = ?", (key,))
