"""Check before a training that a model's gradients can be clipped per record, and how fast."""

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
    """Check that a model from outside the package doesn't mix records and can be clipped per record.

    This is for installed models and for models that a program passes as an object. One clipped gradient is
    computed as in the training, so that a layer that is used twice is found before any round is charged.

    Args:
        build: returns the model; its argument is the seed of the initial parameters.
        shape: shape of one record's input, without a dimension for views.
        classes: number of logits that the model must return per record.

    Raises:
        ConfigError: :func:`check_isolation` raised it, or the clipped gradient can't be computed.
    """
    check_isolation(build, shape, classes=classes)
    record = torch.zeros(1, 1, *shape)
    try:
        with RecordClipper(build(0), clip=1.0) as clipper:
            clipper.clipped_sum(record, torch.zeros(1, dtype=torch.int64))
    # Torch, Opacus and the model itself can raise anything.
    except Exception as error:
        raise ConfigError(f"the model can't be clipped record by record: {one_line(error)}") from error


def clipping_note(model: nn.Module) -> str | None:
    """Name in one line the layers that :mod:`book_keeping` doesn't cover; None if it covers all of them.

    The per-record gradients of a model with such layers are computed by Opacus: also exact, but slower.

    Args:
        model: the model.

    Returns:
        The line, or None.

    Raises:
        ConfigError: a layer has no per-record gradients at all.
    """
    unknown = unknown_layers(model)
    if not unknown:
        return None
    RecordClipper(model, clip=1.0).close()
    return f"exact but slow clipping, by Opacus: no fast rule for {', '.join(unknown)}"
