"""The folder of a sweep: a file that says what is swept, and a run directory for each point and repeat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, PositiveInt

from fedrec._internal.json_files import write_json
from fedrec.errors import ConfigError, ServiceError
from fedrec.protocol.schema import Strict
from fedrec.server.trainings import STATE, Training

SWEEP_FILE: Final = "sweep.json"


class Sweep(Strict):
    """What is swept, for programs: the file's presence alone marks the folder.

    Attributes:
        schema_name: name and version of this schema; in JSON ``schema``.
        sweep: the values of each option that is swept.
        repeat: runs of each point.
    """

    schema_name: Annotated[Literal["fedrec.sweep/1"], Field(serialization_alias="schema")] = "fedrec.sweep/1"
    sweep: Mapping[str, tuple[str, ...]]
    repeat: PositiveInt


def is_sweep(folder: Path) -> bool:
    """Return whether a folder is that of a sweep whose runs are all prepared."""
    return (folder / SWEEP_FILE).is_file()


def write_sweep(folder: Path, *, swept: Mapping[str, Sequence[str]], repeats: int) -> None:
    """Mark a folder as that of a sweep, once all of its runs are prepared.

    Args:
        folder: the folder.
        swept: the values of each option that is swept.
        repeats: runs of each point.
    """
    sweep = Sweep(sweep={name: tuple(values) for name, values in swept.items()}, repeat=repeats)
    write_json(folder / SWEEP_FILE, sweep.model_dump(mode="json", by_alias=True))


def runs_of_sweep(folder: Path) -> list[Path]:
    """Return the run directories of a sweep, in their order; raise ``ConfigError`` if there is none."""
    found = sorted(path.parent for path in folder.glob(f"*/*/{STATE}"))
    if not found:
        raise ConfigError(f"{folder} is the folder of a sweep without any run: start the sweep again")
    return found


def is_finished(run: Path) -> bool:
    """Return whether a run reached its end; raise ``ConfigError`` if the file of its status is broken."""
    try:
        return Training(run).status()[0] == "done"
    except (OSError, ServiceError):
        raise ConfigError(f"{run / STATE} is broken: this run's status isn't known") from None
