"""``fedrec simulate``: data, merchants, server and report of one whole run on this machine."""

from __future__ import annotations

import json
import os
import resource
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import Context, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray
from safetensors.numpy import save_file
from torch import nn

from fedrec.clients.policy import MerchantPolicy
from fedrec.config import SimulationConfig
from fedrec.errors import ConfigError, InterruptedRunError
from fedrec.flower import require_ray
from fedrec.privacy.derive import derive
from fedrec.privacy.dp.clipping import parameter_vector
from fedrec.privacy.identity import SigningIdentity
from fedrec.server.app import build_server_app
from fedrec.server.checkpoint import Checkpoint, write_atomically
from fedrec.server.coordinator import Coordinator, RoundRecord
from fedrec.server.evaluation import EvaluationData, accuracy, probabilities
from fedrec.server.optimizer import ServerOptimizer
from fedrec.simulations.faults import Dropouts
from fedrec.simulations.local_grid import LocalGrid
from fedrec.simulations.merchants import SimulatedMerchants, create_home, to_inputs
from fedrec.simulations.page import render
from fedrec.simulations.planning import check_options, make_plan, resolved, settle
from fedrec.simulations.ray_engine import RayGrid
from fedrec.simulations.report import RoundLine, RunFacts, build_report, epsilon_after
from fedrec.simulations.sources import input_shape, model_inputs, open_source, write_arrays
from fedrec.vision.imageset import ImageSet
from fedrec.vision.metrics import evaluate
from fedrec.vision.models import registry

VALIDATION_RECORDS = 1000
"""The accuracy of each round is measured on at most this many validation records."""


@dataclass(frozen=True)
class Stage:
    """Progress to show: ``done`` of ``total``, a short note, and a plain line where there is no terminal."""

    name: str
    done: int
    total: int
    note: str = ""
    plain: str = ""


@dataclass(frozen=True)
class SimulationResult:
    """The report and the run directory that holds it."""

    report: dict[str, Any]
    folder: Path


def simulate(
    config: SimulationConfig, *, tell: Callable[[Stage], None] = lambda stage: None
) -> SimulationResult:
    """Run a simulation and write its run directory.

    Raises a ``FedrecError`` with one clear line for anything that the options or the data get wrong,
    and ``InterruptedRunError`` after Ctrl-C, when the run directory holds what was finished.
    """
    started = time.monotonic()
    if config.engine == "ray":
        require_ray()
    spec = registry.get(config.model)
    device = pick_device(config.device)
    check_options(config, spec)
    check_run_folder(config.out)
    tell(Stage("reading the data", 0, 1))
    source = open_source(config)
    tell(Stage("reading the data", 1, 1))
    merchants = len(source.shares)
    settings = settle(config, spec, merchants=merchants)
    run_id = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ") + "-" + secrets.token_hex(3)
    shape = input_shape(source.splits.train, spec)
    model = spec.build(
        classes=len(source.classes), channels=shape.channels, size=shape.size, seed=config.seed or 0
    ).to(device)
    initial = parameter_vector(model).astype(np.float32).astype(np.float64)
    identities = {share.name: SigningIdentity.generate() for share in source.shares}
    plan = make_plan(
        config, settings, source=source, spec=spec, shape=shape, initial=initial, identities=identities
    )
    derived = derive(plan)
    # Nothing is left behind by options that don't work, so that --out can be given again.
    folder = make_run_folder(config.out, run_id)
    write_atomically(folder / "config.toml", resolved(config, plan, settings).to_toml().encode())
    homes = folder / "merchants"
    homes.mkdir()
    for name, identity in identities.items():
        create_home(homes / name, identity=identity)

    def features(images: ImageSet, name: str, *, augment: bool) -> NDArray[np.uint8] | NDArray[np.float32]:
        return model_inputs(
            images, spec, shape, augment=augment, progress=lambda done, total: tell(Stage(name, done, total))
        )

    def evaluation(images: ImageSet, name: str) -> EvaluationData:
        inputs = to_inputs(features(images, name, augment=False), spec.name)
        return EvaluationData(inputs=inputs[:, 0], labels=images.labels)

    arrays = Path(tempfile.mkdtemp(prefix="fedrec-"))
    workers = min(config.workers or os.cpu_count() or 1, merchants)
    lines: list[RoundLine] = []
    refusals: dict[str, str] = {}
    interrupted = False
    optimizer = ServerOptimizer.start(
        initial,
        learning_rate=settings.learning_rate,
        momentum=settings.momentum,
        ema_decay=settings.ema,
    )
    engine = RayGrid if config.engine == "ray" else LocalGrid
    grid: LocalGrid | RayGrid | None = None
    metrics = None
    try:
        train_inputs = features(source.splits.train, "preparing photos", augment=config.augment)
        for share in source.shares:
            write_arrays(
                arrays / share.name, train_inputs[share.indices], source.splits.train.labels[share.indices]
            )
        del train_inputs
        metrics_data = evaluation(source.splits.metrics, "preparing evaluation")
        validation = metrics_data
        if source.splits.validation is not None and source.splits.validation is not source.splits.metrics:
            validation = evaluation(source.splits.validation, "preparing validation")
        validation = validation.head(VALIDATION_RECORDS)

        def on_round(record: RoundRecord) -> None:
            line = RoundLine(
                record=record,
                accuracy=accuracy(model, optimizer.model, validation),
                epsilon=epsilon_after(plan, derived, steps=record.round * plan.local_steps),
            )
            lines.append(line)
            with (folder / "rounds.jsonl").open("a") as file:
                file.write(json.dumps(line.to_dict()) + "\n")
            tell(_round_stage(line, plan.rounds))

        grid = engine(
            SimulatedMerchants(
                homes=homes.resolve(),
                arrays=arrays,
                names=tuple(share.name for share in source.shares),
                policy=MerchantPolicy(
                    modes=frozenset({config.privacy}), schemes=frozenset({config.secure_aggregation})
                ),
                device=str(device),
                seed=config.seed,
                keep_open=config.engine == "local",
            ),
            merchants=merchants,
            workers=workers,
            dropouts=Dropouts(config.drop, config.seed or 0) if config.drop else None,
        )

        def make_coordinator(grid: Grid, context: Context) -> Coordinator:
            return Coordinator(
                grid=grid,
                plan=plan,
                optimizer=optimizer,
                checkpoint=Checkpoint(folder / "server"),
                on_round=on_round,
                refusals=refusals,
            )

        tell(
            Stage("training", 0, plan.rounds, plain=f"training: {merchants} merchants, {plan.rounds} rounds")
        )
        context = Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config={})
        build_server_app(make_coordinator)(grid, context)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        if grid is not None:
            grid.close()
        shutil.rmtree(arrays, ignore_errors=True)
    if lines:
        scores = probabilities(model, optimizer.model, metrics_data)
        metrics = evaluate(scores, metrics_data.labels, classes=source.classes)
        save_file(named_parameters(model), folder / "model.safetensors")
    report = build_report(
        config=config,
        plan=plan,
        derived=derived,
        source=source,
        facts=RunFacts(
            id=run_id,
            seconds=time.monotonic() - started,
            workers=workers,
            peak_memory_bytes=peak_memory_bytes(),
            interrupted=interrupted,
        ),
        lines=lines,
        metrics=metrics,
        homes=homes,
        refusals=refusals,
    )
    write_atomically(folder / "report.json", json.dumps(report, indent=2, allow_nan=False).encode())
    write_atomically(folder / "report.html", render(report).encode())
    if interrupted:
        raise InterruptedRunError(
            f"stopped after {len(lines)} of {plan.rounds} rounds; {folder} holds the results"
        )
    return SimulationResult(report=report, folder=folder)


def named_parameters(model: nn.Module) -> dict[str, NDArray[np.float32]]:
    """Return a model's trainable parameters by name, as they go into ``model.safetensors``."""
    return {
        name: parameter.detach().float().cpu().numpy()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def _round_stage(line: RoundLine, total: int) -> Stage:
    record = line.record
    shown = "-" if line.accuracy is None else f"{line.accuracy:.1%}"
    budget = "" if line.epsilon is None else f", epsilon {line.epsilon:.2f}"
    note = f"accuracy {shown}{budget}" + ("" if record.opened else f", lost: {record.reason}")
    plain = f"round {record.round}/{total}: {note}, {record.seconds:.1f} s"
    return Stage("training", record.round, total, note=note, plain=plain)


def pick_device(name: str) -> torch.device:
    """Return the device to train on; ``auto`` takes a GPU if there is one.

    Raises ``ConfigError`` when a GPU is asked for and absent.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (
        not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()
    ):
        raise ConfigError(f"--device {name}: there is no such GPU here; choose auto or cpu")
    return device


def check_run_folder(out: Path | None) -> None:
    """Raise ``ConfigError`` when ``--out`` is no folder, or holds something already."""
    try:
        if out is not None and out.exists() and any(out.iterdir()):
            raise ConfigError(f"--out {out} is not empty: choose another folder, nothing is ever overwritten")
    except OSError as error:
        raise ConfigError(f"--out {out} can't be used: {error.strerror}") from None


def make_run_folder(out: Path | None, run_id: str) -> Path:
    """Make the run directory; ``ConfigError`` when it can't be made or holds something already."""
    folder = out if out is not None else Path("runs") / run_id
    try:
        folder.mkdir(parents=True, exist_ok=True)
        check_run_folder(folder)
    except OSError as error:
        raise ConfigError(f"--out {folder} can't be made: {error.strerror}") from None
    return folder


def peak_memory_bytes() -> int:
    """Return the peak of this process plus the largest worker's, in bytes."""
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return (own + largest) * 1024
