"""What a catalogue keeps of its photos so that copies are found without reading each photo anew."""

from __future__ import annotations

from importlib.util import find_spec

from PIL import Image


def print_version() -> bytes | None:
    """Return the first byte of prints that are made now; None without the packages for it."""
    if not _has_packages():
        return None
    from fedrec.recognition.copies.kept_prints import VERSION

    return VERSION


def kept_print(picture: Image.Image) -> bytes | None:
    """Make what is kept of a photo.

    Args:
        picture: the photo as :func:`fedrec.recognition.catalogue.photos.picture_of` decodes it.

    Returns:
        Its print, packed; None for a mere line, or without the packages.
    """
    if not _has_packages():
        return None
    # What copies need isn't imported for searches.
    from fedrec.recognition.copies.kept_prints import packed
    from fedrec.recognition.copies.prints import make_print

    printed = make_print(picture)
    return None if printed is None else packed(printed)


def _has_packages() -> bool:
    return find_spec("cv2") is not None and find_spec("pdqhash") is not None
