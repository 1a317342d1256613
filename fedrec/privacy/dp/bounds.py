"""How far floating point may carry a clipped sum, and the sizes up to which :mod:`clipping` proves it."""

from __future__ import annotations

FLOAT_SLACK = 2.0**-16
"""Relative excess of a record's contribution over C by floating point; counted in the sensitivity."""
MAX_RECORDS = 1 << 17
"""Most records in one clipped sum; the slack is proved up to here."""
MAX_PARAMETERS = 1 << 27
"""Most trainable parameters; the slack is proved up to here."""
