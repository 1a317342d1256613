"""Configure the daemons' logs: text or JSON lines, on stderr and in a rotating file."""

from __future__ import annotations

import hashlib
import json
import logging
import logging.handlers
import os
import re
import sys
from contextlib import suppress
from datetime import UTC, datetime
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Literal, TextIO

from fedrec._internal.files import OPEN_FLAGS
from fedrec._internal.text import one_line

LogFormat = Literal["text", "json"]
_BYTES, _FILES = 10 * 2**20, 5
_PRIVATE = 0o600
_LONGEST = 4000
_PEM = re.compile(
    r"-----BEGIN (?P<label>[A-Z0-9 ]{1,40})-----"
    r"(?:(?P<body>(?:(?!-----)[\s\S]){0,20000})-----END (?P=label)-----(?:\s|\\[nr])?"
    r"|(?P<cut>(?:[A-Za-z0-9+/=\s]|\\[nr])*))"
)
"""A key or certificate as text, also as ``repr`` writes it, and also one whose end is cut off."""


def without_pem(text: str) -> str:
    """Replace every PEM block by what it is and the beginning of its SHA-256, which still tells two apart."""

    def told(found: re.Match[str]) -> str:
        label = found["label"].lower()
        if "private" in label:
            return f"[{label} left out]"
        body = re.sub(r"\s|\\[nr]", "", found["body"] or found["cut"] or "")
        return f"[{label} {hashlib.sha256(body.encode()).hexdigest()[:16]}]"

    return _PEM.sub(told, text)


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": without_pem(record.getMessage()),
        }
        if record.exc_info:
            entry["error"] = without_pem(self.formatException(record.exc_info))
        return json.dumps(entry)


class _Text(logging.Formatter):
    """Formats each entry as one line, whatever it contains; traceback lines follow, indented."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (the base class's name)
        record.message = one_line(without_pem(record.message), most=_LONGEST)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802 (the base class's name)
        lines = without_pem(super().formatException(ei)).splitlines()
        return "\n".join(f"  {one_line(line, most=_LONGEST)}" for line in lines)


def _shorten(record: logging.LogRecord) -> bool:
    """Shorten long messages of Flower, whose text may come from others."""
    if record.name.split(".")[0] == "flwr":
        # A message that can't be formatted is left to the handler, which reports it without raising.
        with suppress(TypeError, ValueError):
            # Before the cut, so that no part of a key is left.
            record.msg, record.args = one_line(without_pem(record.getMessage())), ()
    return True


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to the stderr of the moment; that of the start may be closed, as after a test that took it."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


class _PrivateFile(logging.handlers.RotatingFileHandler):
    """A rotating file that only its owner can read, also after rotation."""

    def _open(self) -> TextIOWrapper:
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND | OPEN_FLAGS, _PRIVATE)
        Path(self.baseFilename).chmod(_PRIVATE)
        return os.fdopen(descriptor, "a", encoding="utf-8", errors="backslashreplace")


def start_logging(folder: Path, *, name: str, style: LogFormat) -> None:
    """Log to stderr and to ``folder/NAME.log`` (mode 0600): fedrec from INFO on, Flower only errors.

    Args:
        folder: folder of the log file; created if missing.
        name: name of the log file without suffix.
        style: format of the entries.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    formatter = _Json() if style == "json" else _Text()
    handlers: list[logging.Handler] = [
        _Stderr(),
        _PrivateFile(folder / f"{name}.log", maxBytes=_BYTES, backupCount=_FILES),
    ]
    for handler in handlers:
        handler.setFormatter(formatter)
        handler.addFilter(_shorten)
    # Not the root logger: libraries add their own handlers to it, and every line would appear twice. Each
    # logger has its own list: a library that clears its logger's handlers would otherwise clear all of them.
    for logger, level in (("fedrec", logging.INFO), ("flwr", logging.ERROR), ("uvicorn", logging.WARNING)):
        chosen = logging.getLogger(logger)
        chosen.handlers = list(handlers)
        chosen.propagate = False
        chosen.setLevel(level)
