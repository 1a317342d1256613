"""Ask a person to confirm what no program can check."""

from __future__ import annotations

import typer

from fedrec.errors import ConfigError


def confirm_by_hand(question: str, *, otherwise: str) -> None:
    """Ask a person.

    Args:
        question: answered with yes or no.
        otherwise: what to say unless the answer is yes, one sentence.

    Raises:
        ConfigError: the answer is not yes, or there is nobody to ask.
        Abort: the person pressed Ctrl-C.
    """
    try:
        confirmed = typer.confirm(question)
    except typer.Abort as abort:
        if isinstance(abort.__context__, KeyboardInterrupt):
            raise
        # There is no input to read an answer from.
        confirmed = False
    if not confirmed:
        raise ConfigError(otherwise)
