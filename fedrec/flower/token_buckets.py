"""Limit how often something is done: a burst, and then a rate."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable

_MOST_BUCKETS = 4096


class TokenBuckets:
    """Token buckets by name, each with a burst and a rate per second; the least recently used are dropped."""

    def __init__(self, limit: tuple[float, float], *, now: Callable[[], float]) -> None:
        self._burst, self._rate = limit
        self._now = now
        self._left: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def take(self, name: Hashable) -> bool:
        """Take one token; False if none is left."""
        now = self._now()
        left, at = self._left.pop(name, (self._burst, now))
        left = min(self._burst, left + (now - at) * self._rate)
        taken = left >= 1.0
        self._left[name] = (left - taken, now)
        if len(self._left) > _MOST_BUCKETS:
            self._left.popitem(last=False)
        return taken
