"""A log without repeats: a matter is said once, again when it changes, and in the end how often it was so."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from dataclasses import dataclass

from fedrec._internal.text import counted

MOST_MATTERS = 256


@dataclass
class _Said:
    """What was said of a matter last, and how often it came."""

    text: str
    level: int
    times: int = 1


class Repeats:
    """Logs what is said of a matter unless it is what was said of it last. Safe to use from several threads.

    Args:
        log: where lines go.
        most: so many matters are remembered; of more, the one that was quiet longest is ended.

    """

    def __init__(self, log: logging.Logger, *, most: int = MOST_MATTERS) -> None:
        self._log, self._most = log, most
        self._mutex = threading.Lock()
        self._said: OrderedDict[str, _Said] = OrderedDict()

    def say(self, matter: str, text: str, *, level: int = logging.WARNING) -> None:
        """Log a text, or only count it if it repeats the last one on the same matter.

        Args:
            matter: key that tells apart what is logged about.
            text: the line to log.
            level: a level of :mod:`logging`.

        """
        with self._mutex:
            last = self._said.get(matter)
            if last is not None and last.text == text:
                last.times += 1
                self._said.move_to_end(matter)
                return
            self._end(matter)
            self._log.log(level, "%s", text)
            self._said[matter] = _Said(text, level)
            if len(self._said) > self._most:
                self._end(next(iter(self._said)))

    def end(self, matter: str | None = None) -> None:
        """Log how often a matter, or each of them, was as last said, and forget it."""
        with self._mutex:
            for name in list(self._said) if matter is None else [matter]:
                self._end(name)

    def _end(self, matter: str) -> None:
        last = self._said.pop(matter, None)
        if last is not None and last.times > 1:
            self._log.log(last.level, "%s (%s in all)", last.text, counted(last.times, "time"))
