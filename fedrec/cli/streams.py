"""Let standard output and standard error take any text, whatever their encoding."""

from __future__ import annotations

import codecs
import io
import os
import sys
from typing import Final, TextIO

_ESCAPES: Final = "backslashreplace"


def replace_closed_streams() -> None:
    """Open the null device in place of standard streams that were closed before the program began.

    Else the next file that is opened, such as a ledger, would get the number of one of them, and what is
    printed would be written into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is taken: this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - as long as the program
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


def accept_any_text() -> None:
    """Write what a stream's encoding can't express, such as an undecodable name, as an escape.

    A file's name may hold bytes that are no text, and a terminal may take ASCII or a code page alone.
    """
    sys.stdout, sys.stderr = _accepting(sys.stdout), _accepting(sys.stderr)


def _accepting(stream: TextIO) -> TextIO:
    if not isinstance(stream, io.TextIOWrapper):
        # A test's or an embedding program's own stream.
        return stream
    if codecs.lookup(stream.encoding).name == "ascii":
        return _AsciiStream(stream)
    stream.reconfigure(errors=_ESCAPES)
    return stream


class _AsciiStream(io.TextIOWrapper):
    """A stream of ASCII. Click takes one that calls itself so for a mistake, and writes UTF-8 to it."""

    def __init__(self, stream: io.TextIOWrapper) -> None:
        super().__init__(
            stream.buffer,
            encoding="ascii",
            errors=_ESCAPES,
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )
        # Its end would close the bytes below.
        self._replaced = stream

    @property
    def encoding(self) -> str:  # type: ignore[override] # it can't be set in C either
        """A name that isn't ASCII's."""
        return "ascii-with-escapes"
