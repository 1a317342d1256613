"""The daemons' logs: text or JSON lines, on stderr and in a file that rotates."""

from __future__ import annotations

import json
import logging
import logging.handlers
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

LogFormat = Literal["text", "json"]
_BYTES, _FILES = 10 * 2**20, 5


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


def start_logging(folder: Path, *, name: str, style: LogFormat) -> None:
    """Log to stderr and to ``folder/NAME.log`` (mode 0600): fedrec from INFO on, Flower errors alone."""
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{name}.log"
    path.touch(mode=0o600, exist_ok=True)
    formatter = _Json() if style == "json" else logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    handlers: list[logging.Handler] = [
        logging.StreamHandler(sys.stderr),
        logging.handlers.RotatingFileHandler(path, maxBytes=_BYTES, backupCount=_FILES),
    ]
    # Not on the root: libraries put handlers of their own there, and every line would come twice.
    for logger, level in (("fedrec", logging.INFO), ("flwr", logging.ERROR), ("uvicorn", logging.WARNING)):
        chosen = logging.getLogger(logger)
        chosen.handlers = handlers
        chosen.propagate = False
        chosen.setLevel(level)
    for handler in handlers:
        handler.setFormatter(formatter)
