"""Trainings on file: what was planned, how far each has come, and what it gave."""

from __future__ import annotations

import json
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError
from torch import nn

from fedrec.config import TrainingOptions
from fedrec.errors import ConfigError, ServiceError
from fedrec.files import append_lines, read_lines, write_atomically
from fedrec.privacy.dp.vectors import parameter_vector
from fedrec.protocol import Peer, TrainingPlan
from fedrec.server.planning import Settings, make_plan, settle
from fedrec.server.report.build import RoundLine
from fedrec.vision.inputs import InputShape
from fedrec.vision.models import registry

Status = Literal["filed", "running", "done", "failed", "cancelled"]
_DEFAULT_SIZE = 64


class TrainingFile(TrainingOptions):
    """What the operator writes in a TOML file's table ``[training]``."""

    classes: tuple[str, ...] = Field(min_length=2)
    channels: Literal[1, 3] = 3
    image_size: int | None = Field(default=None, ge=8, le=1024)
    eval_data: Path | None = None
    initial_seed: int = Field(default=0, ge=0, le=2**63 - 1)


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

    def settings(self) -> Settings:
        """Return the server's own settings of the training."""
        return Settings(**json.loads((self.folder / "settings.json").read_text("utf-8")))

    def eval_data(self) -> Path | None:
        """Return the folder of public photos to evaluate on, if there is one."""
        found = self._own()["eval_data"]
        return None if found is None else Path(found)

    def initial_seed(self) -> int:
        """Return the seed of the initial weights, which are public."""
        return int(self._own()["initial_seed"])

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
        write_atomically(self.folder / "refusals.json", json.dumps(dict(refusals), indent=2).encode())


def all_trainings(folder: Path) -> Iterator[Training]:
    """Yield the trainings on file, the oldest first."""
    for path in _numbered(folder):
        if (path / "state.json").is_file():
            yield Training(path)


def _numbered(folder: Path) -> list[Path]:
    return sorted((path for path in folder.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))


def find(folder: Path, number: str) -> Training:
    """Return one training; ``ConfigError`` when it isn't on file."""
    for training in all_trainings(folder):
        if training.number == number:
            return training
    raise ConfigError(f"there is no training {number} on file here")


def initial_model(spec: registry.ModelSpec, *, classes: int, shape: InputShape, seed: int) -> nn.Module:
    """Build the model that a training starts from."""
    return spec.build(classes=classes, channels=shape.channels, size=shape.size, seed=seed)


def starting_parameters(model: nn.Module) -> NDArray[np.float64]:
    """Return a model's parameters as they travel: rounded to float32."""
    return parameter_vector(model).astype(np.float32).astype(np.float64)


def read_training_file(path: Path) -> TrainingFile:
    """Read the operator's TOML file; ``ConfigError`` in one line that names the key."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None
    if set(tables) != {"training"} or not isinstance(tables["training"], dict):
        raise ConfigError(f"{path}: all options stand below the line [training], and nothing else does")
    try:
        return TrainingFile.model_validate(tables["training"])
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "options"
        raise ConfigError(f"{path}: {where}: {first['msg'].removeprefix('Value error, ')}") from None


def file_training(
    folder: Path,
    options: TrainingFile,
    *,
    server_key: str,
    roster: tuple[Peer, ...],
    sizes: tuple[int, ...],
) -> Training:
    """Make the plan for the enrolled merchants and put it on file.

    Raises ``ConfigError`` or ``UnreachableBudgetError`` when there is no such plan.
    """
    if not roster:
        raise ConfigError("no merchant is enrolled yet: there is nobody to train with")
    spec = registry.get(options.model)
    shape = InputShape(channels=options.channels, size=options.image_size or spec.image_size or _DEFAULT_SIZE)
    classes = tuple(sorted(options.classes))
    settings = settle(options, spec, merchants=len(roster))
    model = initial_model(spec, classes=len(classes), shape=shape, seed=options.initial_seed)
    plan = make_plan(
        options,
        settings,
        server_key=server_key,
        roster=roster,
        sizes=sizes,
        classes=classes,
        spec=spec,
        shape=shape,
        initial=starting_parameters(model),
    )
    number = f"{1 + max((int(path.name) for path in _numbered(folder)), default=0):04d}"
    with tempfile.TemporaryDirectory(prefix=".plan-", dir=folder) as scratch:
        made = Training(Path(scratch) / number)
        made.folder.mkdir()
        write_atomically(made.folder / "plan.json", plan.canonical_bytes())
        write_atomically(made.folder / "settings.json", json.dumps(asdict(settings)).encode())
        evaluation = None if options.eval_data is None else str(options.eval_data.resolve())
        own = {"eval_data": evaluation, "initial_seed": options.initial_seed}
        write_atomically(made.folder / "own.json", json.dumps(own).encode())
        made.set_status("filed")
        # Only now can a running server see it.
        return Training(made.folder.rename(folder / number))
