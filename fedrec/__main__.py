"""Run ``python -m fedrec``, the same as ``fedrec``."""

from __future__ import annotations

import signal


def main() -> None:
    """Load the command line and run it; Ctrl-C while it is loaded ends the process without a traceback."""
    # Where a shell has it ignored, as for a job in the background, it stays ignored.
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interruptible:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from fedrec.cli.app import main as run

    if interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


if __name__ == "__main__":
    main()
