"""Write the outcome of a check as lines of text, and parse keys given on the command line."""

from __future__ import annotations

from collections.abc import Iterator

from .outcome import Outcome, is_name

COMPARE = (
    "Compare these keys with what their owners tell you by another way: the record is only as good as they."
)


LIMIT = "This shows that the record is consistent, not that a merchant ran what it wrote down."


def text_lines(outcome: Outcome) -> Iterator[str]:
    """Yield the outcome line by line; unprintable characters of a bundle are replaced by '?'."""
    for line in _lines(outcome):
        yield "".join(letter if letter.isprintable() else "?" for letter in line)


def _lines(outcome: Outcome) -> Iterator[str]:
    for owner, key in outcome.keys.items():
        yield f"key     {key} {owner}"
    yield COMPARE
    yield from (f"ok      {line}" for line in outcome.lines)
    yield from (f"MISSING {gap}" for gap in outcome.gaps)
    yield from (f"ALARM   no guarantee: {alarm}" for alarm in outcome.alarms)
    yield from (f"ALARM   {exposure}" for exposure in outcome.exposures)
    yield from (f"FAILED  {name or 'bundle'}: {reason}" for name, reason in outcome.failures.items())
    yield LIMIT


def named_key(text: str) -> tuple[str, str]:
    """Parse a merchant's name and key.

    Args:
        text: NAME=HEX.

    Returns:
        The name and the key, 64 hexadecimal digits.

    Raises:
        ValueError: the text has another form.
    """
    name, sign, key = text.partition("=")
    if not sign or not is_name(name):
        raise ValueError(f"{text!r} is not NAME=KEY")
    return name, public_key(key)


def public_key(text: str) -> str:
    """Return a public key given as text.

    Args:
        text: 64 lower-case hexadecimal digits.

    Returns:
        The text.

    Raises:
        ValueError: the text has another form.
    """
    if len(text) != 64 or set(text) - set("0123456789abcdef"):
        raise ValueError(f"{text!r} is not a key of 64 hexadecimal digits")
    return text
