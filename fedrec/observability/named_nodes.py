"""Put merchants' names in place of the node numbers that Flower logs."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

_NUMBER = re.compile(r"(?<![\w-])-?[0-9]{10,20}(?!\w)")


class NamedNodes(logging.Filter):
    """Replace the numbers of known nodes in a log's messages.

    Args:
        names: returns which merchant is at which node.
    """

    def __init__(self, names: Callable[[], Mapping[int, str]]) -> None:
        super().__init__()
        self._names = names

    def filter(self, record: logging.LogRecord) -> bool:
        """Reword a message that names a node by its number; let every message pass."""
        # A message that can't be formatted is left to the handler, which reports it without raising.
        with suppress(TypeError, ValueError):
            text = record.getMessage()
            if _NUMBER.search(text):
                names = self._names()
                told = _NUMBER.sub(lambda found: names.get(int(found[0]), found[0]), text)
                # Without arguments, a message isn't formatted again.
                record.msg, record.args = told, ()
        return True


@contextmanager
def named_nodes(log: logging.Logger, names: Callable[[], Mapping[int, str]]) -> Iterator[None]:
    """Name nodes in a log while the block runs.

    Args:
        log: the log.
        names: returns which merchant is at which node.

    Yields:
        None.
    """
    naming = NamedNodes(names)
    log.addFilter(naming)
    try:
        yield
    finally:
        log.removeFilter(naming)
