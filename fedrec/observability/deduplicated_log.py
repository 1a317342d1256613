"""Log a message that repeats only once, again when it changes, and in the end how often it came."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from dataclasses import dataclass

from fedrec._internal.text import counted

MOST_TOPICS = 256


@dataclass
class _Last:
    """The last message on a topic, and how often it came."""

    text: str
    level: int
    times: int = 1


class DeduplicatedLog:
    """Write to a log, but not the same message on a topic twice in a row. Safe to use from several threads.

    Args:
        log: the log.
        most: the number of topics that are remembered; beyond it, the one that was quiet longest is ended.
    """

    def __init__(self, log: logging.Logger, *, most: int = MOST_TOPICS) -> None:
        self._log, self._most = log, most
        self._mutex = threading.Lock()
        self._topics: OrderedDict[str, _Last] = OrderedDict()

    def write(self, topic: str, text: str, *, level: int = logging.WARNING) -> None:
        """Log a message, or only count it if it is the last one on its topic again.

        Args:
            topic: what the message is about; messages are compared within a topic.
            text: the message.
            level: a level of :mod:`logging`.
        """
        with self._mutex:
            last = self._topics.get(topic)
            if last is not None and last.text == text:
                last.times += 1
                self._topics.move_to_end(topic)
                return
            self._end(topic)
            self._log.log(level, "%s", text)
            self._topics[topic] = _Last(text, level)
            if len(self._topics) > self._most:
                self._end(next(iter(self._topics)))

    def end(self, topic: str | None = None) -> None:
        """Log how often the last message came, of one topic or of all, and forget it."""
        with self._mutex:
            for name in list(self._topics) if topic is None else [topic]:
                self._end(name)

    def _end(self, topic: str) -> None:
        last = self._topics.pop(topic, None)
        if last is not None and last.times > 1:
            self._log.log(last.level, "%s (%s in all)", last.text, counted(last.times, "time"))
