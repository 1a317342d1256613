"""Open a file just far enough to tell whether it is a photo."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Final

from fedrec._internal.other_tables import is_packed
from fedrec.vision.decoders import why_not_read
from fedrec.vision.listing.folder_tree import NOT_REGULAR, LeftOut, looks_like_photo
from fedrec.vision.photo_signatures import HEAD_BYTES, PICTURE_FORMATS, format_of

EMPTY: Final = "an empty file"
NOT_A_PHOTO: Final = "not a photo"
NO_PHOTO_INSIDE: Final = "called a photo, but its content is none"
WEB_PAGE: Final = f"{NO_PHOTO_INSIDE}: it is a web page, so download it again"
ZEROS: Final = f"{NO_PHOTO_INSIDE}: it is filled with zeros, so copy it again"
_POINTERS: Final = (
    (b"version https://git-lfs", "a pointer of Git LFS, and the photo is not on this machine: git lfs pull"),
    (b"/annex/objects/", "a pointer of git-annex, and the photo is not on this machine: git annex get"),
)
ARCHIVE: Final = "an archive: unpack it if it holds photos"
PACKED: Final = "packed records, not a photo: write out the pictures in it as files if it holds some"
_OTHERS: Final = {
    "PDF": "a PDF document, not a photo",
    "archive": ARCHIVE,
    "video": "a film, not a photo",
}
_HTML: Final = re.compile(rb"(\xef\xbb\xbf)?\s*<(!doctype html|html|head)[\s>]", re.IGNORECASE)
# A pipe that takes a file's place in between would block, and Windows would change line ends.
_FLAGS: Final = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def unread(path: Path) -> LeftOut | None:
    """Tell by a file's first bytes whether it is a photo that can be read.

    Args:
        path: a regular file.

    Returns:
        None for a photo of a format that is read; for any other file why it is left out.
    """
    named = looks_like_photo(path.name)
    try:
        head = _head(path)
    except OSError as error:
        return LeftOut(path, f"can't be opened ({error.strerror or error})", True)
    if head is None:
        return LeftOut(path, NOT_REGULAR, named)
    if not head:
        return LeftOut(path, EMPTY, named)
    found = format_of(head, name=path.name)
    if found in PICTURE_FORMATS:
        reason = why_not_read(found)
        return None if reason is None else LeftOut(path, reason, True)
    if found is not None:
        return LeftOut(path, _OTHERS[found], named or found == "archive")
    for beginning, reason in _POINTERS:
        if head.startswith(beginning):
            return LeftOut(path, reason, True)
    if not named and is_packed(path):
        return LeftOut(path, PACKED, True)
    return LeftOut(path, _what_else(head) if named else NOT_A_PHOTO, named)


def _what_else(head: bytes) -> str:
    if not any(head):
        return ZEROS
    return WEB_PAGE if _HTML.match(head) else NO_PHOTO_INSIDE


def _head(path: Path) -> bytes | None:
    """Return the first bytes of a file; None if it is no regular file any more."""
    handle = os.open(path, _FLAGS)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return None
        return os.read(handle, HEAD_BYTES)
    finally:
        os.close(handle)
