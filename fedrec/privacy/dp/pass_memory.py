"""Measure the memory that a forward pass keeps for its backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from fedrec.privacy.dp.book_keeping import BookKeeper
from fedrec.privacy.dp.place_check import random_values
from fedrec.privacy.dp.vectors import parameter_count

_MEASURED: WeakKeyDictionary[nn.Module, dict[tuple[Any, ...], tuple[int, int]]] = WeakKeyDictionary()


def memory_of_a_record(
    model: nn.Module, record: Tensor, keeper: BookKeeper, *, device: torch.device
) -> tuple[int, int]:
    """Measure the memory that one record takes in a pass: once for each model and shape.

    Args:
        model: the model.
        record: (views, ...), any record; only its shape and its type matter.
        keeper: the model's book-keeper.
        device: where passes run.

    Returns:
        The approximate number of float32 values that its gradients take, and the bytes that its forward pass
        keeps for the backward pass.
    """
    known = _MEASURED.setdefault(model, {})
    key = (record.shape, record.dtype, device, parameter_count(model))
    if key not in known:
        # Not the record itself: the model may fail on its values, and it need not be one that takes part.
        own = random_values(record.shape, dtype=record.dtype).to(device)
        with kept_bytes(model) as so_far:
            values = keeper.values_per_record(own, views=len(own))
            known[key] = values, so_far()
    return known[key]


@contextmanager
def kept_bytes(model: nn.Module) -> Iterator[Callable[[], int]]:
    """Count what passes through a model keep for a backward pass, as long as their outputs are held.

    Args:
        model: the model; its parameters and buffers don't count.

    Yields:
        Returns the bytes that passes within the block have kept so far, each storage counted once.
    """
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    sizes: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        yield lambda: sum(sizes.values())
