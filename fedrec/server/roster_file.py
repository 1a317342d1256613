"""Keep the enrolled merchants and witnesses, and the node keys that were once theirs, in two files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from fedrec._internal.file_locks import LockedElsewhereError, locked
from fedrec._internal.files import Stamp, stamp_of
from fedrec._internal.json_files import write_json
from fedrec._internal.validation_messages import problem_text
from fedrec.errors import ConfigError, ServiceError
from fedrec.protocol.enrolment import Statement
from fedrec.protocol.plan import Peer
from fedrec.server.node_keys import flower_key

_STATEMENTS = TypeAdapter(tuple[Statement, ...])
_DIGESTS = TypeAdapter(frozenset[str])
_CHANGE_SECONDS = 10.0
"""How long a change waits for another one, which takes a fraction of a second."""


@dataclass(frozen=True)
class Roster:
    """The enrolment statements, sorted by name, and the entries of a plan's roster that follow."""

    enrolled: tuple[Statement, ...]
    merchants: tuple[Peer, ...]
    witnesses: tuple[Peer, ...]


@dataclass(frozen=True)
class RosterFile:
    """The roster in a server's folder; methods raise ``ServiceError`` for a file that can't be used."""

    folder: Path

    @property
    def path(self) -> Path:
        """The file of the roster."""
        return self.folder / "roster.json"

    @property
    def retired_file(self) -> Path:
        """The digests of node keys that were removed from the roster."""
        return self.folder / "retired.json"

    def read(self) -> Roster:
        """Return the roster."""
        try:
            return _read_roster(self.path, stamp_of(self.path.stat()))
        except (OSError, ValidationError) as error:
            raise _unusable(self.path, error) from None

    def is_retired(self, node_key: str) -> bool:
        """Return whether a node key was removed before; an older enrolment file can't bring it back."""
        return _digest(node_key) in self._retired()

    def _retired(self) -> frozenset[str]:
        try:
            return _DIGESTS.validate_json(self.retired_file.read_bytes())
        except FileNotFoundError:
            return frozenset()
        except (OSError, ValidationError) as error:
            raise _unusable(self.retired_file, error) from None

    def write(self, entries: Iterable[Statement]) -> None:
        """Replace the roster; the node keys that it lacks then are retired before."""
        left = sorted(entries, key=lambda entry: entry.name)
        gone = {_digest(entry.node_key) for entry in self.read().enrolled}
        gone -= {_digest(entry.node_key) for entry in left}
        if gone:
            write_json(self.retired_file, sorted(gone | self._retired()))
        write_json(self.path, [entry.model_dump(mode="json") for entry in left])

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Keep other commands from changing the roster: what one of them added would be lost.

        Yields:
            None.

        Raises:
            ConfigError: another command takes long.
        """
        try:
            with locked(self.folder / "roster.lock", seconds=_CHANGE_SECONDS):
                yield
        except LockedElsewhereError:
            raise ConfigError(
                f"another command changes the roster in {self.folder}: run this one again when it has ended"
            ) from None


@lru_cache(maxsize=2)
def _read_roster(path: Path, stamp: Stamp) -> Roster:
    """Read the roster; once for each version of the file, since a running server asks every second."""
    enrolled = _STATEMENTS.validate_json(path.read_bytes())
    return Roster(
        enrolled=enrolled,
        merchants=tuple(entry.peer for entry in enrolled if entry.role == "merchant"),
        witnesses=tuple(entry.peer for entry in enrolled if entry.role == "witness"),
    )


def _digest(node_key: str) -> str:
    return hashlib.sha256(flower_key(node_key)).hexdigest()


def _unusable(path: Path, error: Exception) -> ServiceError:
    return ServiceError(f"{path} can't be used: {problem_text(error)}; restore it from a backup")
