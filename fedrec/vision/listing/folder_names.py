"""Names of folders as people read them: decoded without loss, and in one Unicode form."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fedrec._internal.text import counted, listed
from fedrec.errors import DataError
from fedrec.vision.listing.legacy_text import SHOWN_AS, decode_all, meant_by, raw_name


@dataclass(frozen=True)
class FolderNames:
    """Texts of names in a data set.

    Attributes:
        texts: the text of each name that is not in UTF-8, by the name with surrogates for its bytes.
        notes: which encodings were found, in one line each.
    """

    texts: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def text(self, name: str) -> str:
        """Return a name as text, in NFC; bytes that mean nothing are written as numbers."""
        found = self.texts.get(name)
        if found is None:
            raw = raw_name(name)
            found = name if raw is None else raw.decode("utf-8", "backslashreplace")
        return unicodedata.normalize("NFC", found)

    def of_file(self, name: str) -> str:
        """Return the text of a name as the operating system gives it."""
        return self.text(as_utf8(name))

    def shown(self, path: Path, root: Path) -> str:
        """Join the texts of the names on the way to a path with slashes; write what can't be seen as numbers.

        Args:
            path: a path below it.
            root: a folder.

        Returns:
            The text, relative to ``root``.
        """
        joined = "/".join(self.of_file(part) for part in path.relative_to(root).parts)
        if joined.isprintable():
            return joined
        return "".join(
            sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in joined
        )


def as_utf8(name: str) -> str:
    """Return a file's name as UTF-8 has it, whatever encoding this process takes file names for.

    Args:
        name: the name as the operating system gives it.
    """
    if sys.getfilesystemencoding() == "utf-8":
        return name
    try:
        return os.fsencode(name).decode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return name


def folder_names(names: Iterable[str], *, encoding: str | None = None) -> FolderNames:
    """Decode the names of a data set's folders that are not in UTF-8.

    Args:
        names: the names, with surrogates for bytes that are not in UTF-8.
        encoding: their encoding; None to find it by the names themselves.

    Returns:
        The texts.

    Raises:
        DataError: a name isn't in the given encoding.
    """
    names = tuple(names)
    raws = {name: raw for name in names if (raw := raw_name(name)) is not None}
    notes = _garbled(name for name in names if name not in raws)
    if encoding is not None:
        texts = {name: _decoded(raw, encoding) for name, raw in raws.items()}
        said = [f"{counted(len(raws), 'name')} read as {encoding}"] if raws else []
        return FolderNames(texts, (*said, *notes))
    found = decode_all(raws.values())
    for used, count in Counter(found.encodings.values()).most_common():
        examples = sorted(text for raw, text in found.texts.items() if found.encodings[raw] == used)
        notes.append(
            f"{counted(count, 'folder name is', plural='folder names are')} not in UTF-8, and read as "
            f"{SHOWN_AS[used]}: {listed(examples, most=5)}; if that is wrong, give --names-encoding"
        )
    return FolderNames({name: found.texts[raw] for name, raw in raws.items()}, tuple(notes))


def _garbled(names: Iterable[str]) -> list[str]:
    """Say which names were made unreadable by another program; they stay as they are."""
    meant = {name: text for name in sorted(set(names)) if (text := meant_by(name)) is not None}
    shown = [f"{name} may be {text}" for name, text in meant.items()]
    return [f"names look garbled, and are used as they are: {listed(shown, most=5)}"] if meant else []


def _decoded(raw: bytes, encoding: str) -> str:
    try:
        return raw.decode(encoding)
    except ValueError:
        shown = raw.decode("utf-8", "backslashreplace")
        raise DataError(
            f"the folder name {shown} is not in {encoding}: give another --names-encoding"
        ) from None
