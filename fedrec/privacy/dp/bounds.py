"""Bound the floating-point error of a clipped sum, for the sizes for which :mod:`clipping` proves it."""

from __future__ import annotations

FLOAT_SLACK = 2.0**-16
"""Largest relative excess of a record's contribution over C by floating point; part of the sensitivity."""
MAX_RECORDS = 1 << 17
"""Most records in one clipped sum; ``FLOAT_SLACK`` is proved up to this number."""
MAX_PARAMETERS = 1 << 27
"""Most trainable parameters of a model; ``FLOAT_SLACK`` is proved up to this number."""
