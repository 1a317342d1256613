"""The folders of trainings: plan, status, rounds and refusals of each."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, TypeAdapter, ValidationError

from fedrec._internal.files import append_lines, read_lines
from fedrec._internal.json_files import read_checked, write_json
from fedrec._internal.validation_messages import problem_text
from fedrec.errors import ConfigError, ServiceError
from fedrec.protocol.plan import ServerUpdate, TrainingPlan
from fedrec.protocol.schema import sha256_hex
from fedrec.protocol.training_report.round_line import RoundLine
from fedrec.server.reservation import RESERVATION, Reservation
from fedrec.server.training_files import Filing, Status, TrainingState

START = "initial-parameters.f32"
"""The initial parameters of a training that starts from an earlier result, little-endian float32."""
STATE: Final = "state.json"
CANCELLED: Final = "cancelled.json"
"""What a training's status is read from: the second file where there is one."""
FILING: Final = "own.json"
_REFUSALS = TypeAdapter(dict[str, str], config=ConfigDict(strict=True))

Content = TypeVar("Content")


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
    corrupt_witnesses: int
    seat_risk: float
    min_contributors: int
    colluders: int


@dataclass(frozen=True)
class Training:
    """The folder of one training; its number is the folder's name."""

    folder: Path

    @property
    def number(self) -> str:
        """The folder's name."""
        return self.folder.name

    def plan(self) -> TrainingPlan:
        """Return the plan.

        Raises:
            ServiceError: the file can't be used, or isn't the one that was filed.
        """
        path = self.folder / "plan.json"
        try:
            plan = TrainingPlan.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise ServiceError(f"{path} can't be used: {problem_text(error)}") from None
        filed = self._filed_as()
        if filed not in (None, plan.training_id):
            raise ServiceError(
                f"{path} was changed after it was filed (the training's id begins with {filed:.12}, "
                f"the file's with {plan.training_id:.12}): restore it from a backup"
            )
        return plan

    def eval_data(self) -> Path | None:
        """Return the folder of public photos to evaluate on, if there is one."""
        found = self._filing().eval_data
        return None if found is None else Path(found)

    def initial_seed(self) -> int:
        """Return the seed of the initial weights, which are public."""
        return self._filing().initial_seed

    def start_from(self) -> str | None:
        """Return the number of the training whose result this one starts from, None if there is none."""
        return self._filing().start_from

    def start(self) -> NDArray[np.float64] | None:
        """Return the initial parameters, float64 (d,), where the training starts from an earlier result.

        Returns:
            The parameters; None where they follow from the seed.

        Raises:
            ServiceError: the file is missing, or isn't what the plan names.
        """
        if self.start_from() is None:
            return None
        path = self.folder / START
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ServiceError(f"{path} can't be read: {error.strerror}") from None
        if sha256_hex(data) != self.plan().initial_model_hash:
            raise ServiceError(f"{path} isn't the initial model that the plan names")
        return np.frombuffer(data, dtype="<f4").astype(np.float64)

    def run_id(self) -> str:
        """Return the run's id in the report."""
        filing = self._filing()
        return filing.run_id or f"{self.number}-{filing.training_id[:12]}"

    def _filed_as(self) -> str | None:
        """Return the id of the plan that was filed; None where nothing beside the plan is there."""
        try:
            return self._filing().training_id
        except FileNotFoundError:
            return None

    def _filing(self) -> Filing:
        return self._read(FILING, Filing.model_validate_json, what="filing of a training")

    def _read(self, name: str, parse: Callable[[bytes], Content], *, what: str) -> Content:
        """Read a file; ``FileNotFoundError`` if there is none, ``ServiceError`` if it can't be used."""
        return read_checked(
            self.folder / name, parse, what=what, error=ServiceError, remedy="restore it from a backup"
        )

    def status(self) -> tuple[Status, str]:
        """Return the training's status, and the reason where it failed or waits.

        Raises:
            ServiceError: its file can't be used.
        """
        state = self._state()
        return state.status, state.reason

    def set_status(self, status: Status, reason: str = "") -> None:
        """Record the training's status durably, and the time when it first runs.

        A cancelled training stays cancelled. How long it has had its status, or has waited, counts from when
        the status changed, or a reason first stood there; a reason that is worded anew counts on.

        Args:
            status: the new status.
            reason: why it failed, or what it waits for.
        """
        before = self._state() if (self.folder / STATE).exists() else None
        started, since = None, datetime.now(UTC)
        if before is not None:
            if before.status == "cancelled":
                return
            started = None if status == "filed" else before.started
            if (before.status, bool(before.reason)) == (status, bool(reason)):
                since = before.since
        if started is None and status == "running":
            started = datetime.now(UTC)
        state = TrainingState(status=status, reason=reason, started=started, since=since)
        # A file of its own: a server that writes another status at this moment doesn't undo it.
        name = CANCELLED if status == "cancelled" else STATE
        write_json(self.folder / name, state.model_dump(mode="json"))

    def is_cancelled(self) -> bool:
        """Return whether the operator has cancelled the training."""
        return self.status()[0] == "cancelled"

    def started(self) -> datetime | None:
        """Return when the training first ran (UTC), None before."""
        return self._state().started if (self.folder / STATE).exists() else None

    def since(self) -> datetime:
        """Return since when the training has its status, or waits (UTC)."""
        return self._state().since

    def _state(self) -> TrainingState:
        parse, what = TrainingState.model_validate_json, "status of a training"
        try:
            return self._read(CANCELLED, parse, what=what)
        except FileNotFoundError:
            return self._read(STATE, parse, what=what)

    def rounds(self) -> list[RoundLine]:
        """Return the records of all finished rounds."""
        path = self.folder / "rounds.jsonl"
        try:
            return [RoundLine.model_validate_json(line) for line in read_lines(path)]
        except ValidationError as error:
            raise ServiceError(
                f"{path} holds a line that is no round of this version: {problem_text(error)}"
            ) from None

    def last_begun(self) -> int:
        """Return the number of the last round that was begun, for which merchants may be charged; 0 for none.

        A checkpoint that can't be read counts as none: whoever runs the training says what is wrong with it.
        """
        try:
            found = self._read(
                f"server/{RESERVATION}", Reservation.model_validate_json, what="checkpoint of this version"
            )
        except (OSError, ServiceError):
            return 0
        return found.round

    def add_round(self, line: RoundLine) -> None:
        """Record a round, durably."""
        append_lines(self.folder / "rounds.jsonl", [json.dumps(line.model_dump(mode="json")).encode()])

    def refusals(self) -> dict[str, str]:
        """Return the recorded refusals: where, and why."""
        try:
            return self._read("refusals.json", _REFUSALS.validate_json, what="record of refusals")
        except FileNotFoundError:
            return {}

    def keep_refusals(self, refusals: Mapping[str, str]) -> None:
        """Record the refusals of the training, durably."""
        if dict(refusals) != self.refusals():
            write_json(self.folder / "refusals.json", dict(refusals))


def all_trainings(folder: Path) -> Iterator[Training]:
    """Yield all trainings, the oldest first."""
    for path in training_folders(folder):
        if (path / STATE).is_file():
            yield Training(path)


def readable_trainings(folder: Path) -> Iterator[tuple[Training, Status, TrainingPlan]]:
    """Yield the trainings whose state and plan can be read, with both; the oldest first."""
    for training in all_trainings(folder):
        try:
            status, plan = training.status()[0], training.plan()
        except ServiceError:
            # 'fedrec server status' names it.
            continue
        yield training, status, plan


def training_folders(folder: Path) -> list[Path]:
    """Return the folders of trainings sorted by number, including any that are incomplete."""
    return sorted((path for path in folder.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))


def find_training(folder: Path, number: str) -> Training:
    """Return one training.

    Args:
        folder: the folder of all trainings.
        number: its number, with or without leading zeros.

    Returns:
        The training.

    Raises:
        ConfigError: there is no such training.
    """
    for training in all_trainings(folder):
        if number.isdecimal() and int(number) == int(training.number):
            return training
    raise ConfigError(f"there is no training {number} on file here: 'fedrec server status' lists them")
