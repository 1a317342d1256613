"""What came of a check, in lines for a person; and the keys that a person gives."""

from __future__ import annotations

from collections.abc import Iterator

from .outcome import NAME, Outcome

COMPARE = (
    "Compare these keys with what their owners tell you by another way: the record is only as good as they."
)


LIMIT = "This shows that the record is consistent, not that a merchant ran what it wrote down."


def told(outcome: Outcome) -> Iterator[str]:
    """Everything that came of a bundle, in lines for a person; no stranger's text moves the cursor."""
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
    """Read NAME=HEX; ``ValueError`` unless it is a name and 64 hexadecimal digits."""
    name, sign, key = text.partition("=")
    if not sign or not NAME.fullmatch(name):
        raise ValueError(f"{text!r} is not NAME=KEY")
    return name, public_key(key)


def public_key(text: str) -> str:
    """Read a key; ``ValueError`` unless it is 64 hexadecimal digits."""
    if len(text) != 64 or set(text) - set("0123456789abcdef"):
        raise ValueError(f"{text!r} is not a key of 64 hexadecimal digits")
    return text
