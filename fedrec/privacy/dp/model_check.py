"""What is said of a model before a training starts: whether it can be clipped, and how fast."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from fedrec._internal.text import one_line
from fedrec.errors import ConfigError
from fedrec.privacy.dp.book_keeping import unknown_layers
from fedrec.privacy.dp.clipping import RecordClipper
from fedrec.privacy.dp.record_isolation import check_isolation


def check_foreign_model(build: Callable[[int], nn.Module], shape: tuple[int, ...], *, classes: int) -> None:
    """Check that a model from outside the package keeps records apart and can be clipped record by record.

    An installed model is checked, and one that a program gives as an object. The check runs one pass for a
    record's gradient, as the training will, so that a layer used twice is found before any round is charged.

    Args:
        build: makes the model, its initial weights by a seed.
        shape: of one record's input.
        classes: how many scores it must give.

    Raises:
        ConfigError: as :func:`check_isolation` does, or a pass for a record's gradient fails.

    """
    check_isolation(build, shape, classes=classes)
    record = torch.zeros(1, 1, *shape)
    try:
        with RecordClipper(build(0), clip=1.0) as clipper:
            clipper.clipped_sum(record, torch.zeros(1, dtype=torch.int64))
    # Whatever torch, Opacus or the model itself raises in a pass.
    except Exception as error:
        raise ConfigError(f"the model can't be clipped record by record: {one_line(error)}") from error


def clipping_note(model: nn.Module) -> str | None:
    """Say in one line which layers the fast clipping doesn't know; None where it knows all of them.

    Those have their per-record gradients from Opacus, which is exact, too, and slower.

    Raises:
        ConfigError: there is a layer that has no per-record gradients at all.

    """
    unknown = unknown_layers(model)
    if not unknown:
        return None
    RecordClipper(model, clip=1.0).close()
    return f"exact but slow clipping, by Opacus: no fast rule for {', '.join(unknown)}"
