"""Say which optional package is missing, before anything imports it."""

from __future__ import annotations

from importlib.util import find_spec

from fedrec._internal.pip_command import pip_command
from fedrec.errors import MissingExtraError


def require_packages(*modules: str, extra: str, purpose: str) -> None:
    """Check that packages of an extra are installed; imports none of them.

    Args:
        modules: names as they are imported.
        extra: name of the extra that brings them.
        purpose: what needs them, as the beginning of a sentence.

    Raises:
        MissingExtraError: one isn't installed.
    """
    for module in modules:
        if find_spec(module) is None:
            raise MissingExtraError(
                f"{purpose} needs the package {module}, which is not installed: "
                f"{pip_command(f'fedrec[{extra}]')}"
            )
