"""Read the operator's training file, and write the plan that is made from it."""

from __future__ import annotations

import errno
import re
import tempfile
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, model_validator

from fedrec._internal.durations import duration_text, parse_duration
from fedrec._internal.files import write_atomically
from fedrec._internal.json_files import write_json
from fedrec._internal.look_alikes import look_alikes, shown
from fedrec._internal.toml_files import checked_table, read_toml
from fedrec.config import TrainingOptions
from fedrec.errors import ConfigError
from fedrec.protocol.plan import MAX_WINDOW, MIN_WINDOW, Peer, TrainingPlan
from fedrec.server.planning import Enrolled, Task, plan_training
from fedrec.server.starting_points import starting_point
from fedrec.server.training_files import Filing
from fedrec.server.trainings import FILING, START, Training, find_training, training_folders
from fedrec.vision import model_registry
from fedrec.vision.listing.photo_places import is_place
from fedrec.vision.model_choice import chosen_model
from fedrec.vision.model_inputs import InputShape

_DEFAULT_SIZE = 64


def _window(given: object) -> int | None:
    """Read a length of time, and check its limits; None is kept."""
    if given is None:
        return None
    if not isinstance(given, str):
        raise ValueError("must be text, as in '30m', '12h' or '7d'")
    seconds = parse_duration(given)
    if not MIN_WINDOW <= seconds <= MAX_WINDOW:
        raise ValueError(f"must be from {duration_text(MIN_WINDOW)} to {duration_text(MAX_WINDOW)}")
    return seconds


Window = Annotated[int | None, BeforeValidator(_window)]


class TrainingFile(TrainingOptions):
    """The table ``[training]`` of the operator's TOML file."""

    classes: tuple[str, ...] = Field(min_length=2)
    channels: Literal[1, 3] = 3
    image_size: int | None = Field(default=None, ge=8, le=1024)
    eval_data: Path | None = None
    initial_seed: int = Field(default=0, ge=0, le=2**63 - 1)
    window: Window = None
    start_from: str | None = Field(default=None, pattern=r"^[0-9]{1,9}$")

    @model_validator(mode="after")
    def _only_one_round_has_a_window(self) -> Self:
        if self.window is not None and self.method != "one-round":
            raise ValueError("window is the time in which the uploads of method = 'one-round' may arrive")
        if self.window is not None and self.site_figures is not None:
            raise ValueError(
                "site_figures are of the final model, which there is only after the window: merchants would "
                "have to come a second time; leave out window or site_figures"
            )
        return self


@contextmanager
def _naming_keys() -> Iterator[None]:
    """Messages name options of 'fedrec simulate'; the file's keys have the same names."""
    try:
        yield
    except ConfigError as error:
        text = re.sub(r"(?<![\w-])--([a-z][a-z-]+)", lambda option: option[1].replace("-", "_"), str(error))
        raise type(error)(text) from None


def read_training_file(path: Path) -> TrainingFile:
    """Read the operator's TOML file; raise a one-line ``ConfigError`` that names the wrong key."""
    tables = read_toml(path)
    if set(tables) != {"training"} or not isinstance(tables["training"], dict):
        first = next((repr(name) for name in tables if name != "training"), "nothing")
        raise ConfigError(
            f"{path} holds {first}: all options stand below the line [training], and nothing else does"
        )
    with _naming_keys():
        return checked_table(tables["training"], TrainingFile, where=path, key="option")


def make_plan(folder: Path, options: TrainingFile, enrolled: Enrolled) -> tuple[TrainingPlan, Task]:
    """Make the plan for the enrolled merchants; nothing is written.

    Args:
        folder: the folder of all trainings, where one that this one starts from lies.
        options: the training file.
        enrolled: the merchants and their server.

    Returns:
        The plan, and what is learnt.

    Raises:
        ConfigError: nobody is enrolled, ``eval_data`` is missing, classes look alike, or no plan can hold the
            options.
        UnreachableBudgetError: no noise that fits the widest ring reaches the budget.
    """
    if not enrolled.roster:
        raise ConfigError("no merchant is enrolled yet: there is nobody to train with")
    if options.eval_data is not None and not is_place(options.eval_data):
        raise ConfigError(f"eval_data: there is no folder and no CSV file {options.eval_data}")
    for alike in look_alikes(options.classes):
        raise ConfigError(
            f"classes: {', '.join(map(shown, alike))} look alike, and merchants would take them for each "
            "other: keep one"
        )
    if options.patience is not None and options.eval_data is None:
        raise ConfigError("patience compares models on public photos: name their folder as eval_data")
    with _naming_keys():
        spec = model_registry.get(chosen_model(options.model, method=options.method))
        task = Task(
            spec=spec,
            # As folders' names are read; a table's editor may write letters and accents apart.
            classes=tuple(sorted(unicodedata.normalize("NFC", name) for name in options.classes)),
            shape=InputShape(
                channels=options.channels, size=options.image_size or spec.image_size or _DEFAULT_SIZE
            ),
            seed=options.initial_seed,
        )
        if options.start_from is not None:
            task = replace(task, start=starting_point(find_training(folder, options.start_from), task))
        return plan_training(options, task, enrolled, upload_window=options.window).plan, task


def add_training(
    folder: Path,
    options: TrainingFile,
    *,
    server_key: str,
    roster: tuple[Peer, ...],
    sizes: tuple[int, ...],
    witnesses: tuple[Peer, ...] = (),
) -> Training:
    """Make the plan for the enrolled merchants, and write it to a new training's folder.

    Args:
        folder: the folder of all trainings.
        options: the training file.
        server_key: the server's public key, 64 hexadecimal digits.
        roster: the enrolled merchants.
        sizes: the noised number of units that each of them declared.
        witnesses: the enrolled witnesses.

    Returns:
        The new training.

    Raises:
        ConfigError: as :func:`make_plan` raises.
        UnreachableBudgetError: as :func:`make_plan` raises.
    """
    plan, task = make_plan(folder, options, Enrolled(server_key, roster, sizes, witnesses))
    with tempfile.TemporaryDirectory(prefix=".plan-", dir=folder) as scratch:
        made = Training(Path(scratch) / "plan")
        made.folder.mkdir()
        write_plan(
            made,
            plan,
            seed=options.initial_seed,
            eval_data=options.eval_data,
            start=task.start,
            start_from=options.start_from,
        )
        # A running server sees the training from here on, complete.
        return Training(_filed(made.folder, folder))


def _filed(made: Path, folder: Path) -> Path:
    """Move a training's folder to the next free number, which another process may take meanwhile."""
    while True:
        number = 1 + max((int(path.name) for path in training_folders(folder)), default=0)
        try:
            return made.rename(folder / f"{number:04d}")
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise


def write_plan(
    training: Training,
    plan: TrainingPlan,
    *,
    seed: int,
    eval_data: Path | None = None,
    run_id: str | None = None,
    start: NDArray[np.float64] | None = None,
    start_from: str | None = None,
) -> None:
    """Write a plan into a training's folder, with what the server keeps beside it; the status comes last.

    Args:
        training: the training, whose folder exists.
        plan: the plan.
        seed: seed of the initial weights.
        eval_data: the operator's own public photos, if any.
        run_id: what a simulation's report calls the run.
        start: the initial parameters, float64 (d,), where the training starts from an earlier result.
        start_from: the number of that earlier training.
    """
    if start is not None:
        write_atomically(training.folder / START, start.astype("<f4").tobytes())
    write_atomically(training.folder / "plan.json", plan.canonical_bytes())
    evaluation = None if eval_data is None else str(eval_data.resolve())
    filing = Filing(
        training_id=plan.training_id,
        eval_data=evaluation,
        initial_seed=seed,
        run_id=run_id,
        start_from=start_from,
    )
    write_json(training.folder / FILING, filing.model_dump(mode="json"))
    training.set_status("filed")
