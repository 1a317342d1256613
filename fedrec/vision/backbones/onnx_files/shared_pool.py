"""The memory that all bounded sessions of a process share, and the order in which they use it.

One network must not be able to keep the others from it. A run that finds too little memory is therefore run
again while no other one is: what it lacks then, it lacks by itself. The pool may also be in pieces, none of
which is large enough, as an earlier run of another network has left them. They are given back at the end of a
run that is alone, and it is tried once more.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedrec._internal.text import one_line
from fedrec.errors import ConfigError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Kept = TypeVar("Kept")

MOST_MEMORY: Final = 2 << 30
"""Bytes that all bounded sessions of a process may hold at the same time beside their weights."""
_AS_MUCH_AS_ASKED: Final = 1
"""onnxruntime's number of the way to grow in which whatever is unused can be given back."""
_NO_MEMORY: Final = "Available memory of"
"""Part of onnxruntime's message where its pool of memory is used up."""


class TooLittleMemoryError(ConfigError):
    """A run needs more than the whole pool."""


class Turns:
    """Lets any number of runs go on together, or one alone; those that begin later wait for that one."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._together, self._alone, self._waiting = 0, False, 0

    @contextmanager
    def together(self) -> Iterator[None]:
        """Run beside others."""
        with self._changed:
            self._changed.wait_for(lambda: not self._alone and not self._waiting)
            self._together += 1
        try:
            yield
        finally:
            with self._changed:
                self._together -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Run beside no other."""
        with self._changed:
            self._waiting += 1
            try:
                self._changed.wait_for(lambda: not self._alone and not self._together)
            finally:
                self._waiting -= 1
                self._changed.notify_all()
            self._alone = True
        try:
            yield
        finally:
            with self._changed:
                self._alone = False
                self._changed.notify_all()


_TURNS: Final = Turns()


@lru_cache(maxsize=1)
def make_pool() -> None:
    """Make the pool, once; a session uses it if its options say so."""
    import onnxruntime

    main_memory = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    settings = {"max_mem": MOST_MEMORY, "arena_extend_strategy": _AS_MUCH_AS_ASKED}
    onnxruntime.create_and_register_allocator(main_memory, onnxruntime.OrtArenaCfg(settings))


def run_in_pool(
    session: InferenceSession,
    outputs: Sequence[str],
    inputs: Mapping[str, NDArray[np.uint8]],
    *,
    keep: Callable[[list[NDArray[Any]]], Kept],
) -> Kept:
    """Compute outputs of a bounded session.

    Args:
        session: the session.
        outputs: names of the outputs.
        inputs: arrays by the inputs' names.
        keep: takes the outputs, and returns what is kept of them. They lie in the pool, so that what is too
            large has to be refused here.

    Returns:
        What ``keep`` returned.

    Raises:
        ConfigError: onnxruntime can't run it.
        TooLittleMemoryError: the run needs more than the pool, also alone.
    """
    import onnxruntime

    def run(options: Any) -> Kept:
        try:
            found = session.run(list(outputs), dict(inputs), options)
        # onnxruntime raises different errors for different faults, all of them of its own.
        except Exception as error:
            if _NO_MEMORY in str(error):
                raise TooLittleMemoryError from None
            raise ConfigError(one_line(error)) from None
        return keep([np.asarray(each) for each in found])

    try:
        with _TURNS.together():
            return run(None)
    except TooLittleMemoryError:
        pass
    giving_back = onnxruntime.RunOptions()
    giving_back.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    with _TURNS.alone():
        try:
            return run(giving_back)
        except TooLittleMemoryError:
            return run(giving_back)
