"""Check that a model doesn't mix records: clipping bounds a record's influence only if it doesn't."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from fedrec._internal.text import counted
from fedrec.errors import ConfigError
from fedrec.privacy.dp.clipping import RecordClipper

_RECORDS = 3
_TOLERANCE = 1e-3


def check_isolation(build: Callable[[int], nn.Module], shape: tuple[int, ...], *, classes: int) -> None:
    """Check that a model's logits for a record depend on that record alone, and that it can be trained.

    The model is run on 3 random records: one that mixes only certain records isn't detected.

    Args:
        build: returns the model; its argument is the seed of the initial parameters.
        shape: shape of one record's input, without a dimension for views.
        classes: number of logits that the model must return per record.

    Raises:
        ConfigError: the model doesn't accept such an input, returns another shape, has a layer without
            per-record gradients, mixes the records of a batch, is random, or has frozen parameters or buffers
            that differ each time it is built.
    """
    model = build(0)
    if not _same(_frozen(model), _frozen(build(1))):
        raise ConfigError(
            "the model's frozen parameters or buffers differ each time it is built: load them in its factory"
        )
    with torch.random.fork_rng(devices=[]), RecordClipper(model, clip=1.0), torch.no_grad():
        torch.default_generator.manual_seed(0)
        records = torch.rand(_RECORDS, *shape) * 2 - 1
        together = _scores(model, records, classes=classes)
        alone = torch.cat([_scores(model, record[None], classes=classes) for record in records])
    if not torch.allclose(together, alone, rtol=_TOLERANCE, atol=_TOLERANCE):
        raise ConfigError(
            "the model's scores of a record depend on the others in its batch, or on chance: clipping would "
            "not bound a record's influence; use layers that don't mix records"
        )


def _scores(model: nn.Module, records: torch.Tensor, *, classes: int) -> torch.Tensor:
    try:
        scores = model(records)
    # The model's code and torch can raise anything.
    except Exception as error:
        raise ConfigError(
            f"the model can't take an input of shape {tuple(records.shape)}: {error}"
        ) from error
    if not isinstance(scores, torch.Tensor) or scores.shape != (len(records), classes):
        found = tuple(scores.shape) if isinstance(scores, torch.Tensor) else type(scores).__name__
        raise ConfigError(
            f"the model gives {found} for {counted(len(records), 'record')} of {classes} classes: "
            f"it must give ({len(records)}, {classes}) scores"
        )
    return scores


def _frozen(model: nn.Module) -> list[torch.Tensor]:
    return [*(p for p in model.parameters() if not p.requires_grad), *model.buffers()]


def _same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
