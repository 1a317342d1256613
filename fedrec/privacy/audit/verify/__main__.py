"""Run the check as a program: ``python -m verify audit.json``."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

from .check import verify
from .outcome import Anchors, UnusableError
from .text_output import named_key, public_key, text_lines

HOLDS, FAILS, UNUSABLE, INCOMPLETE = 0, 1, 2, 3


def main(arguments: Sequence[str]) -> int:
    """Check a bundle and print the outcome.

    Args:
        arguments: the command line without the program's name.

    Returns:
        The exit code: 0 if the record holds, 1 if it doesn't, 2 if the file is no bundle, 3 if the record
        holds but parts are missing.
    """
    parser = argparse.ArgumentParser(prog="verify", description="Check an audit bundle.")
    parser.add_argument("bundle", type=Path, help="an audit.json")
    parser.add_argument("--server-key", type=public_key, action="append", default=[], metavar="HEX",
                        help="a server's key that you obtained independently; may be repeated")  # fmt: skip
    parser.add_argument("--merchant", type=named_key, action="append", default=[], metavar="NAME=HEX",
                        help="a merchant's key that you obtained independently; may be repeated")  # fmt: skip
    parser.add_argument("--allow-missing", action="store_true", help="exit with 0 if parts are missing")
    options = parser.parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        # A terminal of a narrow encoding can't show every merchant's name.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        outcome = verify(
            options.bundle, anchors=Anchors(frozenset(options.server_key), dict(options.merchant))
        )
    except UnusableError as error:
        print(error, file=sys.stderr)
        return UNUSABLE
    print("\n".join((*text_lines(outcome), outcome.verdict)))
    if not outcome.ok:
        return FAILS
    return HOLDS if outcome.complete or options.allow_missing else INCOMPLETE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
