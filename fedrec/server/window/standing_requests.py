"""Ask merchants that come and go: each while it is connected, and again after pauses until its reply counts.

A request may be lost with a daemon that is stopped, and Flower doesn't tell. So a merchant without a reply is
asked again after a while, whatever became of the request before: it answers an identical request with the
stored reply, and pays once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Generic

from flwr.app import RecordDict
from flwr.serverapp import Grid

from fedrec.server.message_exchange import Answer, Exchange, ExchangeSettings, Reply
from fedrec.server.pauses import Pauses

_FIRST_PAUSE = 30.0


@dataclass(frozen=True)
class _Sent(Generic[Reply]):
    """Requests that were sent together, when they are given up, and to which merchants, by node."""

    exchange: Exchange[Reply]
    until: float
    names: Mapping[int, str]


class StandingRequests(Generic[Reply]):
    """Requests of one kind, each to be answered once.

    Args:
        grid: the Flower Grid.
        settings: what the requests have in common. A request without a reply is given up after the timeout.

    Attributes:
        bytes_down: bytes of all requests.
    """

    def __init__(self, grid: Grid, settings: ExchangeSettings[Reply]) -> None:
        self._grid, self._settings = grid, settings
        self._pauses: Pauses[str] = Pauses(first=_FIRST_PAUSE)
        self._sent: list[_Sent[Reply]] = []
        self.bytes_down = 0

    def due(self, connected: Collection[str]) -> list[str]:
        """Return which connected merchants may be asked now; one that has been away isn't kept waiting."""
        self._pauses.keep(connected)
        return [name for name in sorted(connected) if self._pauses.is_due(name)]

    def send(
        self,
        requests: Mapping[int, RecordDict],
        *,
        names: Mapping[int, str],
        seconds: float | None = None,
    ) -> None:
        """Send requests; their replies come by :meth:`pull`.

        Args:
            requests: the requests by node.
            names: the merchant at each of these nodes.
            seconds: after which they are given up, and not delivered any more, if that is before the timeout.
        """
        for name in names.values():
            self._pauses.asked(name)
        timeout = min(self._settings.timeout, math.inf if seconds is None else seconds)
        exchange = Exchange(self._grid, requests, replace(self._settings, timeout=timeout))
        self.bytes_down += exchange.bytes_down
        self._sent.append(_Sent(exchange, time.monotonic() + timeout, dict(names)))

    def under_way(self) -> set[str]:
        """Return the merchants with a request that isn't answered."""
        return {sent.names[node] for sent in self._sent for node in sent.exchange.waiting}

    def pull(self) -> Iterator[tuple[str, Answer[Reply]]]:
        """Yield the well-formed replies that have come, each with the merchant that was asked.

        Where a merchant was asked again, its reply may come twice.
        """
        for sent in self._sent:
            for answer in sent.exchange.pull(forget=True):
                if answer is not None:
                    yield sent.names[answer.node_id], answer
        now = time.monotonic()
        self._sent = [sent for sent in self._sent if sent.exchange.waiting and sent.until > now]
