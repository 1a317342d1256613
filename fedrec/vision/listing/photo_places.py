"""List the photos of a place that a user names: a folder, or a CSV file that says where the photos are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedrec._internal.other_tables import why_no_csv_name
from fedrec.errors import DataError
from fedrec.vision.folders import Layout
from fedrec.vision.listing.file_contents import ARCHIVE, unread
from fedrec.vision.listing.photo_listing import PhotoListing, list_folder
from fedrec.vision.listing.photo_table import is_table, list_table


@dataclass(frozen=True)
class PhotoPlace:
    """A place of photos with what is known of it.

    Attributes:
        path: a folder of class folders, or a CSV file.
        names_encoding: encoding of names that are not in UTF-8; None if none was set. Who reads photos never
            guesses it: see :mod:`fedrec.vision.listing.found_encoding`.
        class_folders: the folders below it that hold the classes to train on; None to find them by the
            folders' names and depths.
    """

    path: Path
    names_encoding: str | None = None
    class_folders: tuple[str, ...] | None = None


def is_place(path: Path) -> bool:
    """Return whether a path is a folder or a CSV file, so that photos may be there."""
    return path.is_dir() or (is_table(path) and path.is_file())


def why_away(path: Path) -> str | None:
    """Say why no photo can be in a place: it is gone, or an empty folder, as the mount point of a disk is.

    Args:
        path: a folder of class folders, or a CSV file.

    Returns:
        The reason, or None if the place is there and holds anything that isn't hidden.
    """
    if not path.exists():
        return f"{path} does not exist: is its disk connected?"
    if path.is_dir() and all(entry.name.startswith(".") for entry in path.iterdir()):
        return f"{path} is empty: is its disk connected?"
    return None


def list_photos(
    place: Path | PhotoPlace, *, layout: Layout = "class", one_merchant: bool = False
) -> PhotoListing:
    """Find the photos of a place, without decoding any.

    Args:
        place: a folder of class folders, or a CSV file.
        layout: "class", or "product" where products are told apart.
        one_merchant: all photos belong to one merchant.

    Returns:
        The photos, and every other entry with the reason why it isn't used.

    Raises:
        DataError: the place is missing or can't be read.
    """
    named = place if isinstance(place, PhotoPlace) else PhotoPlace(place)
    path = named.path
    what = "give a folder that holds one folder of pictures per class, or a CSV file"
    if not path.exists():
        raise DataError(f"{path} does not exist: {what}")
    if not path.is_dir() and not is_table(path):
        raise DataError(f"{path} is {_what_it_is(path)}{what}")
    encoding = named.names_encoding
    if is_table(path):
        return list_table(path, layout=layout, one_merchant=one_merchant, names_encoding=encoding)
    return list_folder(
        path,
        layout=layout,
        one_merchant=one_merchant,
        names_encoding=encoding,
        class_folders=named.class_folders,
    )


def _what_it_is(path: Path) -> str:
    other = why_no_csv_name(path)
    if other is not None:
        return f"{other}. Or "
    left_out = unread(path)
    if left_out is not None and left_out.reason == ARCHIVE:
        return "an archive: unpack it, and "
    return "a photo, not a folder: " if left_out is None else "not a folder: "
