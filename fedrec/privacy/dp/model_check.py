"""What is said of a model before a training starts: whether it can be clipped, and how fast."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from fedrec.errors import ConfigError
from fedrec.privacy.dp.book_keeping import unknown_layers
from fedrec.privacy.dp.clipping import RecordClipper
from fedrec.privacy.dp.record_isolation import check_isolation


def check_installed_model(build: Callable[[int], nn.Module], shape: tuple[int, ...], *, classes: int) -> None:
    """Check a model that isn't the package's own: it keeps records apart, and a record of it can be clipped.

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
        raise ConfigError(f"the model can't be clipped record by record: {error}") from error


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
