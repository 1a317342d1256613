"""Keep results of pure functions in a process that hosts many merchants, where each computes the same."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import TypeVar, cast

T = TypeVar("T")


class SharedResults:
    """Results by arguments, the newest up to a limit of bytes.

    A process that hosts one merchant has no use for it: until :meth:`share` is called, nothing is kept and
    every result is computed. Only pure functions of public values belong here: a key must hold all of the
    arguments, and no result or argument may be a secret.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._limit = 0
        self._used = 0
        self._kept: dict[Hashable, tuple[object, int]] = {}

    def share(self, limit_bytes: int) -> None:
        """Keep results from now on, up to about ``limit_bytes`` bytes; 0 drops all of them."""
        with self._lock:
            self._limit = limit_bytes
            self._make_room(0)

    def of(self, key: Hashable, compute: Callable[[], T], *, size: Callable[[T], int]) -> T:
        """Return a kept result, or compute and keep it.

        Args:
            key: name of the function and all of its arguments.
            compute: computes the result; an exception is passed on, and nothing is kept.
            size: returns the bytes that the result and its key take.

        Returns:
            The result, which must not be changed.
        """
        if not self._limit:
            return compute()
        with self._lock:
            found = self._kept.get(key)
        if found is not None:
            return cast("T", found[0])
        result = compute()
        with self._lock:
            taken = size(result)
            if key not in self._kept and taken <= self._limit:
                self._make_room(taken)
                self._kept[key] = (result, taken)
                self._used += taken
        return result

    def _make_room(self, wanted: int) -> None:
        """Drop the oldest results until ``wanted`` bytes more fit."""
        while self._kept and self._used + wanted > self._limit:
            _, taken = self._kept.pop(next(iter(self._kept)))
            self._used -= taken


SHARED = SharedResults()
"""The results that this process shares among its merchants."""
