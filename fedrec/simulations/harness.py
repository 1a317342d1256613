"""``fedrec simulate``: data, merchants, server and report of one whole run on this machine."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flwr.app import Context, RecordDict
from flwr.serverapp import Grid
from safetensors.numpy import save

from fedrec._internal import number_format
from fedrec._internal.files import append_lines, write_atomically
from fedrec.config import SimulationConfig
from fedrec.errors import FedrecError, InterruptedRunError, TrainingError
from fedrec.observability.progress import Stage, Tell
from fedrec.privacy.dp.vectors import load_parameter_vector, named_parameters
from fedrec.server.app import build_server_app
from fedrec.server.checkpoint import Checkpoint
from fedrec.server.coordinator import Coordinator
from fedrec.server.evaluation import accuracy, probabilities
from fedrec.server.receipts import ReceiptBook
from fedrec.server.report.build import RunFacts, build_report, epsilon_after
from fedrec.server.report.page import render
from fedrec.server.rounds import RoundLine, RoundRecord
from fedrec.server.weights import Weights
from fedrec.simulations.events import EventWriter
from fedrec.simulations.faults import Dropouts
from fedrec.simulations.interrupts import Interrupts
from fedrec.simulations.local_grid import LocalGrid
from fedrec.simulations.memory import MemoryMeter
from fedrec.simulations.preparation import (
    Inputs,
    Prepared,
    prepare,
    prepare_inputs,
    request_signer,
    scratch_folder,
    simulated_merchants,
    worker_count,
)
from fedrec.simulations.ray_engine import RayGrid
from fedrec.simulations.report import data_problems, data_section, merchants_cost, per_merchant
from fedrec.vision.metrics import Metrics, evaluate


@dataclass(frozen=True)
class SimulationResult:
    """The report and the run directory that holds it."""

    report: dict[str, Any]
    folder: Path


@dataclass
class _Progress:
    """What a run has so far, whole at any interruption."""

    weights: Weights
    lines: list[RoundLine] = field(default_factory=list)
    refusals: dict[str, str] = field(default_factory=dict)
    inputs: Inputs | None = None
    metrics: Metrics | None = None
    interrupted: bool = False
    failure: FedrecError | OSError | None = None
    worker_deaths: int = 0


def simulate(config: SimulationConfig, *, tell: Tell = lambda stage: None) -> SimulationResult:
    """Run a simulation and write its run directory.

    Raises a ``FedrecError`` with one clear line for anything that the options or the data get wrong,
    ``InterruptedRunError`` after Ctrl-C, and ``TrainingError`` when no round at all was opened. Once the run
    directory is made, it gets its report, and the model as far as it came, whatever ends the run.
    """
    started = time.monotonic()
    with MemoryMeter() as memory, Interrupts() as interrupts:
        with interrupts.allowed():
            run = prepare(config, tell=tell)
        progress = _Progress(run.start_weights())
        with _kept(progress), interrupts.allowed():
            _work(run, config, progress, tell=tell)
        with _kept(progress):
            _store_model(run, progress)
        with _kept(progress), interrupts.allowed():
            progress.metrics = _final_metrics(run, progress)
        report = _report(
            run,
            config,
            progress,
            seconds=time.monotonic() - started,
            peak_memory_bytes=memory.peak_bytes,
        )
        try:
            document = json.dumps(report, indent=2, allow_nan=False)
            write_atomically(run.folder / "report.json", document.encode())
            write_atomically(run.folder / "report.html", render(report).encode())
        except OSError as error:
            # What ended the run says more than that its report could not be written either.
            raise progress.failure or error from None
    if progress.interrupted:
        raise InterruptedRunError(
            f"stopped after {len(progress.lines)} of {run.plan.rounds} rounds; {run.folder} holds the results"
        )
    if isinstance(progress.failure, FedrecError):
        said = str(progress.failure).rstrip(".")
        raise type(progress.failure)(f"{said}; {run.folder} holds what was finished")
    if progress.failure is not None:
        raise progress.failure
    if not any(line.record.opened for line in progress.lines):
        raise TrainingError(
            f"not one of {run.plan.rounds} rounds was opened ({progress.lines[0].record.reason}): "
            f"the model is untrained; {run.folder} holds the report"
        )
    return SimulationResult(report=report, folder=run.folder)


@contextmanager
def _kept(progress: _Progress) -> Iterator[None]:
    """Keep what ends the work inside, for the report: Ctrl-C, or the first error that a person can mend."""
    try:
        yield
    except KeyboardInterrupt:
        progress.interrupted = True
    except (FedrecError, OSError) as error:
        progress.failure = progress.failure or error


def _work(run: Prepared, config: SimulationConfig, progress: _Progress, *, tell: Tell) -> None:
    arrays = scratch_folder()
    try:
        progress.inputs = prepare_inputs(run, config, arrays=arrays, tell=tell)
        _train(run, config, progress, progress.inputs, tell=tell)
    finally:
        shutil.rmtree(arrays, ignore_errors=True)


def _report(
    run: Prepared, config: SimulationConfig, progress: _Progress, *, seconds: float, peak_memory_bytes: int
) -> dict[str, Any]:
    reserved = _checkpoint(run).last_reserved()
    merchants, problems = per_merchant(run.plan, run.source, run.homes)
    problems += data_problems(run.source)
    if progress.failure is not None:
        problems.insert(0, f"FAILED: {progress.failure}")
    if progress.worker_deaths:
        problems.append(
            f"{progress.worker_deaths} worker process(es) died; the merchants that they were answering for "
            "dropped out of those rounds."
        )
    return build_report(
        plan=run.plan,
        derived=run.derived,
        facts=RunFacts(
            id=run.run_id,
            engine=config.engine,
            seconds=seconds,
            peak_memory_bytes=peak_memory_bytes,
            interrupted=progress.interrupted,
            rounds_reserved=reserved,
            seeded=config.seed is not None,
            workers=worker_count(config, merchants=run.plan.cohort),
            dataset=run.source.name,
            partition=config.partition,
            seed=config.seed,
            seconds_train=merchants_cost(run.homes, "seconds_train"),
            seconds_encrypt=merchants_cost(run.homes, "seconds_encrypt"),
        ),
        lines=progress.lines,
        metrics=progress.metrics,
        split=run.source.splits.metrics_split,
        data=data_section(run.source),
        per_merchant=merchants,
        refusals=progress.refusals,
        problems=problems,
    )


def _train(
    run: Prepared, config: SimulationConfig, progress: _Progress, inputs: Inputs, *, tell: Tell
) -> None:
    """Run every round over the engine that the options name."""
    cohort, rounds = run.plan.cohort, run.plan.rounds
    tell(Stage("training", 0, rounds, plain=f"training: {cohort} merchants, {rounds} rounds"))
    with ExitStack() as opened:
        events = EventWriter(run.folder)
        opened.callback(events.close)

        def on_round(record: RoundRecord) -> None:
            shown = None
            if inputs.validation is not None:
                shown = accuracy(run.model, progress.weights.reported, inputs.validation)
            line = RoundLine(
                record=record,
                accuracy=shown,
                epsilon=epsilon_after(run.plan, run.derived, steps=record.round * run.plan.local_steps),
            )
            progress.lines.append(line)
            append_lines(run.folder / "rounds.jsonl", [json.dumps(line.to_dict()).encode()])
            events.write(line)
            tell(_round_stage(line, rounds))

        def make_coordinator(grid: Grid, context: Context) -> Coordinator:
            return Coordinator(
                grid=grid,
                plan=run.plan,
                weights=progress.weights,
                checkpoint=_checkpoint(run),
                receipts=ReceiptBook(run.folder / "receipts.sqlite", identity=run.server),
                signer=request_signer(run, grid),
                on_round=on_round,
                refusals=progress.refusals,
            )

        engine = RayGrid if config.engine == "ray" else LocalGrid
        grid = engine(
            simulated_merchants(run, config, arrays=inputs.arrays),
            merchants=cohort,
            workers=worker_count(config, merchants=cohort),
            dropouts=Dropouts(config.drop, config.seed or 0) if config.drop else None,
        )
        opened.callback(grid.close)

        def note_deaths() -> None:
            progress.worker_deaths = grid.worker_deaths

        opened.callback(note_deaths)
        context = Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config={})
        build_server_app(make_coordinator)(grid, context)


def _checkpoint(run: Prepared) -> Checkpoint:
    return Checkpoint(run.folder / "server", training_id=run.plan.training_id)


def _store_model(run: Prepared, progress: _Progress) -> None:
    """Store the model as it is, if there was a round at all."""
    if progress.lines:
        load_parameter_vector(run.model, progress.weights.reported)
        write_atomically(run.folder / "model.safetensors", save(named_parameters(run.model)))


def _final_metrics(run: Prepared, progress: _Progress) -> Metrics | None:
    """Evaluate the model, if there was a round at all; ``DataError`` where its scores are not finite."""
    if not progress.lines or progress.inputs is None:
        return None
    data = progress.inputs.metrics
    scores = probabilities(run.model, progress.weights.reported, data)
    return evaluate(scores, data.labels, classes=run.source.classes)


def _round_stage(line: RoundLine, total: int) -> Stage:
    record = line.record
    shown = "-" if line.accuracy is None else f"{line.accuracy:.1%}"
    budget = "" if line.epsilon is None else f", epsilon {number_format.epsilon(line.epsilon)}"
    note = f"accuracy {shown}{budget}" + ("" if record.opened else f", lost: {record.reason}")
    plain = f"round {record.round}/{total}: {note}, {record.seconds:.1f} s"
    return Stage("training", record.round, total, note=note, plain=plain)
