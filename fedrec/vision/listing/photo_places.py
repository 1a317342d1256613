"""List the photos of a place that a user names: a folder, or a CSV file that says where the photos are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fedrec.errors import DataError
from fedrec.vision.folders import Layout
from fedrec.vision.listing.photo_listing import PhotoListing, list_folder
from fedrec.vision.listing.photo_table import is_table, list_table


@dataclass(frozen=True)
class PhotoPlace:
    """A place of photos with what is known of it.

    Attributes:
        path: a folder of class folders, or a CSV file.
        names_encoding: encoding of names that are not in UTF-8; None if none was set. Who reads photos never
            guesses it: see :mod:`fedrec.vision.listing.found_encoding`.
    """

    path: Path
    names_encoding: str | None = None


class _List(Protocol):
    def __call__(
        self, place: Path, /, *, layout: Layout, one_merchant: bool, names_encoding: str | None
    ) -> PhotoListing: ...


def is_place(path: Path) -> bool:
    """Return whether a path is a folder or a CSV file, so that photos may be there."""
    return path.is_dir() or (is_table(path) and path.is_file())


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
        raise DataError(f"{path} is not a folder: {what}")
    read: _List = list_table if is_table(path) else list_folder
    return read(path, layout=layout, one_merchant=one_merchant, names_encoding=named.names_encoding)
