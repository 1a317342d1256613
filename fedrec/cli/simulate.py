"""``fedrec simulate``: a whole federated run on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from fedrec.cli.console import progress_bar
from fedrec.config import load_config
from fedrec.simulations.harness import simulate as run_simulation
from fedrec.simulations.summary import summarise


def simulate(
    config: Annotated[
        Path | None, typer.Option(help="TOML file with a [simulate] table; flags override it.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of class folders, or of merchant folders with class folders.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="synthetic (default), fashion-mnist or cifar10.")
    ] = None,
    data_root: Annotated[Path | None, typer.Option(help="Where the named data set is kept.")] = None,
    eval_data: Annotated[
        Path | None, typer.Option(help="Public class folders to evaluate on instead.")
    ] = None,
    merchants: Annotated[
        int | None, typer.Option(help="Virtual merchants (8, or the folders there are).")
    ] = None,
    partition: Annotated[str | None, typer.Option(help="iid, dirichlet:ALPHA or folder.")] = None,
    model: Annotated[str | None, typer.Option(help="cnn, cnn-ws, resnet18 or effnet-lite0-head.")] = None,
    unit: Annotated[
        str | None, typer.Option(help="What is hidden: record (default), or product, a folder in a class.")
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds (the model's default).")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Step size (the model's default).")] = None,
    optimizer: Annotated[
        str | None,
        typer.Option(help="sgd (default), adam, adamw or yogi, and settings: sgd:momentum=0.9,..."),
    ] = None,
    server_learning_rate: Annotated[
        float | None, typer.Option(help="Step size of the server, where merchants take their own (1).")
    ] = None,
    averaging: Annotated[
        float | None, typer.Option(help="Decay of the parameters' moving average (the model's); 0 for none.")
    ] = None,
    local_steps: Annotated[
        int | None, typer.Option(help="Noised steps a round, with --privacy local or off.")
    ] = None,
    augment: Annotated[
        bool | None, typer.Option("--augment/--no-augment", help="Average augmented views of a record.")
    ] = None,
    privacy: Annotated[str | None, typer.Option(help="distributed (default), local or off.")] = None,
    epsilon: Annotated[float | None, typer.Option(help="Privacy budget of the run (8).")] = None,
    delta: Annotated[
        float | None, typer.Option(help="1 / (10 x the smallest merchant), unless given.")
    ] = None,
    sample_rate: Annotated[float | None, typer.Option(help="Poisson sampling rate of a round.")] = None,
    clip: Annotated[float | None, typer.Option(help="Largest L2 norm of one record's gradient.")] = None,
    clipping: Annotated[
        str | None, typer.Option(help="fixed (default), or automatic (AUTO-S): every norm is brought to C.")
    ] = None,
    secure_aggregation: Annotated[str | None, typer.Option(help="kahe (default), ckks or none.")] = None,
    committee: Annotated[int | None, typer.Option(help="Merchants that hold key shares.")] = None,
    threshold: Annotated[int | None, typer.Option(help="Committee members needed to open a sum.")] = None,
    corrupt_members: Annotated[
        int | None, typer.Option(help="Committee members, at most, that are withstood if corrupt.")
    ] = None,
    min_contributors: Annotated[int | None, typer.Option(help="Fewest merchants in an opened sum.")] = None,
    colluders: Annotated[
        int | None, typer.Option(help="Merchants assumed to side with the server (5%, at least 1).")
    ] = None,
    drop: Annotated[float | None, typer.Option(help="Chance that a merchant drops out of a round.")] = None,
    crash: Annotated[
        float | None, typer.Option(help="Chance that a merchant crashes in its step of a round.")
    ] = None,
    engine: Annotated[str | None, typer.Option(help="local (default) or ray.")] = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes (one per core).")] = None,
    device: Annotated[str | None, typer.Option(help="auto (default), cpu or cuda[:i].")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Make the run repeatable; its noise is then no secret.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory (runs/TIME).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Run a whole federated training on this machine: real noise, real encryption, real ledgers."""
    flags = {
        "data": data,
        "dataset": dataset,
        "data_root": data_root,
        "eval_data": eval_data,
        "merchants": merchants,
        "partition": partition,
        "model": model,
        "unit": unit,
        "rounds": rounds,
        "learning_rate": learning_rate,
        "optimizer": optimizer,
        "server_learning_rate": server_learning_rate,
        "averaging": averaging,
        "local_steps": local_steps,
        "augment": augment,
        "privacy": privacy,
        "epsilon": epsilon,
        "delta": delta,
        "sample_rate": sample_rate,
        "clip": clip,
        "clipping": clipping,
        "secure_aggregation": secure_aggregation,
        "committee": committee,
        "threshold": threshold,
        "corrupt_members": corrupt_members,
        "min_contributors": min_contributors,
        "colluders": colluders,
        "drop": drop,
        "crash": crash,
        "engine": engine,
        "workers": workers,
        "device": device,
        "seed": seed,
        "out": out,
    }
    resolved = load_config(config, flags)
    with progress_bar(quiet=as_json) as tell:
        result = run_simulation(resolved, tell=tell)
    typer.echo(json.dumps(result.report, indent=2) if as_json else summarise(result.report, result.folder))
