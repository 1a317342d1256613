"""Open what ``fedrec catalogue copies`` compares: a folder of photos, or a catalogue."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fedrec.errors import ConfigError, DataError
from fedrec.observability.progress import Tell
from fedrec.recognition.catalogue.places import is_catalogue
from fedrec.recognition.copies.collection import Collection, Nearest, PhotoFiles
from fedrec.recognition.copies.kept_prints import KeptPrints
from fedrec.recognition.embedding import Embedder
from fedrec.recognition.model import open_model
from fedrec.recognition.photo_files import photo_files


@dataclass(frozen=True)
class Place:
    """Photos that are compared.

    Attributes:
        photos: the photos.
        names: name of each photo.
        files: the file of each photo, without links; None for one that has no file here.
        embedder: the model that proposes candidates; None for none.
        search: vectors that are known already; None for none.
        kept: prints that were made before; None for none.
    """

    photos: Collection
    names: Sequence[str]
    files: Sequence[str | None]
    embedder: Embedder | None
    search: Nearest | None = None
    kept: KeptPrints | None = None


@contextmanager
def opened_place(path: Path, *, model: Path | None, tell: Tell) -> Iterator[Place]:
    """Open a place.

    Args:
        path: a photo, a folder of photos, or a catalogue's folder.
        model: a model's folder, for photos in files; a catalogue has its own.
        tell: receives progress.

    Yields:
        The place.

    Raises:
        ConfigError: a model was named for a catalogue.
        DataError: there is no photo, or the catalogue or the model is damaged.
    """
    if not is_catalogue(path):
        files = PhotoFiles(photo_files([path]))
        real = [os.path.realpath(name) for name in files.names]
        yield Place(files, files.names, real, None if model is None else open_model(model))
        return
    if model is not None:
        raise ConfigError(f"{path} is a catalogue, which has its own model: leave --model out")
    # What a catalogue needs isn't imported for folders.
    from fedrec.recognition.catalogue.catalogue import Catalogue
    from fedrec.recognition.catalogue.models import photo_model_of
    from fedrec.recognition.catalogue.opening import open_searcher
    from fedrec.recognition.catalogue.stored_photos import StoredPhotos
    from fedrec.recognition.zero_training import backbone_bundle

    with Catalogue(path) as catalogue:
        if not catalogue.rows("SELECT 1 FROM photo LIMIT 1"):
            raise DataError(f"{path} holds no photo")
        embedder = open_model(catalogue.model_folder() or backbone_bundle())
        used = photo_model_of(embedder, path=catalogue.model.path).used
        catalogue.check_model(used, labels=False)
        stored = StoredPhotos(catalogue, open_searcher(catalogue, tell=tell))
        rows = catalogue.rows(
            "SELECT photo.id, product.name, photo.name, photo.path FROM photo"
            " JOIN product ON product.id = photo.product_id"
        )
        names = {key: f"{product}/{photo}" for key, product, photo, _ in rows}
        real_of = {key: os.path.realpath(place) for key, _, _, place in rows if place is not None}
        keys = [int(key) for key in stored.keys]
        shown, real_files = [names.get(key, str(key)) for key in keys], [real_of.get(key) for key in keys]
        yield Place(stored, shown, real_files, embedder, stored, stored)
