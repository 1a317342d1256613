"""Compute the vectors of a catalogue again, with another model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from PIL import Image

from fedrec._internal.text import counted, one_line
from fedrec.errors import DataError
from fedrec.observability.progress import Stage, Tell
from fedrec.recognition.catalogue.catalogue import OWN, Catalogue
from fedrec.recognition.catalogue.changes import put_print, put_vector
from fedrec.recognition.catalogue.photo_model import PhotoModel
from fedrec.recognition.catalogue.photo_prints import kept_print, print_version
from fedrec.recognition.catalogue.photos import picture_of, read_file, sha256_of

_BATCH: Final = 32


@dataclass(frozen=True)
class Recomputed:
    """What became of the photos.

    Attributes:
        photos: photos that are found from now on.
        lost: photos that can't be read any more, or were changed since.
        foreign: photos of other merchants, whose files aren't here.
    """

    photos: int
    lost: int
    foreign: int

    def __str__(self) -> str:
        lost = f"; {counted(self.lost, 'photo')} can't be read and won't be found" if self.lost else ""
        foreign = (
            f"; {counted(self.foreign, 'photo')} of other merchants won't be found until they publish again"
            if self.foreign
            else ""
        )
        return f"{counted(self.photos, 'photo')} can be found{lost}{foreign}"


def reindex(
    catalogue: Catalogue,
    model: PhotoModel,
    *,
    tell: Tell,
    on_event: Callable[[str], None] = lambda event: None,
) -> Recomputed:
    """Compute vectors and classes by another model; the former ones are in use until all are there.

    A run that was killed is continued by the next.

    Args:
        catalogue: open for writing.
        model: the model to use from now on.
        tell: receives progress, and a line for each photo that can't be read.
        on_event: called with the name of each step of writing; tests interrupt it there.

    Returns:
        What became of the photos.
    """
    used = model.used
    own = catalogue.rows(
        "SELECT photo.id, photo.path, photo.sha256 FROM photo JOIN product ON product.id = photo.product_id"
        " WHERE product.merchant = :own AND (NOT EXISTS (SELECT 1 FROM vector WHERE photo_id = photo.id"
        " AND embedding_id = :embedding AND labels_of IS :labels) OR :version IS NOT NULL AND NOT EXISTS"
        " (SELECT 1 FROM print WHERE photo_id = photo.id AND substr(content, 1, 1) = :version))"
        " ORDER BY photo.id",
        {"own": OWN, "embedding": used.embedding_id, "labels": used.labels_of, "version": print_version()},
    )
    for start in range(0, len(own), _BATCH):
        pictures: dict[int, Image.Image] = {}
        for key, path, sha256 in own[start : start + _BATCH]:
            try:
                pictures[key] = _unchanged(Path(path), sha256)
            except DataError as error:
                tell(Stage("reindex", 0, 0, plain=f"{one_line(path)}: {one_line(error)}"))
        vectors = model.describe(list(pictures.values()))
        prints = {key: kept_print(picture) for key, picture in pictures.items()}
        with catalogue.transaction() as connection:
            for key, vector in zip(pictures, vectors, strict=True):
                put_vector(connection, key, vector)
                kept = prints[key]
                if kept is not None:
                    put_print(connection, key, kept)
        on_event("batch committed")
        tell(Stage("photos", min(start + _BATCH, len(own)), len(own)))
    with catalogue.transaction() as connection:
        # Of an embedding that stays, no vector is lost: one whose photo is gone keeps it, without a class.
        connection.execute("DELETE FROM vector WHERE embedding_id != ?", (used.embedding_id,))
        connection.execute(
            "UPDATE vector SET labels_of = NULL, label = NULL, probability = NULL WHERE labels_of IS NOT ?",
            (used.labels_of,),
        )
        connection.executemany(
            "UPDATE setting SET value = ? WHERE name = ?",
            [(value, name) for name, value in used.settings().items()],
        )
    on_event("switched")
    missing = (
        "SELECT count(*) FROM photo JOIN product ON product.id = photo.product_id WHERE"
        " NOT EXISTS (SELECT 1 FROM vector WHERE photo_id = photo.id) AND product.merchant"
    )
    return Recomputed(
        photos=catalogue.rows("SELECT count(*) FROM vector")[0][0],
        lost=catalogue.rows(f"{missing} = ?", (OWN,))[0][0],
        foreign=catalogue.rows(f"{missing} != ?", (OWN,))[0][0],
    )


def _unchanged(path: Path, sha256: bytes) -> Image.Image:
    data = read_file(path)
    if sha256_of(data) != sha256:
        raise DataError("was changed since: import it again")
    return picture_of(data)
