"""Read what is to be swept: the options, their values, and the runs that follow from them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from fedrec.config import SimulationConfig, load_config
from fedrec.errors import ConfigError

MOST_RUNS: Final = 1000
_LONGEST_NAME: Final = 80


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep.

    Attributes:
        name: path of its folder in that of the sweep.
        config: its options, without the run directory.
    """

    name: str
    config: SimulationConfig


@dataclass(frozen=True)
class Sweep:
    """What is swept.

    Attributes:
        axes: the values of each option, as they were given.
        repeats: runs of each point.
        runs: the runs, in the order in which they are carried out.
    """

    axes: Mapping[str, tuple[str, ...]]
    repeats: int
    runs: tuple[SweepRun, ...]


def read_sweep(swept: Sequence[str], *, repeats: int, config: Path | None, flags: Mapping[str, Any]) -> Sweep:
    """Combine the values of all swept options, and check each combination.

    Args:
        swept: texts such as ``epsilon=1,2,4``; values with commas of their own are separated by semicolons.
        repeats: runs of each combination. With a seed, they have this seed and the next ones.
        config: a TOML file of options; None for flags alone.
        flags: options that all runs share.

    Returns:
        The sweep.

    Raises:
        ConfigError: an option is unknown or can't be swept, a value is wrong or given twice, or there are too
            many runs; one line names the option.
    """
    axes = _axes(swept, flags=flags)
    count = repeats
    for values in axes.values():
        count *= len(values)
    if repeats < 1:
        raise ConfigError(f"--repeat {repeats} must be 1 or more")
    if count > MOST_RUNS:
        raise ConfigError(
            f"--sweep and --repeat make {count:,} runs; at most {MOST_RUNS:,} can be swept at once"
        )
    if "seed" in axes and repeats > 1:
        raise ConfigError("--repeat has no meaning beside --sweep seed: each seed is a repeat already")
    shared = {name: value for name, value in flags.items() if name != "out"}
    points: dict[str, SimulationConfig] = {}
    named: dict[str, dict[str, str]] = {}
    width = len(str(count // repeats))
    for number, values in enumerate(itertools.product(*axes.values()), start=1):
        point = dict(zip(axes, values, strict=True))
        name = f"{number:0{width}d}-{_folder_name(point)}"
        made = load_config(config, shared | point)
        same = next((other for other, known in points.items() if known == made), None)
        if same is not None:
            raise ConfigError(f"--sweep: {name} and {same} are the same run")
        points[name], named[name] = made, point
    runs = []
    # Each repeat goes through all points, so that runs with one seed, which share photos, follow each other.
    for repeat, (name, made) in itertools.product(range(repeats), points.items()):
        seeded = made
        if made.seed is not None and repeat:
            seeded = load_config(config, shared | named[name] | {"seed": made.seed + repeat})
        runs.append(SweepRun(f"repeat-{repeat + 1:0{len(str(repeats))}d}/{name}", seeded))
    return Sweep(axes, repeats, tuple(runs))


def _axes(swept: Sequence[str], *, flags: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    axes: dict[str, tuple[str, ...]] = {}
    for text in swept:
        name, equals, rest = text.partition("=")
        name = name.strip().removeprefix("--").replace("-", "_")
        shown = f"--sweep {name.replace('_', '-')}"
        if name == "out" or name not in SimulationConfig.model_fields:
            alike = get_close_matches(name, [*SimulationConfig.model_fields], n=1)
            hint = f": did you mean {alike[0].replace('_', '-')}?" if alike and alike[0] != name else ""
            why = "is the folder of the whole sweep" if name == "out" else f"is no option of a run{hint}"
            raise ConfigError(f"{shown} {why}")
        values = tuple(value.strip() for value in rest.split(";" if ";" in rest else ","))
        if not equals or "" in values:
            raise ConfigError(f"{shown} needs values: {name.replace('_', '-')}=VALUE,VALUE,...")
        if ";" not in rest and any(_is_a_part(value) for value in values):
            raise ConfigError(
                f"{shown} was divided at its commas, and {next(filter(_is_a_part, values))} is no value of "
                "its own: put a semicolon between values that hold commas, and all of it into quotes "
                "(--sweep 'class-prior=A=1,B=2;A=2,B=1')"
            )
        if name in axes:
            raise ConfigError(f"{shown} is given twice: put all of its values into one")
        if name in flags:
            raise ConfigError(
                f"{shown} and --{name.replace('_', '-')} set the same option: leave out one of them"
            )
        axes[name] = values
    return axes


def _is_a_part(value: str) -> bool:
    """Return whether a text is one setting of a longer value: a name, an equals sign and a number."""
    return re.fullmatch(r"[^=:;/]+=[-+.\deE]+", value) is not None


def _folder_name(point: Mapping[str, str]) -> str:
    """Return a readable name; it needn't be unique, since a number stands before it."""
    text = ",".join(f"{name}={value}" for name, value in point.items()) or "run"
    return re.sub(r"[^\w.,=+-]", "_", text, flags=re.ASCII)[:_LONGEST_NAME]
