"""From the operator's training file to a training on file, with the model that it starts from."""

from __future__ import annotations

import json
import re
import tempfile
import tomllib
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError
from torch import nn

from fedrec._internal.files import write_atomically
from fedrec._internal.validation_messages import first_problem
from fedrec.config import TrainingOptions
from fedrec.errors import ConfigError
from fedrec.privacy.dp.vectors import parameter_vector
from fedrec.protocol.plan import Peer
from fedrec.server.planning import check_model_size, make_plan, settle
from fedrec.server.trainings import Training, numbered
from fedrec.vision.inputs import InputShape
from fedrec.vision.models import registry

_DEFAULT_SIZE = 64


class TrainingFile(TrainingOptions):
    """What the operator writes in a TOML file's table ``[training]``."""

    classes: tuple[str, ...] = Field(min_length=2)
    channels: Literal[1, 3] = 3
    image_size: int | None = Field(default=None, ge=8, le=1024)
    eval_data: Path | None = None
    initial_seed: int = Field(default=0, ge=0, le=2**63 - 1)


def initial_model(spec: registry.ModelSpec, *, classes: int, shape: InputShape, seed: int) -> nn.Module:
    """Build the model that a training starts from."""
    return spec.build(classes=classes, channels=shape.channels, size=shape.size, seed=seed)


def starting_parameters(model: nn.Module) -> NDArray[np.float64]:
    """Return a model's parameters as they travel: rounded to float32."""
    return parameter_vector(model).astype(np.float32).astype(np.float64)


def _as_key(option: re.Match[str]) -> str:
    return option[1].replace("-", "_")


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
        problem = first_problem(error)
        if problem.kind == "extra_forbidden":
            raise ConfigError(f"{path}: there is no option '{'.'.join(problem.where)}'") from None
        where = f"{'.'.join(problem.where)} " if problem.where else ""
        raise ConfigError(f"{path}: {where}{problem.text}") from None


def file_training(
    folder: Path,
    options: TrainingFile,
    *,
    server_key: str,
    roster: tuple[Peer, ...],
    sizes: tuple[int, ...],
) -> Training:
    """Make the plan for the enrolled merchants and put it on file.

    Raises ``ConfigError`` or ``UnreachableBudgetError`` when there is no such plan, or no ``eval_data``.
    """
    if not roster:
        raise ConfigError("no merchant is enrolled yet: there is nobody to train with")
    if options.eval_data is not None and not options.eval_data.is_dir():
        raise ConfigError(f"eval_data: there is no folder {options.eval_data}")
    spec = registry.get(options.model)
    shape = InputShape(channels=options.channels, size=options.image_size or spec.image_size or _DEFAULT_SIZE)
    classes = tuple(sorted(options.classes))
    try:
        settings = settle(options, spec, merchants=len(roster))
    except ConfigError as error:
        # These are said in the options of 'fedrec simulate'; the file's keys have the same names.
        raise ConfigError(re.sub(r"--([a-z][a-z-]+)", _as_key, str(error))) from None
    check_model_size(spec, classes=len(classes), shape=shape)
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
    number = f"{1 + max((int(path.name) for path in numbered(folder)), default=0):04d}"
    with tempfile.TemporaryDirectory(prefix=".plan-", dir=folder) as scratch:
        made = Training(Path(scratch) / number)
        made.folder.mkdir()
        write_atomically(made.folder / "plan.json", plan.canonical_bytes())
        evaluation = None if options.eval_data is None else str(options.eval_data.resolve())
        own = {"eval_data": evaluation, "initial_seed": options.initial_seed}
        write_atomically(made.folder / "own.json", json.dumps(own).encode())
        made.set_status("filed")
        # Only now can a running server see it.
        return Training(made.folder.rename(folder / number))
