"""Configure the daemons' logs: text or JSON lines, on stderr and in a rotating file."""

from __future__ import annotations

import json
import logging
import logging.handlers
import os
import sys
from contextlib import suppress
from datetime import UTC, datetime
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Literal

from fedrec._internal.text import one_line

LogFormat = Literal["text", "json"]
_BYTES, _FILES = 10 * 2**20, 5
_PRIVATE = 0o600
_LONGEST = 4000


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["error"] = self.formatException(record.exc_info)
        return json.dumps(entry)


class _Text(logging.Formatter):
    """Formats each entry as one line, whatever it contains; traceback lines follow, indented."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (the base class's name)
        record.message = one_line(record.message, most=_LONGEST)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802 (the base class's name)
        lines = super().formatException(ei).splitlines()
        return "\n".join(f"  {one_line(line, most=_LONGEST)}" for line in lines)


def _shorten(record: logging.LogRecord) -> bool:
    """Shorten long messages of Flower, which logs the whole PEM of a key that it refuses."""
    if record.name.split(".")[0] == "flwr":
        # A message that can't be formatted is left to the handler, which reports it without raising.
        with suppress(TypeError, ValueError):
            record.msg, record.args = one_line(record.getMessage()), ()
    return True


class _PrivateFile(logging.handlers.RotatingFileHandler):
    """A rotating file that only its owner can read, also after rotation."""

    def _open(self) -> TextIOWrapper:
        descriptor = os.open(
            self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, _PRIVATE
        )
        os.fchmod(descriptor, _PRIVATE)
        return os.fdopen(descriptor, "a", encoding="utf-8")


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
        logging.StreamHandler(sys.stderr),
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
