"""Implement ``fedrec compare``: one table, one plot and one page for several finished runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from fedrec.cli.comparison_table import print_comparison
from fedrec.cli.generated_options import fields_as_options
from fedrec.cli.json_output import print_json
from fedrec.simulations.comparison.finished_runs import read_runs
from fedrec.simulations.comparison.output import PAGE, write_comparison
from fedrec.simulations.comparison.rows import compare as compare_runs
from fedrec.simulations.run_folder import check_run_folder, make_run_folder, run_name


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """Options of ``fedrec compare``; each is described by its help."""

    runs: Annotated[list[Path], typer.Argument(help="Run directories and folders of sweeps.")]
    out: Annotated[Path | None, typer.Option(help="New folder for the page (runs/comparison-TIME).")] = None
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False


@fields_as_options(CompareOptions)
def compare(given: CompareOptions) -> None:
    """Compare finished runs: accuracy with intervals, both epsilons, rounds, bytes, time; and baselines."""
    check_run_folder(given.out)
    comparison = compare_runs(*read_runs(given.runs))
    folder = make_run_folder(given.out, run_name("comparison"))
    write_comparison(folder, comparison)
    if given.as_json:
        print_json(comparison.to_dict())
        return
    print_comparison(comparison)
    typer.echo(f"page     {folder / PAGE}")
