"""Find photos in files, folders and catalogues, whatever the folders mean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from fedrec.errors import DataError
from fedrec.recognition.catalogue.places import is_catalogue
from fedrec.vision.listing.file_contents import unread
from fedrec.vision.listing.folder_tree import read_tree


def photo_files(places: Sequence[Path]) -> list[Path]:
    """List the photos that are named, or that lie below named folders.

    Args:
        places: files, folders and catalogues. A named file is taken whatever its name ends in.

    Returns:
        The files, those of a folder in order of their paths; without hidden ones, and without those that
        links of folders lead to; each file of a catalogue's photos once.

    Raises:
        DataError: a place doesn't exist or can't be listed, there is no photo, or a catalogue is damaged.
    """
    found: list[Path] = []
    for place in places:
        if is_catalogue(place):
            found.extend(_stored(place))
        elif place.is_dir():
            found.extend(sorted(_below(place)))
        elif place.exists():
            found.append(place)
        else:
            raise DataError(f"there is no file or folder {place}")
    if not found:
        raise DataError(f"no photo was found in {', '.join(str(place) for place in places)}")
    return found


def _stored(folder: Path) -> list[Path]:
    # What a catalogue needs isn't imported for folders.
    from fedrec.recognition.catalogue.catalogue import Catalogue

    with Catalogue(folder) as catalogue:
        rows = catalogue.rows("SELECT path FROM photo WHERE path IS NOT NULL ORDER BY id")
    return [Path(path) for path in dict.fromkeys(row[0] for row in rows)]


def _below(folder: Path) -> Iterator[Path]:
    for inner in read_tree(folder, follow_folders=False).root.walk():
        for file in (inner.path / name for name in inner.files):
            left_out = unread(file)
            # One that looks like a photo is named to the user when it can't be decoded.
            if left_out is None or left_out.photo:
                yield file
