"""Format the numbers of a report for people; privacy losses are rounded up, never down.

Each function accepts any value of a report, including ``None`` and non-numbers. It returns ``MISSING`` for a
value that it can't show, so that the report of an interrupted run stays readable.
"""

from __future__ import annotations

import math
from typing import Any

MISSING = "–"
_BYTE_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: Any) -> float | None:
    """Return a number below 1e300 as a float, ``None`` for any other value (booleans included)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        converted = float(value)
    except OverflowError:
        return None
    # NaN compares false; the headroom lets a formatter scale the number without reaching infinity.
    return converted if abs(converted) < 1e300 else None


def percent(value: Any) -> str:
    """Format a fraction, such as an accuracy, as a percentage with one decimal."""
    fraction = number(value)
    return MISSING if fraction is None else f"{100 * fraction:.1f}%"


def percent_interval(value: Any) -> str:
    """Format the two ends of an interval of fractions as percentages with one decimal."""
    ends = [number(end) for end in value] if isinstance(value, (list, tuple)) else []
    if len(ends) != 2 or None in ends:
        return MISSING
    return f"{percent(ends[0])} to {percent(ends[1])}"


def ratio(value: Any) -> str:
    """Format a score in [0, 1] with three decimals."""
    score = number(value)
    return MISSING if score is None else f"{score:.3f}"


def count(value: Any) -> str:
    """Format a whole number with thousands separators."""
    amount = number(value)
    return MISSING if amount is None else f"{amount:,.0f}"


def general(value: Any) -> str:
    """Format a setting: a number to four significant digits, a boolean as yes or no, text unchanged."""
    if value is None or value == "":
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    amount = number(value)
    if amount is None:
        return MISSING if isinstance(value, (int, float)) else str(value)
    if amount == int(amount) and abs(amount) < 1e15:
        return f"{amount:,.0f}"
    return f"{amount:.4g}" if abs(amount) >= 1e-3 else power_of_ten(amount)


def epsilon(value: Any) -> str:
    """Format an epsilon, rounded up: to two decimals below 100, to none from 100."""
    amount = number(value)
    if amount is None or amount < 0:
        return MISSING
    decimals = 2 if amount < 100 else 0
    # The slack keeps 8.0 from becoming 8.01 when it was computed as 8.000000001.
    return f"{math.ceil(amount * 10**decimals * (1 - 1e-9)) / 10**decimals:,.{decimals}f}"


def epsilon_left(value: Any) -> str:
    """Format the rest of an epsilon budget, rounded down to two decimals; a negative rest as an overrun."""
    amount = number(value)
    if amount is None:
        return MISSING
    if amount < 0:
        return f"overrun by {epsilon(-amount)}"
    return f"{math.floor(amount * 100 * (1 + 1e-9)) / 100:,.2f}"


def delta(value: Any) -> str:
    """Format a delta, rounded up to two significant digits, as a power of ten."""
    amount = number(value)
    if amount is None or amount < 0:
        return MISSING
    if amount == 0:
        return "0"
    exponent = math.floor(math.log10(amount))
    unit = 10.0 ** max(exponent - 1, -307)
    return power_of_ten(math.ceil(amount / unit * (1 - 1e-9)) * unit)


def power_of_ten(amount: float) -> str:
    """Format a number as a mantissa of two digits and a power of ten."""
    mantissa, exponent = f"{amount:.1e}".split("e")
    return f"{mantissa} × 10{str(int(exponent)).translate(_SUPERSCRIPTS)}"


def factor(exponent: float) -> str:
    """Format exp(epsilon), rounded up, with a precision that suits its size."""
    if exponent < math.log(10):
        return f"{math.ceil(math.exp(exponent) * 100) / 100:.2f}"
    if exponent < math.log(1e6):
        return f"{math.ceil(math.exp(exponent)):,}"
    return f"10{str(math.ceil(exponent / math.log(10))).translate(_SUPERSCRIPTS)}"


def size(value: Any) -> str:
    """Format a number of bytes in decimal units."""
    amount = number(value)
    if amount is None:
        return MISSING
    units = iter(_BYTE_UNITS)
    unit = next(units)
    while abs(amount) >= 999.5 and (larger := next(units, None)) is not None:
        amount, unit = amount / 1000, larger
    return f"{amount:,.0f} {unit}" if unit == "B" or amount >= 100 else f"{amount:.1f} {unit}"


def duration(value: Any) -> str:
    """Format a duration in seconds as seconds, minutes or hours."""
    seconds = number(value)
    if seconds is None:
        return MISSING
    if seconds < 99.5:
        return f"{seconds:.2g} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60:,} h {minutes % 60:02d} min"


def nice_ticks(top: float, *, about: int = 5) -> tuple[float, ...]:
    """Choose round, evenly spaced axis ticks from 0 to the first tick at or above ``top``.

    Args:
        top: the largest value to show, above 0.
        about: the wanted number of intervals.

    Returns:
        The ticks in ascending order, starting with 0.
    """
    rough = top / about
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= rough * (1 - 1e-9))
    return tuple(step * i for i in range(math.ceil(top / step - 1e-9) + 1))
