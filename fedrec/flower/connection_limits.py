"""Limit the connections to the public port: how many an unauthenticated client may hold, and for how long.

Each connection costs a file descriptor and TLS buffers, about 400 KiB, even before it has presented an
admitted key. A client that opens too many loses its own oldest ones. Connections of merchants, which have
presented a key, are not affected.
"""

from __future__ import annotations

import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from fedrec.flower.token_buckets import TokenBuckets

MAX_STRANGERS = 512
"""Most connections that have presented no admitted key."""
MAX_STRANGERS_PER_ADDRESS = 64
"""Most of these from one address."""
MAX_CONNECTIONS_PER_KEY = 32
STRANGER_SECONDS = 10.0
"""Time limit from a connection to the headers of its first request with an admitted key."""
QUIET_SECONDS = 75.0
"""Time limit for an authenticated connection without a request, or with incomplete headers of the next."""
PER_ADDRESS = (256.0, 50.0)
"""New connections from one address: burst, and rate per second. More are closed unread."""
PER_KEY = (64.0, 4.0)
"""New connections with one key: burst, and rate per second."""
_TCP_INFO = getattr(socket, "TCP_INFO", None) if sys.platform == "linux" else None
_ROUND_TRIP_AT = 68
"""Offset in Linux's ``struct tcp_info`` of the smoothed round trip, in microseconds."""

Client = tuple[str, int]


@dataclass
class _Connection:
    """One connection; ``quiet`` is the time since when it has had no authenticated request."""

    socket: socket.socket
    address: str
    quiet: float
    key: bytes | None = None
    busy: int = 0


@dataclass
class ConnectionLimits:
    """Count connections and close those that exceed a limit; for the thread of one event loop."""

    now: Callable[[], float] = time.monotonic
    _open: dict[Client, _Connection] = field(default_factory=dict)
    _of_key: dict[bytes, list[_Connection]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._addresses = TokenBuckets(PER_ADDRESS, now=self.now)
        self._keys = TokenBuckets(PER_KEY, now=self.now)

    def arrive(self, connection: socket.socket, client: Client) -> bool:
        """Register a new connection.

        Args:
            connection: the socket.
            client: address and port of its peer.

        Returns:
            False if the connection was closed at once, because its address opens too many.
        """
        address = client[0]
        if not self._addresses.take(address):
            connection.close()
            return False
        self._make_room(address)
        self._open[client] = _Connection(connection, address, quiet=self.now())
        return True

    def recognise(self, client: Client, key: bytes) -> bool:
        """Record that a connection has presented an admitted key.

        Args:
            client: address and port of its peer.
            key: the key.

        Returns:
            False if that key opens connections too fast.
        """
        found = self._open.get(client)
        if found is None or found.key == key:
            return True
        if not self._keys.take(key):
            return False
        found.key = key
        own = [one for one in self._of_key.get(key, ()) if self._is_open(one)] + [found]
        self._of_key[key] = own
        if len(own) > MAX_CONNECTIONS_PER_KEY:
            self._shut(
                min((one for one in own if one is not found), key=lambda one: (one.busy > 0, one.quiet))
            )
        return True

    def is_alone(self, client: Client) -> bool:
        """Return whether the key that a connection has presented has no other open connection.

        Args:
            client: address and port of its peer.
        """
        found = self._open.get(client)
        if found is None or found.key is None:
            return False
        return not any(one is not found and self._is_open(one) for one in self._of_key.get(found.key, ()))

    def begin(self, client: Client) -> None:
        """Record the start of a merchant's request."""
        if client in self._open:
            self._open[client].busy += 1

    def end(self, client: Client) -> None:
        """Record the end of a merchant's request."""
        if client in self._open:
            self._open[client].busy -= 1
            self._open[client].quiet = self.now()

    def round_trip(self, client: Client) -> float | None:
        """Return how long a packet to a client and back takes, as the system's TCP measures it.

        Args:
            client: address and port of its peer.

        Returns:
            Seconds; None where the system doesn't tell, or the connection isn't known.
        """
        found = self._open.get(client)
        if found is None or _TCP_INFO is None:
            return None
        try:
            told = found.socket.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _ROUND_TRIP_AT + 4)
            return float(struct.unpack_from("=I", told, _ROUND_TRIP_AT)[0]) / 1e6
        except (OSError, struct.error):
            return None

    def sweep(self) -> None:
        """Close connections that are idle for too long, drop closed ones; call it about once a second."""
        now = self.now()
        for client, one in list(self._open.items()):
            if not self._is_open(one):
                del self._open[client]
                self._forget(one)
            elif not one.busy and now - one.quiet > (STRANGER_SECONDS if one.key is None else QUIET_SECONDS):
                self._shut(one)

    def _make_room(self, address: str) -> None:
        """If too many are unauthenticated, close the oldest of this address, or of the one with most."""
        strangers = [one for one in self._open.values() if one.key is None and self._is_open(one)]
        counted = Counter(one.address for one in strangers)
        if len(strangers) >= MAX_STRANGERS:
            address = counted.most_common(1)[0][0]
        elif counted[address] < MAX_STRANGERS_PER_ADDRESS:
            return
        self._shut(min((one for one in strangers if one.address == address), key=lambda one: one.quiet))

    def _forget(self, one: _Connection) -> None:
        """Remove a closed connection from those of its key."""
        left = [other for other in self._of_key.get(one.key or b"", ()) if other is not one]
        if left:
            self._of_key[one.key or b""] = left
        else:
            self._of_key.pop(one.key or b"", None)

    @staticmethod
    def _is_open(one: _Connection) -> bool:
        return one.socket.fileno() != -1

    @staticmethod
    def _shut(one: _Connection) -> None:
        """Shut a connection down; its owner then sees that the peer is gone and closes it."""
        one.key = one.key or b""
        with suppress(OSError):
            one.socket.shutdown(socket.SHUT_RDWR)


class GuardedSocket(socket.socket):
    """A listening socket that registers each new connection with a :class:`ConnectionLimits`."""

    connections: ConnectionLimits | None = None

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept a connection; one that is closed at once counts as aborted, which event loops can handle."""
        connection, address = super().accept()
        if self.connections is not None and not self.connections.arrive(
            connection, (str(address[0]), int(address[1]))
        ):
            raise ConnectionAbortedError
        return connection, address


def listen(host: str, port: int, connections: ConnectionLimits | None) -> socket.socket:
    """Bind a TCP socket.

    Args:
        host: address or name.
        port: port; 0 for any free one.
        connections: counts the connections, None for no limits.

    Returns:
        The bound socket.

    Raises:
        OSError: the address can't be bound.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    made = GuardedSocket(family, kind, protocol)
    made.connections = connections
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
    except OSError:
        made.close()
        raise
    return made
