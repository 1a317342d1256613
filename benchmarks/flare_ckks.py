"""CKKS as NVIDIA FLARE's defaults set it, to compare with: 8192, [60, 40, 40], scale 2**40."""

from __future__ import annotations

from typing import Any

import numpy as np
import tenseal
from numpy.typing import NDArray

VALUE_BITS = 16


def flare_context() -> Any:
    """Make the parameters and keys, one for all clients."""
    context = tenseal.context(
        tenseal.SCHEME_TYPE.CKKS, poly_modulus_degree=8192, coeff_mod_bit_sizes=[60, 40, 40]
    )
    context.global_scale = 2**40
    return context


def flare_encrypt(context: Any, values: NDArray[np.int64]) -> bytes:
    """Encrypt integers of 16 bits as fractions, and encode the ciphertext."""
    blob: bytes = tenseal.ckks_vector(context, values / 2.0**VALUE_BITS).serialize()
    return blob
