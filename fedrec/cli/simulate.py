"""Implement ``fedrec simulate``: a whole federated training on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedrec.cli.console import progress_bar
from fedrec.cli.generated_options import options_of
from fedrec.cli.json_output import print_json
from fedrec.config import SimulationConfig, load_config

if TYPE_CHECKING:
    from fedrec.simulations.harness import SimulationResult
    from fedrec.simulations.sweep import SweepResult


@options_of(SimulationConfig)
def simulate(
    flags: Mapping[str, Any],
    config: Annotated[
        Path | None, typer.Option(help="TOML file with a [simulate] table; flags override it.")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Continue a stopped run or sweep with its own options.")
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            help="OPTION=VALUE,VALUE,...: a run for each value (several times: for each combination)."
        ),
    ] = None,
    repeat: Annotated[int, typer.Option(help="Runs of each setting, with means and intervals.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Run a whole federated training on this machine: real noise, real encryption, real ledgers."""
    # Imported here: the help needs nothing that trains.
    from fedrec.simulations.harness import resume as resume_simulation
    from fedrec.simulations.harness import simulate as run_simulation
    from fedrec.simulations.run_summary import summarise
    from fedrec.simulations.sweep import SweepResult, resume_sweep, run_sweep
    from fedrec.simulations.sweep_folder import is_sweep
    from fedrec.simulations.sweep_points import read_sweep

    given = {"config": config, "sweep": sweep or None, "repeat": None if repeat == 1 else repeat, **flags}
    changed = {name: value for name, value in given.items() if value is not None}
    with progress_bar(quiet=as_json) as tell:
        result: SimulationResult | SweepResult
        if resume is not None and is_sweep(resume):
            result = resume_sweep(resume, changed=changed, tell=tell)
        elif resume is not None:
            result = resume_simulation(resume, changed=changed, tell=tell)
        elif sweep or repeat != 1:
            planned = read_sweep(sweep or [], repeats=repeat, config=config, flags=flags)
            result = run_sweep(planned, out=flags.get("out"), tell=tell)
        else:
            result = run_simulation(load_config(config, flags), tell=tell)
    if isinstance(result, SweepResult):
        _show_sweep(result, as_json=as_json)
    elif as_json:
        print_json(result.report.to_json())
    else:
        typer.echo(summarise(result.report, result.folder))


def _show_sweep(swept: SweepResult, *, as_json: bool) -> None:
    """Print the comparison of a sweep; raise the error of the runs that failed, if there are any."""
    from fedrec.cli.comparison_table import print_comparison
    from fedrec.simulations.comparison.output import PAGE

    if swept.comparison is not None and as_json:
        print_json(swept.comparison.to_dict())
    elif swept.comparison is not None:
        print_comparison(swept.comparison)
        typer.echo(f"page     {swept.folder / PAGE}")
    if swept.failure is not None:
        raise swept.failure
