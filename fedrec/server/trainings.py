"""Trainings on file: what was planned, how far each has come, and what it gave."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from fedrec._internal.files import append_lines, read_lines, write_atomically
from fedrec.errors import ConfigError, ServiceError
from fedrec.protocol.plan import ServerUpdate, TrainingPlan
from fedrec.server.round_records import RoundLine

Status = Literal["filed", "running", "done", "failed", "cancelled"]


@dataclass(frozen=True)
class Settings:
    """The options of a training after all defaults are settled."""

    rounds: int
    sample_rate: float
    clip: float
    learning_rate: float
    update: ServerUpdate
    committee: int
    threshold: int
    corrupt_members: int
    seat_risk: float
    min_contributors: int
    colluders: int


@dataclass(frozen=True)
class Training:
    """One training's folder; its number is its name."""

    folder: Path

    @property
    def number(self) -> str:
        """The folder's name."""
        return self.folder.name

    def plan(self) -> TrainingPlan:
        """Return the plan."""
        try:
            return TrainingPlan.model_validate_json((self.folder / "plan.json").read_bytes())
        except (OSError, ValidationError) as error:
            raise ServiceError(f"{self.folder / 'plan.json'} can't be used: {error}") from None

    def eval_data(self) -> Path | None:
        """Return the folder of public photos to evaluate on, if there is one."""
        found = self._own()["eval_data"]
        return None if found is None else Path(found)

    def initial_seed(self) -> int:
        """Return the seed of the initial weights, which are public."""
        return int(self._own()["initial_seed"])

    def run_id(self) -> str:
        """Return what a report calls this training."""
        return str(self._own().get("run_id", f"{self.number}-{self.plan().training_id[:12]}"))

    def _own(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "own.json").read_text("utf-8"))
        return found

    def status(self) -> tuple[Status, str]:
        """Return how the training stands, and why where it failed."""
        state = self._state()
        return state["status"], state["reason"]

    def set_status(self, status: Status, reason: str = "") -> None:
        """Record how the training stands, durably; and, from the first time that it runs, since when."""
        if (self.folder / "state.json").exists() and self.is_cancelled():
            # The operator's word is the last, also where a server was about to write another.
            return
        started = None if status == "filed" else self.started()
        if started is None and status == "running":
            started = datetime.now(UTC)
        body = {
            "status": status,
            "reason": reason,
            "started": None if started is None else started.isoformat(timespec="seconds"),
        }
        write_atomically(self.folder / "state.json", json.dumps(body).encode())

    def is_cancelled(self) -> bool:
        """Return whether the operator has cancelled the training."""
        return self.status()[0] == "cancelled"

    def started(self) -> datetime | None:
        """Return when the training first ran (UTC), None before."""
        if not (self.folder / "state.json").exists():
            return None
        found = self._state().get("started")
        return None if found is None else datetime.fromisoformat(found)

    def _state(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "state.json").read_text("utf-8"))
        return found

    def rounds(self) -> list[RoundLine]:
        """Return what was recorded of each round."""
        path = self.folder / "rounds.jsonl"
        try:
            return [RoundLine.from_dict(json.loads(line)) for line in read_lines(path)]
        except (ValueError, TypeError, KeyError) as error:
            raise ServiceError(f"{path} holds a line that is no round of this version: {error}") from None

    def add_round(self, line: RoundLine) -> None:
        """Record a round, durably."""
        append_lines(self.folder / "rounds.jsonl", [json.dumps(line.to_dict()).encode()])

    def refusals(self) -> dict[str, str]:
        """Return the refusals that were recorded: where, and the reason."""
        path = self.folder / "refusals.json"
        if not path.exists():
            return {}
        found: dict[str, str] = json.loads(path.read_text("utf-8"))
        return found

    def keep_refusals(self, refusals: Mapping[str, str]) -> None:
        """Record the refusals of the training, durably."""
        if dict(refusals) != self.refusals():
            write_atomically(self.folder / "refusals.json", json.dumps(dict(refusals), indent=2).encode())


def all_trainings(folder: Path) -> Iterator[Training]:
    """Yield the trainings on file, the oldest first."""
    for path in numbered(folder):
        if (path / "state.json").is_file():
            yield Training(path)


def numbered(folder: Path) -> list[Path]:
    """Return the folders of trainings in the order of their numbers, whole or not."""
    return sorted((path for path in folder.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))


def find(folder: Path, number: str) -> Training:
    """Return one training, by its number with or without zeros; ``ConfigError`` when it isn't on file."""
    for training in all_trainings(folder):
        if number.isdecimal() and int(number) == int(training.number):
            return training
    raise ConfigError(f"there is no training {number} on file here")
