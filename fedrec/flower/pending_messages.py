"""Know for which merchants there are messages, and let their requests wait for one."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from typing import Final

_MOST_UNREAD: Final = 64
"""Most messages that are kept in mind of one node; what is older has expired or is lost."""
_MOST_ANSWERED: Final = 100_000
"""Most replies that are kept in mind. Those of exchanges that ended are never asked for."""


class PendingMessages:
    """The messages that wait for each node, and the requests that were answered. Safe in several threads.

    Only numbers are kept here; the messages themselves are in the SuperLink's state. A node that has left
    gets nothing until it comes again.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._unread: dict[int, deque[str]] = {}
        self._held: dict[int, tuple[asyncio.AbstractEventLoop, asyncio.Event]] = {}
        self._answered: set[str] = set()
        self._left: set[int] = set()
        self._closed = False

    def sent(self, node: int, message_id: str) -> None:
        """Note that there is a message, all of whose objects are stored.

        Args:
            node: number of the recipient.
            message_id: the message.
        """
        with self._mutex:
            self._unread.setdefault(node, deque(maxlen=_MOST_UNREAD)).append(message_id)
            self._wake(node)

    def next(self, node: int) -> str | None:
        """Return the next message for a node, and forget it; None if there is none."""
        with self._mutex:
            unread = self._unread.get(node)
            message_id = unread.popleft() if unread else None
            if not unread:
                self._unread.pop(node, None)
            return message_id

    def has_any(self, node: int) -> bool:
        """Return whether there is a message for a node."""
        with self._mutex:
            return node in self._unread

    async def hold(self, node: int, seconds: float) -> None:
        """Return once there is a message for a node, the node leaves or asks again, or the time is over.

        Args:
            node: its number.
            seconds: how long to wait at most.
        """
        place = asyncio.get_running_loop(), asyncio.Event()
        with self._mutex:
            self._wake(node)
            if self._closed or node in self._left or node in self._unread:
                return
            self._held[node] = place
        try:
            async with asyncio.timeout(seconds):
                await place[1].wait()
        except TimeoutError:
            pass
        finally:
            with self._mutex:
                if self._held.get(node) is place:
                    del self._held[node]

    def reply(self, message_id: str) -> None:
        """Note that a reply to a message is stored."""
        with self._mutex:
            if len(self._answered) >= _MOST_ANSWERED:
                self._answered.clear()
            self._answered.add(message_id)

    def answered(self, message_ids: set[str]) -> set[str]:
        """Return which of some messages were answered, and forget that."""
        with self._mutex:
            found = self._answered & message_ids
            self._answered -= found
            return found

    def leave(self, node: int) -> None:
        """Note that a node disconnects; its request ends."""
        with self._mutex:
            self._left.add(node)
            self._wake(node)

    def enter(self, node: int) -> None:
        """Note that a node has connected."""
        with self._mutex:
            self._left.discard(node)

    def has_left(self, node: int) -> bool:
        """Return whether a node has disconnected and not come again."""
        with self._mutex:
            return node in self._left

    def close(self) -> None:
        """End all requests that wait; none waits from now on."""
        with self._mutex:
            self._closed = True
            for node in list(self._held):
                self._wake(node)

    def _wake(self, node: int) -> None:
        held = self._held.pop(node, None)
        if held is not None and not held[0].is_closed():
            held[0].call_soon_threadsafe(held[1].set)
