"""Implement ``fedrec simulate``: a whole federated training on this machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from fedrec.cli.console import progress_bar
from fedrec.cli.generated_options import options_of
from fedrec.config import SimulationConfig, load_config
from fedrec.simulations.harness import resume as resume_simulation
from fedrec.simulations.harness import simulate as run_simulation
from fedrec.simulations.run_summary import summarise


@options_of(SimulationConfig)
def simulate(
    flags: Mapping[str, Any],
    config: Annotated[
        Path | None, typer.Option(help="TOML file with a [simulate] table; flags override it.")
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue a stopped run with its own options.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Run a whole federated training on this machine: real noise, real encryption, real ledgers."""
    with progress_bar(quiet=as_json) as tell:
        if resume is None:
            result = run_simulation(load_config(config, flags), tell=tell)
        else:
            given = {"config": config, **flags}
            changed = {name: value for name, value in given.items() if value is not None}
            result = resume_simulation(resume, changed=changed, tell=tell)
    typer.echo(json.dumps(result.report, indent=2) if as_json else summarise(result.report, result.folder))
