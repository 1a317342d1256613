"""Keep loggers' notes and warnings back for a while."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


@contextmanager
def errors_only(names: Sequence[str]) -> Iterator[None]:
    """Let loggers write errors alone while the context lasts; loggers below them that have no level follow.

    Args:
        names: the loggers' names.
    """
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
