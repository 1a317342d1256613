"""A matrix on disk instead of in memory: a file without a name, which ends with it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedrec.errors import OperatingSystemError
from fedrec.vision.feature_cache import check_room


def mapped_matrix(
    rows: Iterable[NDArray[np.float16]], *, shape: tuple[int, ...], folder: Path | None
) -> NDArray[np.float16]:
    """Write rows to a file that nobody else can open, and map it into memory.

    Args:
        rows: float16, as many and as long as ``shape`` says.
        shape: of the matrix.
        folder: where the file takes room; None, or a folder that doesn't exist, for the system's.

    Returns:
        The matrix; what is written to it stays in memory.

    Raises:
        OperatingSystemError: there is no room for it.
    """
    where = folder if folder is not None and folder.is_dir() else None
    size = 2 * int(np.prod(shape))
    if not size:
        return np.empty(shape, dtype=np.float16)
    try:
        check_room(where or Path(tempfile.gettempdir()), size)
        with tempfile.TemporaryFile(dir=where) as file:
            for row in rows:
                file.write(np.ascontiguousarray(row).data.cast("B"))
            file.flush()
            return np.memmap(file, np.float16, mode="c", shape=shape)
    except OSError as error:
        raise OperatingSystemError(
            f"{size / 2**30:.2f} GiB can't be kept in {where or tempfile.gettempdir()} for the training: "
            f"{error.strerror}; make room there"
        ) from None
