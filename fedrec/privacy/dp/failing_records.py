"""Leave out the records on which a pass through a model fails, and no others.

If a step were given up because of one record, that record's presence would change the sum by all others.
A record on which a pass fails contributes zero instead, as one does whose gradient isn't finite. Whether it
fails is decided by passes of the usual shape that hold copies of that record alone, so that no other record
is affected. A failure that any input causes, such as a model for another shape, isn't one of a record: the
caller finds it with random records before it runs the first pass.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

import torch

from fedrec.privacy.dp.padded_batch import PaddedBatch

_log = logging.getLogger(__name__)
_MOST_FRAMES: Final = 12

Found = TypeVar("Found")


def place_of(error: BaseException) -> str:
    """Return an exception's type and where it was raised: its text may name a photo, and isn't for a log."""
    frames = traceback.extract_tb(error.__traceback__)[-_MOST_FRAMES:]
    where = " < ".join(f"{frame.filename}:{frame.lineno} {frame.name}" for frame in reversed(frames))
    return f"{type(error).__name__} at {where}"


def in_halves(
    places: Sequence[int], run: Callable[[Sequence[int]], Found], *, failed: Callable[[Exception], object]
) -> Iterator[tuple[Sequence[int], Found]]:
    """Run on several records together; if that fails, on halves of them, down to single ones.

    Args:
        places: positions of the records.
        run: runs on the records at some of them.
        failed: called with the error for each record on which a run of its own failed.

    Yields:
        Positions that hold each record once, but for those that fail alone, and what the runs returned.
    """
    try:
        found = run(places)
    # Every exception is caught: a model's code and torch can raise anything.
    except Exception as error:
        if len(places) < 2:
            failed(error)
            return
    else:
        yield places, found
        return
    # After the error is gone: it holds what the run needed of memory.
    middle = (len(places) + 1) // 2
    for half in (places[:middle], places[middle:]):
        yield from in_halves(half, run, failed=failed)


@dataclass
class FailingRecords:
    """Counts the records of one sum on which passes failed.

    Attributes:
        count: number of records.
        first: the first failure, for the log.
    """

    count: int = 0
    first: str = field(default="", repr=False)

    def add(self, error: Exception) -> None:
        """Count a record on which a pass of its own failed."""
        self.count += 1
        self.first = self.first or place_of(error)
        _log.debug("details: %s", error)

    def log(self) -> None:
        """Log, once for a sum, how many records failed."""
        if self.count:
            _log.error("%d of the records fail in the model and count as zero: %s", self.count, self.first)

    def passes(
        self, batch: PaddedBatch, run: Callable[[PaddedBatch], Found]
    ) -> Iterator[tuple[PaddedBatch, Found]]:
        """Run a pass; if it fails, run passes of the same shape on halves of its records.

        Args:
            batch: the records.
            run: runs one pass.

        Yields:
            Batches that hold each record once, but for those that fail alone, and what their passes returned.
        """
        try:
            found = run(batch)
        # As in in_halves, which needs the records' positions, for which each pass would wait on the device.
        except Exception:
            own: list[int] = torch.nonzero(batch.weights).flatten().tolist()
        else:
            yield batch, found
            return

        def run_some(places: Sequence[int]) -> tuple[PaddedBatch, Found]:
            # Padded anew: the copies that fill a batch may be of a record that fails.
            some = PaddedBatch.padded(batch.inputs[places], batch.labels[places], len(batch.weights))
            return some, run(some)

        for _, passed in in_halves(own, run_some, failed=self.add):
            yield passed
