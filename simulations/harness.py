"""``fedrec simulate``: data, merchants, server and report of one whole run on this machine."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flwr.app import Context, RecordDict
from flwr.serverapp import Grid
from safetensors.numpy import save_file

from fedrec.config import SimulationConfig
from fedrec.errors import InterruptedRunError, TrainingError
from fedrec.files import write_atomically
from fedrec.privacy.dp.vectors import named_parameters
from fedrec.server.app import build_server_app
from fedrec.server.checkpoint import Checkpoint
from fedrec.server.coordinator import Coordinator, RoundRecord
from fedrec.server.evaluation import accuracy, probabilities
from fedrec.server.optimizer import ServerOptimizer
from fedrec.server.receipts import ReceiptBook
from fedrec.server.report.build import RoundLine, RunFacts, build_report, epsilon_after
from fedrec.server.report.page import render
from fedrec.simulations.events import EventWriter
from fedrec.simulations.faults import Dropouts
from fedrec.simulations.local_grid import LocalGrid
from fedrec.simulations.memory import MemoryMeter
from fedrec.simulations.preparation import (
    Inputs,
    Prepared,
    Stage,
    Tell,
    prepare,
    prepare_inputs,
    scratch_folder,
    simulated_merchants,
    worker_count,
)
from fedrec.simulations.ray_engine import RayGrid
from fedrec.simulations.report import data_section, merchants_cost, per_merchant
from fedrec.vision.metrics import Metrics, evaluate


@dataclass(frozen=True)
class SimulationResult:
    """The report and the run directory that holds it."""

    report: dict[str, Any]
    folder: Path


@dataclass
class _Progress:
    """What a run has so far, whole at any interruption."""

    optimizer: ServerOptimizer
    lines: list[RoundLine] = field(default_factory=list)
    refusals: dict[str, str] = field(default_factory=dict)
    inputs: Inputs | None = None
    interrupted: bool = False


def simulate(config: SimulationConfig, *, tell: Tell = lambda stage: None) -> SimulationResult:
    """Run a simulation and write its run directory.

    Raises a ``FedrecError`` with one clear line for anything that the options or the data get wrong,
    ``InterruptedRunError`` after Ctrl-C, when the run directory holds what was finished, and
    ``TrainingError`` when no round at all was opened.
    """
    started = time.monotonic()
    with MemoryMeter() as memory:
        run = prepare(config, tell=tell)
        progress = _Progress(run.start_optimizer())
        arrays = scratch_folder()
        try:
            progress.inputs = prepare_inputs(run, config, arrays=arrays, tell=tell)
            _train(run, config, progress, progress.inputs, tell=tell)
        except KeyboardInterrupt:
            progress.interrupted = True
        finally:
            shutil.rmtree(arrays, ignore_errors=True)
    metrics = _final_metrics(run, progress)
    merchants, problems = per_merchant(run.plan, run.source, run.homes)
    report = build_report(
        plan=run.plan,
        derived=run.derived,
        facts=RunFacts(
            id=run.run_id,
            engine=config.engine,
            seconds=time.monotonic() - started,
            peak_memory_bytes=memory.peak_bytes,
            interrupted=progress.interrupted,
            rounds_reserved=_checkpoint(run).last_reserved(),
            seeded=config.seed is not None,
            workers=worker_count(config, merchants=run.plan.cohort),
            dataset=run.source.name,
            partition=config.partition,
            seed=config.seed,
            seconds_train=merchants_cost(run.homes, "seconds_train"),
            seconds_encrypt=merchants_cost(run.homes, "seconds_encrypt"),
        ),
        lines=progress.lines,
        metrics=metrics,
        split=run.source.splits.metrics_split,
        data=data_section(run.source),
        per_merchant=merchants,
        refusals=progress.refusals,
        problems=problems,
    )
    write_atomically(run.folder / "report.json", json.dumps(report, indent=2, allow_nan=False).encode())
    write_atomically(run.folder / "report.html", render(report).encode())
    if progress.interrupted:
        raise InterruptedRunError(
            f"stopped after {len(progress.lines)} of {run.plan.rounds} rounds; {run.folder} holds the results"
        )
    if not any(line.record.opened for line in progress.lines):
        raise TrainingError(
            f"not one of {run.plan.rounds} rounds was opened ({progress.lines[0].record.reason}): "
            f"the model is untrained; {run.folder} holds the report"
        )
    return SimulationResult(report=report, folder=run.folder)


def _train(
    run: Prepared, config: SimulationConfig, progress: _Progress, inputs: Inputs, *, tell: Tell
) -> None:
    """Run every round over the engine that the options name."""
    events = EventWriter(run.folder)

    def on_round(record: RoundRecord) -> None:
        line = RoundLine(
            record=record,
            accuracy=accuracy(run.model, progress.optimizer.model, inputs.validation),
            epsilon=epsilon_after(run.plan, run.derived, steps=record.round * run.plan.local_steps),
        )
        progress.lines.append(line)
        with (run.folder / "rounds.jsonl").open("a") as file:
            file.write(json.dumps(line.to_dict()) + "\n")
        events.write(line)
        tell(_round_stage(line, run.plan.rounds))

    def make_coordinator(grid: Grid, context: Context) -> Coordinator:
        return Coordinator(
            grid=grid,
            plan=run.plan,
            optimizer=progress.optimizer,
            checkpoint=_checkpoint(run),
            receipts=ReceiptBook(run.folder / "receipts.jsonl", identity=run.server),
            on_round=on_round,
            refusals=progress.refusals,
        )

    cohort, rounds = run.plan.cohort, run.plan.rounds
    tell(Stage("training", 0, rounds, plain=f"training: {cohort} merchants, {rounds} rounds"))
    server_app = build_server_app(make_coordinator)
    merchants = simulated_merchants(run, config, arrays=inputs.arrays)
    dropouts = Dropouts(config.drop, config.seed or 0) if config.drop else None
    engine = RayGrid if config.engine == "ray" else LocalGrid
    grid = engine(
        merchants,
        merchants=cohort,
        workers=worker_count(config, merchants=cohort),
        dropouts=dropouts,
    )
    try:
        context = Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config={})
        server_app(grid, context)
    finally:
        grid.close()
        events.close()


def _checkpoint(run: Prepared) -> Checkpoint:
    return Checkpoint(run.folder / "server", training_id=run.plan.training_id)


def _final_metrics(run: Prepared, progress: _Progress) -> Metrics | None:
    """Evaluate and store the model, if there was a round at all."""
    if not progress.lines or progress.inputs is None:
        return None
    data = progress.inputs.metrics
    scores = probabilities(run.model, progress.optimizer.model, data)
    save_file(named_parameters(run.model), run.folder / "model.safetensors")
    return evaluate(scores, data.labels, classes=run.source.classes)


def _round_stage(line: RoundLine, total: int) -> Stage:
    record = line.record
    shown = "-" if line.accuracy is None else f"{line.accuracy:.1%}"
    budget = "" if line.epsilon is None else f", epsilon {line.epsilon:.2f}"
    note = f"accuracy {shown}{budget}" + ("" if record.opened else f", lost: {record.reason}")
    plain = f"round {record.round}/{total}: {note}, {record.seconds:.1f} s"
    return Stage("training", record.round, total, note=note, plain=plain)
