"""Walk a folder of photos, and account for each of its entries by name and kind, without opening a file."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from fedrec.errors import DataError

MOST_LEVELS: Final = 40
"""Folders that are nested deeper are not looked into."""
_LINKED_LEVELS: Final = 5
"""Levels below a linked folder that can matter: wrapper, split, merchant, class, product."""

HIDDEN: Final = "hidden"
NOT_HERE: Final = "in the cloud, and not on this machine: open it once"
SYSTEM: Final = "left by the operating system or a file server"
THUMBNAILS: Final = "a folder of thumbnails"
DEAD_LINK: Final = "a link that leads nowhere"
LINKED: Final = "a link to a folder"
LOOP: Final = "a link to a folder that it lies in"
SECOND_LINK: Final = "a second link to the same folder"
NOT_REGULAR: Final = "not a regular file"
UNLISTABLE: Final = "can't be listed: check its permissions"
TOO_DEEP: Final = "nested too deep"

_SYSTEM_FOLDERS: Final = re.compile(
    r"__macosx|lost\+found|\$recycle\.bin|recycler|#(syno)?recycle|@recycle|@recently-snapshot|@eadir|@tmp|"
    r"@sharebin|@appstore|@sharesnap|#snapshot|"
    r"~snapshot|system volume information|found\.\d{3}|network trash folder|temporary items|__pycache__"
)
_SYSTEM_FILES: Final = re.compile(
    r"(eh)?thumbs(_vista)?\.db|desktop\.ini|icon\r?|autorun\.inf|~\$.*|.*:zone\.identifier"
)
_THUMBNAIL_FOLDERS: Final = re.compile(r"[_@]?thumb(s|nails?)?_?|_?vignettes?")
# Names that promise a photo, of whatever format: an image server's have more behind the ending.
_LOOKS_LIKE_PHOTO: Final = re.compile(
    r"\.(jpe?g|jpe|jfif|png|webp|bmp|gif|tiff?|hei[cf]|avif|jxl|jp2|psd|svg|raw|dng|cr[23]|nef|arw)([^a-z]|$)",
    re.IGNORECASE,
)
# What programs write about a photo beside it, as in x.jpg.xmp and Google's x.jpg.supplemental-metadata.json.
_BESIDE_A_PHOTO: Final = re.compile(
    r".*\.(json|xmp|xml|txt|csv|ya?ml|ini|md5|sha\d*|aae|pp3|dop|cos|on1|lnk|url)", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An entry of a folder that isn't used, and why.

    Attributes:
        path: the entry.
        reason: why not, in one line, without the path.
        photo: whether it is a photo, looks like one, or may hold some: its owner might miss it.
    """

    path: Path
    reason: str
    photo: bool


@dataclass(slots=True)
class Folder:
    """A folder that is read.

    Attributes:
        path: the folder.
        folders: the folders in it that are read, by name.
        files: the regular files in it, by name; not opened yet.
        unlistable: whether it can't be listed; it is left out then, but stays where it is among the others.
    """

    path: Path
    folders: list[Folder] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    unlistable: bool = False

    @property
    def height(self) -> int:
        """How many levels of folders lie below this one."""
        return max((1 + inner.height for inner in self.folders), default=0)

    def walk(self) -> Iterator[Folder]:
        """Yield this folder and all below it, each before the folders in it."""
        waiting: list[Folder] = [self]
        while waiting:
            folder = waiting.pop()
            yield folder
            waiting.extend(reversed(folder.folders))


@dataclass(frozen=True, slots=True)
class Tree:
    """A folder with all below it.

    Attributes:
        root: the folder.
        left_out: entries that are not read. Those in a folder that isn't read are listed too.
    """

    root: Folder
    left_out: tuple[LeftOut, ...]


def looks_like_photo(name: str) -> bool:
    """Return whether a file's name promises a photo."""
    if name.startswith(".") or _BESIDE_A_PHOTO.fullmatch(name):
        return False
    return _LOOKS_LIKE_PHOTO.search(name) is not None


def read_tree(root: Path, *, follow_folders: bool = True) -> Tree:
    """List a folder with all below it.

    No file is opened. Hidden entries and what systems leave behind are not read. Links are followed, except
    those into a folder that they lie in. Anything that is neither a file nor a folder isn't read either:
    opening a pipe could block.

    Args:
        root: the folder.
        follow_folders: whether links to folders are followed.

    Returns:
        The tree. Every entry below ``root`` is once in it, read or left out.

    Raises:
        DataError: ``root`` itself can't be listed.
    """
    walk = _Walk(follow_folders)
    top = Folder(root)
    try:
        entries = walk.listed(root)
    except OSError as error:
        raise DataError(f"{root} cannot be listed ({error.strerror}): check its permissions") from error
    walk.read(top, entries, chain=(_identity(root),))
    return Tree(top, tuple(sorted(walk.left_out, key=lambda entry: entry.path)))


_Identity = tuple[int, int]


def _identity(path: Path | str) -> _Identity:
    found = os.stat(path)  # noqa: PTH116 - also for the strings of os.scandir
    return found.st_dev, found.st_ino


@dataclass
class _Walk:
    follow_folders: bool
    left_out: list[LeftOut] = field(default_factory=list)
    linked: set[_Identity] = field(default_factory=set)

    def listed(self, folder: Path) -> list[os.DirEntry[str]]:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)

    def skip(self, entry: os.DirEntry[str], reason: str, *, photo: bool = False) -> None:
        self.left_out.append(LeftOut(Path(entry.path), reason, photo))

    def read(
        self,
        folder: Folder,
        entries: list[os.DirEntry[str]],
        *,
        chain: tuple[_Identity, ...],
        levels: int = MOST_LEVELS,
    ) -> None:
        """Put entries of a folder into it, or leave them out."""
        for entry in entries:
            kind = _kind(entry)
            reason = _by_name(entry.name, folder=kind == "folder", top=len(chain) == 1)
            if reason is not None:
                self.skip(entry, reason, photo=reason == NOT_HERE)
                if kind == "folder" and not entry.is_symlink():
                    self._count_below(entry, reason, disk=chain[-1][0])
            elif kind == "file":
                folder.files.append(entry.name)
            elif kind == "folder":
                self._enter(folder, entry, chain=chain, levels=levels)
            else:
                self.skip(entry, kind, photo=looks_like_photo(entry.name))

    def _enter(
        self, folder: Folder, entry: os.DirEntry[str], *, chain: tuple[_Identity, ...], levels: int
    ) -> None:
        link = entry.is_symlink()
        if link and not self.follow_folders:
            self.skip(entry, LINKED)
            return
        try:
            own = _identity(entry.path)
            if own in chain:
                self.skip(entry, LOOP)
                return
            if levels == 0:
                self.skip(entry, TOO_DEEP, photo=True)
                if not link:
                    self._count_below(entry, TOO_DEEP, disk=own[0])
                return
            entries = self.listed(Path(entry.path))
            # Links to a folder of photos alone can't multiply. Below a class each may be a product, and
            # whether one is read must not follow from another.
            if (
                link
                and own in self.linked
                and (len(chain) == 1 or any(_kind(inner) == "folder" for inner in entries))
            ):
                self.skip(entry, SECOND_LINK, photo=True)
                return
        except OSError:
            self.skip(entry, UNLISTABLE, photo=True)
            folder.folders.append(Folder(Path(entry.path), unlistable=True))
            return
        if link:
            self.linked.add(own)
            levels = min(levels, _LINKED_LEVELS + 1)
        inner = Folder(Path(entry.path))
        folder.folders.append(inner)
        self.read(inner, entries, chain=(*chain, own), levels=levels - 1)

    def _count_below(self, top: os.DirEntry[str], reason: str, *, disk: int) -> None:
        """List what is in a folder that isn't read, so that no entry is missing from the account."""
        within = f"in a folder that is {reason}" if reason in (HIDDEN, SYSTEM, TOO_DEEP) else f"in {reason}"
        waiting = [top]
        while waiting:
            folder = waiting.pop()
            try:
                # File servers show every older state of a whole disk in such folders, as disks of their own.
                if _identity(folder.path)[0] != disk:
                    continue
                entries = self.listed(Path(folder.path))
            except OSError:
                continue
            for entry in entries:
                self.skip(entry, within)
                if _kind(entry) == "folder" and not entry.is_symlink():
                    waiting.append(entry)


def _kind(entry: os.DirEntry[str]) -> str:
    """Return "file", "folder", or why an entry is neither."""
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
        # A link that leads nowhere is neither, and has no target whose metadata can be read.
        entry.stat()
    except OSError:
        return DEAD_LINK if entry.is_symlink() else NOT_REGULAR
    return NOT_REGULAR


def _by_name(name: str, *, folder: bool, top: bool) -> str | None:
    """Return why an entry isn't read by its name alone; None if it is read."""
    if name.startswith("."):
        return NOT_HERE if name.endswith(".icloud") and not folder else HIDDEN
    plain = unicodedata.normalize("NFKC", name).casefold()
    if not folder:
        return SYSTEM if _SYSTEM_FILES.fullmatch(plain) else None
    if _SYSTEM_FOLDERS.fullmatch(plain):
        return SYSTEM
    # At the top it may be a class.
    return THUMBNAILS if not top and _THUMBNAIL_FOLDERS.fullmatch(plain) else None
