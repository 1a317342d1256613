"""Measure the memory that a forward pass keeps for its backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


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
