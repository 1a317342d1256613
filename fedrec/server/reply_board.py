"""Keep whose replies the server waits for now, since when, and how long each merchant's last reply took."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

_WORDS: Mapping[str, str] = {
    "query.join": "answers to the plan",
    "train": "uploads of round {group}",
    "query.unmask": "answers that open round {group}",
    "query.close": "answers to the end of the training",
}


def in_words(kind: str, group: str) -> str:
    """Name the replies to one kind of message.

    Args:
        kind: Flower's message type.
        group: Flower's group id: the round.

    Returns:
        The name.
    """
    return _WORDS.get(kind, kind).format(group=group)


@dataclass(frozen=True)
class Awaited:
    """Replies that something waits for.

    Attributes:
        what: what they are, in words.
        merchants: names of the merchants whose replies are missing, sorted.
        since: when they were asked, in seconds since 1970.
    """

    what: str
    merchants: tuple[str, ...]
    since: float


class ReplyBoard:
    """The replies of one training. Safe to use from several threads.

    Args:
        names: returns which merchant is at which node.
    """

    def __init__(self, names: Callable[[], Mapping[int, str]] = dict) -> None:
        self._names = names
        self._mutex = threading.Lock()
        self._seconds: dict[int, float] = {}
        self._waits: list[tuple[str, float, Callable[[], Collection[int]]]] = []

    def named(self, nodes: Collection[int]) -> list[str]:
        """Return the names of the merchants at some nodes; a node's number where nobody is known there."""
        # Looked up once for all of them: a server reads its roster for it.
        names = self._names() if nodes else {}
        return [names.get(node, f"node {node}") for node in nodes]

    def came(self, node_id: int, *, seconds: float) -> None:
        """Record that a node's reply came.

        Args:
            node_id: the node.
            seconds: since it was asked.
        """
        with self._mutex:
            self._seconds[node_id] = seconds

    @contextmanager
    def waiting(self, kind: str, group: str, missing: Callable[[], Collection[int]]) -> Iterator[None]:
        """Show, while the block runs, that replies are waited for.

        Args:
            kind: Flower's message type.
            group: Flower's group id: the round.
            missing: returns the nodes that haven't answered yet; it is called from other threads.

        Yields:
            None.
        """
        wait = (in_words(kind, group), time.time(), missing)
        with self._mutex:
            self._waits.append(wait)
        try:
            yield
        finally:
            with self._mutex:
                self._waits.remove(wait)

    def awaited(self) -> Awaited | None:
        """Return the replies that are waited for now, None if there are none."""
        with self._mutex:
            waits = list(self._waits)
        for what, since, missing in reversed(waits):
            merchants = sorted(self.named(missing()))
            if merchants:
                return Awaited(what=what, merchants=tuple(merchants), since=since)
        return None

    def seconds(self) -> dict[str, float]:
        """Return how long the last reply of each merchant took, by name."""
        with self._mutex:
            seconds = self._seconds.copy()
        return dict(zip(self.named(seconds), seconds.values(), strict=True))
