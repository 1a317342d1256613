"""Read the vectors that a catalogue holds: those of the model in use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import DataError
from fedrec.recognition.catalogue.catalogue import Catalogue
from fedrec.recognition.catalogue.filters import Condition

_PAGE: Final = 500
_IN_USE: Final = "vector.embedding_id = (SELECT value FROM setting WHERE name = 'embedding_id')"
_DAMAGED: Final = "a vector of the catalogue is damaged: run 'catalogue reindex'"


def photo_keys(catalogue: Catalogue, conditions: Sequence[Condition] = ()) -> NDArray[np.int64]:
    """List the photos that have a vector of the model in use.

    Args:
        catalogue: the catalogue.
        conditions: what a photo or its product must fulfil.

    Returns:
        The photos' numbers, ascending.

    Raises:
        DataError: a photo's number is none.
    """
    joined = (
        " JOIN photo ON photo.id = vector.photo_id JOIN product ON product.id = photo.product_id"
        if conditions
        else ""
    )
    where = " AND ".join([_IN_USE, *(condition.text for condition in conditions)])
    values = [value for condition in conditions for value in condition.values]
    rows = catalogue.rows(
        f"SELECT vector.photo_id FROM vector{joined} WHERE {where} ORDER BY vector.photo_id",  # noqa: S608
        values,
    )
    if not all(type(row[0]) is int for row in rows):
        raise DataError(f"{catalogue.folder}: {_DAMAGED}")
    return np.fromiter((row[0] for row in rows), dtype=np.int64, count=len(rows))


def vectors_of(
    catalogue: Catalogue, keys: NDArray[np.int64], *, dimension: int
) -> tuple[NDArray[np.int64], NDArray[np.float16]]:
    """Read the vectors of photos.

    Args:
        catalogue: the catalogue.
        keys: the photos' numbers.
        dimension: length of a vector.

    Returns:
        The numbers of those photos that are still there, and their vectors.

    Raises:
        DataError: a vector is of another length or type.
    """
    there, _, vectors = owned_vectors_of(catalogue, keys, dimension=dimension)
    return there, vectors


def owned_vectors_of(
    catalogue: Catalogue, keys: NDArray[np.int64], *, dimension: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float16]]:
    """Read the vectors of photos, and whose they are.

    Args:
        catalogue: the catalogue.
        keys: the photos' numbers.
        dimension: length of a vector.

    Returns:
        The numbers of those photos that are still there, those of their products, and their vectors.

    Raises:
        DataError: a vector is of another length or type.
    """
    found: list[tuple[int, int, bytes]] = []
    for start in range(0, len(keys), _PAGE):
        part = keys[start : start + _PAGE].tolist()
        places = ",".join("?" * len(part))
        found += catalogue.rows(
            "SELECT vector.photo_id, photo.product_id, vector.vector FROM vector"  # noqa: S608
            f" JOIN photo ON photo.id = vector.photo_id WHERE {_IN_USE} AND vector.photo_id IN ({places})",
            part,
        )
    # SQLite keeps a value of any type in any column.
    if not all(isinstance(vector, bytes) and len(vector) == 2 * dimension for _, _, vector in found):
        raise DataError(f"{catalogue.folder}: {_DAMAGED}")
    joined = b"".join(vector for _, _, vector in found)
    there = np.fromiter((key for key, _, _ in found), dtype=np.int64, count=len(found))
    owners = np.fromiter((owner for _, owner, _ in found), dtype=np.int64, count=len(found))
    vectors = np.frombuffer(joined, dtype="<f2").reshape(len(found), dimension).astype(np.float16)
    return there, owners, vectors
