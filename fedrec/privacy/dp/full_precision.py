"""Compute a pass in the digits that the clipped sum's bound on rounding counts on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextlib.contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """Compute in float32 within a block, by kernels that give the same each time.

    TF32, bfloat16 products, autocast and cuDNN's benchmarking are off. On a GPU, attention takes the plain
    kernel: the others add up gradients in an order that changes from run to run.

    Args:
        device: where the block computes.

    Yields:
        Nothing.
    """
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    # Since torch 2.9, convolutions on a CPU have their own setting; before, float32 is their only precision.
    convolutions = getattr(torch.backends.mkldnn, "conv", None)
    before = None if convolutions is None else convolutions.fp32_precision
    if convolutions is not None:
        convolutions.fp32_precision = "ieee"
    kernels = torch.backends.cudnn.flags(
        enabled=torch.backends.cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=False
    )
    attention = contextlib.nullcontext() if device.type == "cpu" else sdpa_kernel(SDPBackend.MATH)
    try:
        with kernels, attention, torch.autocast(device.type, enabled=False), torch.enable_grad():
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
        if convolutions is not None:
            convolutions.fp32_precision = before
