"""Names of folders as people read them: decoded without loss, and in one Unicode form.

Labels and products are names, so one name must never decide how another is read: a name's text depends on
that name and on the encoding that was set, and on nothing else.
"""

from __future__ import annotations

import os
import re
import sys
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fedrec._internal.text import counted, listed
from fedrec.vision.listing.legacy_text import SHOWN_AS, meant_by, raw_name

_NUMBER: Final = re.compile(r"\\x[0-9a-f]{2}")


@dataclass(frozen=True)
class FolderNames:
    """How names in a data set are read.

    Attributes:
        encoding: the encoding of names that are not in UTF-8; None if none was set.
        notes: which names are not in UTF-8, in one line each.
    """

    encoding: str | None = None
    notes: tuple[str, ...] = ()

    def text(self, name: str) -> str:
        r"""Return a name as text, in NFC; a name that can't be decoded has numbers, as in ``\xb8``.

        Names that differ in more than their Unicode form have different texts.
        """
        raw = raw_name(name)
        found = name if raw is None else decoded(raw, self.encoding)
        if found is None:
            return _numbered(raw or b"")
        text = unicodedata.normalize("NFC", found)
        # Such a text could be that of a name with numbers.
        return _numbered(text.encode()) if _NUMBER.search(text) else text

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
    """Say how the names of a data set are read.

    Args:
        names: the names, with surrogates for bytes that are not in UTF-8.
        encoding: the encoding of those that are not in UTF-8; None if none was set.

    Returns:
        The texts, with notes for their owner.
    """
    distinct = set(names)
    raws = {raw for name in distinct if (raw := raw_name(name)) is not None}
    read = {raw: text for raw in raws if (text := decoded(raw, encoding)) is not None}
    notes = []
    if read:
        notes.append(
            f"{counted(len(read), 'name is', plural='names are')} not in UTF-8, and read as "
            f"{shown_encoding(encoding)}: {listed(sorted(read.values()), most=5)}; if that is wrong, give "
            "another --names-encoding (names_encoding in client.toml)"
        )
    if len(read) < len(raws):
        left = sorted(_numbered(raw) for raw in raws - read.keys())
        where = (
            "not in UTF-8"
            if encoding in (None, "utf-8")
            else f"neither in UTF-8 nor in {shown_encoding(encoding)}"
        )
        notes.append(
            f"{counted(len(left), 'name is', plural='names are')} {where}, and used with numbers for bytes: "
            f"{listed(left, most=5)}"
        )
    known = [name for name in distinct if raw_name(name) is None]
    notes += _garbled(known)
    notes += _unseen(known)
    return FolderNames(encoding, tuple(notes))


def _garbled(names: Iterable[str]) -> list[str]:
    """Say which names were made unreadable by another program; they stay as they are."""
    meant = {name: text for name in sorted(names) if (text := meant_by(name)) is not None}
    shown = [f"{name} may be {text}" for name, text in meant.items()]
    return [f"names look garbled, and are used as they are: {listed(shown, most=5)}"] if meant else []


def _unseen(names: Iterable[str]) -> list[str]:
    """Say which names hold signs that nobody sees, and that another shop's name therefore lacks."""
    hidden = sorted(name for name in names if name != name.strip() or not name.isprintable())
    if not hidden:
        return []
    return [
        "names hold spaces at an end or signs that can't be seen, and are used as they are: "
        f"{listed([quoted(name) for name in hidden], most=5)}"
    ]


def quoted(name: str) -> str:
    r"""Quote a name with a number in place of each sign that can't be seen, as in 'hat\u200b'."""
    text = "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in name)
    return f"'{text}'"


def shown_encoding(encoding: str | None) -> str:
    """Return an encoding's name for people."""
    return SHOWN_AS.get(encoding or "", encoding or "UTF-8")


def decoded(raw: bytes, encoding: str | None) -> str | None:
    """Decode one name without loss.

    Args:
        raw: a name that is not in UTF-8.
        encoding: the encoding that was set, if one was.

    Returns:
        The text, from which the bytes can be made again; None if there is none.
    """
    if encoding is None:
        return None
    try:
        text = raw.decode(encoding)
        # Some encodings have two codes for one character, and two names must not become one.
        exact = text.encode(encoding) == raw and bool(text.encode())
    except (ValueError, LookupError):
        return None
    shown = not any(unicodedata.category(sign) == "Cc" for sign in text)
    return text if exact and shown else None


def _numbered(raw: bytes) -> str:
    r"""Write each byte that is no printable ASCII as its number, and each backslash as ``\x5c``."""
    return "".join(chr(byte) if 32 <= byte < 127 and byte != 92 else f"\\x{byte:02x}" for byte in raw)
