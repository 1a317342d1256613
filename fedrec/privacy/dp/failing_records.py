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
from collections.abc import Callable, Iterator
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
        # Every exception is caught: a model's code and torch can raise anything.
        except Exception as error:
            own = torch.nonzero(batch.weights).flatten()
            if len(own) < 2:
                self.add(error)
                return
        else:
            yield batch, found
            return
        for part in own.tensor_split(2):
            # Padded anew: the copies that fill a batch may be of a record that fails.
            half = PaddedBatch.padded(batch.inputs[part], batch.labels[part], len(batch.weights))
            yield from self.passes(half, run)
