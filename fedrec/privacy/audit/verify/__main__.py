"""``python -m verify audit.json``: the check as a program of its own."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .check import verify
from .outcome import Anchors, UnusableError
from .telling import named_key, public_key, told

HOLDS, FAILS, UNUSABLE, INCOMPLETE = 0, 1, 2, 3


def main(arguments: Sequence[str]) -> int:
    """Print what came of a bundle; 0 if all holds, 1 if not, 2 for no bundle, 3 if parts are missing.

    ``arguments`` as on the command line, without the program's name.
    """
    parser = argparse.ArgumentParser(prog="verify", description="Recheck an audit bundle.")
    parser.add_argument("bundle", type=Path, help="an audit.json")
    parser.add_argument("--server-key", type=public_key, action="append", default=[], metavar="HEX",
                        help="a server's key, got by another way; may come several times")  # fmt: skip
    parser.add_argument("--merchant", type=named_key, action="append", default=[], metavar="NAME=HEX",
                        help="a merchant's key, got by another way; may come several times")  # fmt: skip
    parser.add_argument("--allow-missing", action="store_true", help="0 also where parts are missing")
    options = parser.parse_args(arguments)
    try:
        outcome = verify(
            options.bundle, anchors=Anchors(frozenset(options.server_key), dict(options.merchant))
        )
    except UnusableError as error:
        print(error, file=sys.stderr)
        return UNUSABLE
    print("\n".join((*told(outcome), outcome.verdict)))
    if not outcome.ok:
        return FAILS
    return HOLDS if outcome.complete or options.allow_missing else INCOMPLETE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
