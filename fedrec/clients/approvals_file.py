"""Keep on disk whom a merchant accepted, and how."""

from __future__ import annotations

import logging
from pathlib import Path

from pydantic import ValidationError

from fedrec._internal.files import write_atomically
from fedrec._internal.shared_results import SHARED
from fedrec.clients.approvals import Approvals
from fedrec.errors import ConfigError
from fedrec.protocol.enrolment import JoinFile
from fedrec.protocol.schema import sha256_hex

APPROVALS_FILE = "approvals.json"
_IN_MEMORY = 8
"""Memory that approvals take, over the length of their text."""
_log = logging.getLogger(__name__)


def read_approvals(folder: Path, joined: JoinFile) -> Approvals:
    """Read whom a merchant accepted, and how.

    Args:
        folder: the merchant's folder.
        joined: its join file. Without a file of approvals, as earlier versions have none, all of its roster
            was approved by hand.

    Returns:
        The approvals.

    Raises:
        ConfigError: the file can't be used.
    """
    path = folder / APPROVALS_FILE
    try:
        raw = path.read_bytes()
        # The merchants that one process hosts approved the same.
        found = SHARED.of(
            ("approvals", sha256_hex(raw)),
            lambda: Approvals.model_validate_json(raw),
            size=lambda read: _IN_MEMORY * len(raw),
        )
    except FileNotFoundError:
        return _all_by_hand(joined, before=Approvals(federation=joined.federation))
    except (OSError, ValidationError) as error:
        raise ConfigError(
            f"{path} can't be used ({type(error).__name__}): restore it, or approve the join file by hand"
        ) from None
    if found.federation != joined.federation:
        return _all_by_hand(joined, before=Approvals(federation=joined.federation))
    return found


def approve_by_hand(folder: Path, join: JoinFile, *, before: JoinFile | None) -> None:
    """Record that a person approved a join file by its fingerprint.

    Args:
        folder: the merchant's folder.
        join: the join file.
        before: the join file until then; None for the first.
    """
    known = Approvals(federation=join.federation)
    if before is not None:
        try:
            known = read_approvals(folder, before)
        except ConfigError as error:
            _log.warning("%s", error)
    write_approvals(folder, _all_by_hand(join, before=known))


def _all_by_hand(join: JoinFile, *, before: Approvals) -> Approvals:
    return before.by_hand(join.roster, join.witnesses, federation=join.federation)


def write_approvals(folder: Path, approvals: Approvals) -> None:
    """Replace the file of approvals, mode 0600.

    Args:
        folder: the merchant's folder.
        approvals: its new content.
    """
    write_atomically(folder / APPROVALS_FILE, approvals.canonical_bytes(), mode=0o600)
