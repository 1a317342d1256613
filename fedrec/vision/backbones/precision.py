"""The number format in which frozen networks compute features."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import torch

_NATIVE_BFLOAT16: Final = ("amx_bf16", "avx512_bf16")


def extraction_dtype() -> torch.dtype:
    """Return bfloat16 where the processor multiplies it natively, otherwise float32.

    x86 processors do with AVX512-BF16 or AMX-BF16: there a network takes half of float32's time or less. The
    cosine between its features and float32's is 0.999 or more on photos. Without these instructions bfloat16
    is emulated, many times slower than float32. They are found by ``torch.cpu.get_capabilities``; a torch
    without it means float32. The cache keeps features of the two formats apart. A head's gradients and their
    clipping are float32 either way.
    """
    capabilities: Callable[[], Mapping[str, Any]] | None = getattr(torch.cpu, "get_capabilities", None)
    if capabilities is None:
        return torch.float32
    found = capabilities()
    return torch.bfloat16 if any(found.get(name, False) for name in _NATIVE_BFLOAT16) else torch.float32
