"""Write to a catalogue that may be new, and leave no empty one behind where that fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fedrec.recognition.catalogue.catalogue import Catalogue, UsedModel
from fedrec.recognition.catalogue.places import is_catalogue


@contextmanager
def open_or_make(folder: Path, model: UsedModel) -> Iterator[Catalogue]:
    """Open a catalogue for writing; make it first where there is none.

    A new one that holds no product when the block fails is removed: the command that made it did nothing,
    and the next one may name another model.

    Args:
        folder: the folder.
        model: the model that a new one's vectors will be of.

    Yields:
        The catalogue.

    Raises:
        ConfigError: the folder holds other files, or another process writes.
    """
    new, former = not is_catalogue(folder), set(folder.iterdir()) if folder.is_dir() else None
    Catalogue.create(folder, model)
    with Catalogue(folder, write=True) as catalogue:
        try:
            yield catalogue
        except BaseException:
            # While the lock is held: nobody else has written, or writes.
            if new and not catalogue.rows("SELECT 1 FROM product LIMIT 1"):
                catalogue.close_connection()
                _remove(folder, former)
            raise


def _remove(folder: Path, former: set[Path] | None) -> None:
    with suppress(OSError):
        for path in set(folder.iterdir()) - (former or set()):
            path.unlink()
        if former is None:
            folder.rmdir()
