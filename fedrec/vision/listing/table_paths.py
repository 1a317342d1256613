"""Read the paths that a table names: addresses of files, numbers for signs, other endings."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from posixpath import normpath
from typing import Final
from urllib.parse import unquote

HOSTILE: Final = "leads out of the table's folder"
MISSING: Final = "there is no such file"
ON_THE_INTERNET: Final = (
    "is on the internet, from where nothing is fetched: download the photo, and name its file"
)

_ABSOLUTE: Final = re.compile(r"/|[A-Za-z]:|~/")
_ELSEWHERE: Final = re.compile(r"(https?|ftps?|s3|gs|az|wasbs?|hdfs|data|blob):", re.IGNORECASE)
_FILE: Final = re.compile(r"file:(//(localhost)?(?=/))?", re.IGNORECASE)


def is_on_the_internet(path: str) -> bool:
    """Return whether a path is an address from which a program would have to fetch the photo."""
    return _ELSEWHERE.match(path) is not None


def leads_out(path: str) -> bool:
    """Return whether a path with slashes, without needless parts, leads out of the folder it starts from."""
    return _ABSOLUTE.match(path) is not None or path.split("/")[0] == ".."


def plain_path(text: str) -> str:
    """Return a path with slashes, in NFC and without needless parts; empty if there is none.

    Args:
        text: a path, with slashes or backslashes, or a file's address such as ``file:///photos/a%20b.jpg``.
    """
    address = _FILE.match(text)
    if address is not None:
        text = unquote(text[address.end() :], errors="surrogateescape")
        # The address of a file on Windows has a slash before its drive.
        text = re.sub(r"^/(?=[A-Za-z]:)", "", text)
    if is_on_the_internet(text):
        return text
    text = unicodedata.normalize("NFC", text).replace("\\", "/")
    return normpath(text) if text else ""


@dataclass
class TablePaths:
    """Files below a table's folder, by the paths in its rows.

    Attributes:
        folder: the table's folder.
    """

    folder: Path
    _entries: dict[Path, tuple[frozenset[str], frozenset[str]]] = field(default_factory=dict)

    def below(self, path: str) -> str:
        """Return a path as one below the folder: an absolute one in it, or one with numbers as in ``%20``.

        Numbers are read only where no file is called like that.

        Args:
            path: a path as :func:`plain_path` returns it.

        Returns:
            The path; as it is if it isn't in the folder.
        """
        if _ABSOLUTE.match(path):
            for folder in dict.fromkeys((self.folder.absolute(), self.folder.resolve())):
                start = unicodedata.normalize("NFC", folder.as_posix()).rstrip("/") + "/"
                if path.startswith(start):
                    path = path[len(start) :]
                    break
        if "%" in path and not leads_out(path) and not exists(self.folder / path):
            other = plain_path(unquote(path, errors="surrogateescape"))
            if not leads_out(other) and exists(self.folder / other):
                return other
        return path

    def why_missing(self, file: Path) -> str:
        """Say that a file isn't there, and whether one is that may be meant.

        Args:
            file: a path below the folder.

        Returns:
            The reason, in one line.
        """
        names, stems = self._names_beside(file.parent)
        own = _plain(file.name)
        if own in names:
            return f"{MISSING}, but one in other capitals"
        return f"{MISSING}, but one with another ending" if file.suffix == "" and own in stems else MISSING

    def _names_beside(self, folder: Path) -> tuple[frozenset[str], frozenset[str]]:
        if folder not in self._entries:
            try:
                names = [entry.name for entry in folder.iterdir()]
            except (OSError, ValueError):
                names = []
            self._entries[folder] = (
                frozenset(map(_plain, names)),
                frozenset(_plain(Path(name).stem) for name in names),
            )
        return self._entries[folder]


def exists(file: Path) -> bool:
    """Return whether a file is there; False for a name that no file can have."""
    try:
        return file.exists()
    except (OSError, ValueError):
        return False


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
