"""Connections to the public port: how many a stranger may hold, and for how long.

Before a connection has shown an admitted key it costs a file descriptor and the buffers of its encryption,
some 400 KiB. Whoever opens many shuts its own oldest ones; the merchants, whose connections have shown a key,
keep theirs.
"""

from __future__ import annotations

import socket
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

MAX_STRANGERS = 512
"""Connections that have shown no admitted key: of everybody, and of one address."""
MAX_STRANGERS_PER_ADDRESS = 64
MAX_CONNECTIONS_PER_KEY = 32
STRANGER_SECONDS = 10.0
"""How long a connection may take to its first request that shows an admitted key: handshake and headers."""
QUIET_SECONDS = 60.0
"""How long one that has shown a key may be without a request, or drip the next one's headers."""
PER_ADDRESS = (256.0, 50.0)
"""New connections: so many at once, and so many a second after that. Beyond it they are shut unread."""
PER_KEY = (64.0, 4.0)
_MOST_BUCKETS = 4096

Client = tuple[str, int]


class Buckets:
    """Token buckets by name: ``burst`` at once, ``rate`` a second; those used longest ago are forgotten."""

    def __init__(self, limit: tuple[float, float], *, now: Callable[[], float]) -> None:
        self._burst, self._rate = limit
        self._now = now
        self._left: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def take(self, name: Hashable) -> bool:
        """Take one; False where none is left."""
        now = self._now()
        left, at = self._left.pop(name, (self._burst, now))
        left = min(self._burst, left + (now - at) * self._rate)
        taken = left >= 1.0
        self._left[name] = (left - taken, now)
        if len(self._left) > _MOST_BUCKETS:
            self._left.popitem(last=False)
        return taken


@dataclass
class _Connection:
    """One connection; ``quiet`` is since when it has had no request that showed a key."""

    socket: socket.socket
    address: str
    quiet: float
    key: bytes | None = None
    busy: int = 0


@dataclass
class Door:
    """Counts connections and shuts those that pass a limit; for the thread of one event loop."""

    now: Callable[[], float] = time.monotonic
    _open: dict[Client, _Connection] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._addresses = Buckets(PER_ADDRESS, now=self.now)
        self._keys = Buckets(PER_KEY, now=self.now)

    def arrive(self, connection: socket.socket, client: Client) -> bool:
        """Take in a new connection; False where it was shut at once."""
        address = client[0]
        if not self._addresses.take(address):
            connection.close()
            return False
        self._make_room(address)
        self._open[client] = _Connection(connection, address, quiet=self.now())
        return True

    def recognise(self, client: Client, key: bytes) -> bool:
        """Note that a connection has shown an admitted key; False where that key opens too many."""
        found = self._open.get(client)
        if found is None or found.key == key:
            return True
        if not self._keys.take(key):
            return False
        found.key = key
        own = [one for one in self._open.values() if one.key == key and self._is_open(one)]
        if len(own) > MAX_CONNECTIONS_PER_KEY:
            self._shut(
                min((one for one in own if one is not found), key=lambda one: (one.busy > 0, one.quiet))
            )
        return True

    def begin(self, client: Client) -> None:
        """Note that a request of a merchant is being answered."""
        if client in self._open:
            self._open[client].busy += 1

    def end(self, client: Client) -> None:
        """Note that it has been answered."""
        if client in self._open:
            self._open[client].busy -= 1
            self._open[client].quiet = self.now()

    def sweep(self) -> None:
        """Shut what has been quiet for too long, and forget what is closed; for every second or so."""
        now = self.now()
        for client, one in list(self._open.items()):
            if not self._is_open(one):
                del self._open[client]
            elif not one.busy and now - one.quiet > (STRANGER_SECONDS if one.key is None else QUIET_SECONDS):
                self._shut(one)

    def _make_room(self, address: str) -> None:
        """Shut the oldest stranger of this address where it has too many, or of the one that has most."""
        strangers = [one for one in self._open.values() if one.key is None and self._is_open(one)]
        counted = Counter(one.address for one in strangers)
        if len(strangers) >= MAX_STRANGERS:
            address = counted.most_common(1)[0][0]
        elif counted[address] < MAX_STRANGERS_PER_ADDRESS:
            return
        self._shut(min((one for one in strangers if one.address == address), key=lambda one: one.quiet))

    @staticmethod
    def _is_open(one: _Connection) -> bool:
        return one.socket.fileno() != -1

    @staticmethod
    def _shut(one: _Connection) -> None:
        """End a connection under its owner, who sees that its peer has gone, and closes it."""
        one.key = one.key or b""
        with suppress(OSError):
            one.socket.shutdown(socket.SHUT_RDWR)


class GuardedSocket(socket.socket):
    """A listening socket behind which connections are counted as they come."""

    door: Door | None = None

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept as a socket does; one that is shut at once is taken for aborted, as event loops know it."""
        connection, address = super().accept()
        if self.door is not None and not self.door.arrive(connection, (str(address[0]), int(address[1]))):
            raise ConnectionAbortedError
        return connection, address


def listen(host: str, port: int, door: Door | None) -> socket.socket:
    """Bind a socket; raises ``OSError`` where the address can't be had."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    made = GuardedSocket(family, kind, protocol)
    made.door = door
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
    except OSError:
        made.close()
        raise
    return made
