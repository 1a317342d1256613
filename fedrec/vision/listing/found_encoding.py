"""Find the encoding of names that are not in UTF-8, once, for the owner of the photos or for a simulation.

The encoding is guessed from all names together: one more photo can change the guess, and with it the labels
of all others. A merchant's training therefore never guesses: it reads names as ``client.toml`` says.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

from fedrec._internal.text import counted, listed
from fedrec.errors import DataError
from fedrec.vision.folders import Layout
from fedrec.vision.listing.folder_names import as_utf8, decoded, shown_encoding
from fedrec.vision.listing.folder_tree import read_tree
from fedrec.vision.listing.legacy_text import SHOWN_AS, decode_all, raw_name
from fedrec.vision.listing.letter_statistics import further_encoding
from fedrec.vision.listing.photo_listing import found_class_folders
from fedrec.vision.listing.photo_places import PhotoPlace, is_place
from fedrec.vision.listing.photo_table import is_table, table_texts


def with_found_encoding(place: Path | PhotoPlace) -> PhotoPlace:
    """Find a place's encoding, unless it is given.

    Args:
        place: a folder or a CSV file.

    Returns:
        The place with the encoding of most of its names that are not in UTF-8; as it is if there are none, if
        no encoding fits, or if it can't be read.
    """
    named = place if isinstance(place, PhotoPlace) else PhotoPlace(place)
    if named.names_encoding is not None:
        return named
    return replace(named, names_encoding=_found(_raw_names(named.path)))


def with_found_folders(place: PhotoPlace, *, layout: Layout) -> PhotoPlace:
    """Find the folders that hold one merchant's classes, where one product could decide where they are.

    Args:
        place: a folder or a CSV file, with the encoding of its names.
        layout: the layout of the folder.

    Returns:
        The place; as it is unless it is a folder with products.

    Raises:
        DataError: the folder can't be listed, or has no folder to train on.
    """
    if layout == "class" or not place.path.is_dir():
        return place
    found = found_class_folders(place.path, layout=layout, names_encoding=place.names_encoding)
    return replace(place, class_folders=found)


def folders_advice(place: PhotoPlace, *, layout: Layout) -> str | None:
    """Say where the classes seem to be if a setting says otherwise.

    Args:
        place: a merchant's photos, with the folders that are set.
        layout: the layout of the folder.

    Returns:
        One line; None if the setting agrees with what the folders look like.
    """
    if place.class_folders is None:
        return None
    try:
        found = with_found_folders(place, layout=layout).class_folders
    except DataError as error:
        return f"classes are read in {listed(place.class_folders)}, as client.toml says, but {error}"
    if found is None or set(found) == set(place.class_folders):
        return None
    return (
        f"classes are read in {listed(place.class_folders)}, as client.toml says, but seem to be in "
        f"{listed(found)}: if so, set class_folders = {json.dumps(found, ensure_ascii=False)} there"
    )


def encoding_advice(place: PhotoPlace) -> str | None:
    """Say which setting would read names that a place's encoding doesn't.

    Args:
        place: a merchant's photos, with the encoding that is set.

    Returns:
        One line; None if all names are read.
    """
    unread = {raw for raw in _raw_names(place.path) if decoded(raw, place.names_encoding) is None}
    if not unread:
        return None
    found = _found(unread)
    names = counted(len(unread), "of these names", plural="of these names")
    if found is None:
        return f"{names} can't be read: rename the folders, or set names_encoding in client.toml"
    fit = sum(decoded(raw, found) is not None for raw in unread)
    if place.names_encoding is not None:
        return (
            f"{fit} {'seems' if fit == 1 else 'seem'} to be in {shown_encoding(found)}: rename what isn't in "
            f'{place.names_encoding}, or set names_encoding = "{found}" in client.toml if it is for all'
        )
    return f'set names_encoding = "{found}" in client.toml: {names} can be read as {shown_encoding(found)}'


def _found(raws: set[bytes]) -> str | None:
    """Return the encoding of most names; None if there is none that fits."""
    known = list(SHOWN_AS)
    found = Counter(name for name in decode_all(raws).encodings.values() if name != "latin-1")
    guess = max(found, key=lambda name: (found[name], -known.index(name)), default=None)
    return further_encoding(raws, guess=guess)


def _raw_names(path: Path) -> set[bytes]:
    try:
        if not is_place(path):
            return set()
        if is_table(path):
            names = list(table_texts(path))
        else:
            names = [as_utf8(folder.path.name) for folder in list(read_tree(path).root.walk())[1:]]
    except (DataError, OSError):
        # Whoever reads the place next says what is wrong with it.
        return set()
    return {raw for name in names if (raw := raw_name(name)) is not None}
