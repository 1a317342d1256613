"""What a bundle is made from: a finished run or training, or a backbone alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from torch import nn

from fedrec._internal.files import read_regular
from fedrec._internal.text import one_line
from fedrec._internal.validation_messages import problem_text
from fedrec.errors import ConfigError
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.training_report.metrics_section import MetricsSection
from fedrec.protocol.training_report.report import TrainingReport, read_report
from fedrec.recognition.bundle.manifest import Measured, Privacy, Training
from fedrec.vision import model_registry
from fedrec.vision.model_inputs import InputShape
from fedrec.vision.model_spec import ModelSpec
from fedrec.vision.splits import EVALUATION_SPLIT, VALIDATION_SPLIT
from fedrec.vision.stored_parameters import load_network

_LONGEST_WARNING = 1000


@dataclass(frozen=True)
class Source:
    """A model, and what is known of it.

    Attributes:
        spec: the model.
        shape: shape of its pictures.
        network: the trained network; None for a backbone alone.
        code: hash of the model's code where it isn't this package's own.
        classes: names, in the order of the scores; empty for a backbone alone.
        training: where it comes from.
        privacy: the guarantee.
        measured: figures of the training's report.
        warnings: of the training's report.
    """

    spec: ModelSpec
    shape: InputShape
    network: nn.Module | None
    code: str | None = None
    classes: tuple[str, ...] = ()
    training: Training | None = None
    privacy: Privacy | None = None
    measured: tuple[Measured, ...] = ()
    warnings: tuple[str, ...] = ()


def trained_source(folder: Path, *, spec: ModelSpec | None = None) -> Source:
    """Read a finished run, or a finished training of the server.

    Args:
        folder: the run directory, or the training's folder on the server.
        spec: the model, where it is the user's own; None to look it up.

    Returns:
        The source.

    Raises:
        ConfigError: the folder holds no finished training, or its model isn't here as it was trained.
    """
    try:
        plan = TrainingPlan.model_validate_json(read_regular(folder / "plan.json"))
        report = read_report(folder)
    except OSError as error:
        raise ConfigError(
            f"{folder} holds no finished training: {error.filename or folder}: {error.strerror}"
        ) from None
    except ValidationError as error:
        raise ConfigError(f"{folder}/plan.json is no plan: {problem_text(error)}") from None
    made = spec or model_registry.get_exact(plan.model, plan.model_code)
    shape = InputShape(plan.channels, plan.image_size)
    network = load_network(made, folder, classes=len(plan.classes), shape=shape)
    return Source(
        spec=made,
        shape=shape,
        network=network,
        code=plan.model_code,
        classes=plan.classes,
        training=_training(plan, report),
        privacy=_privacy(report),
        measured=_measured(report.metrics, chosen=plan.early_stopping is not None),
        warnings=tuple(one_line(text, most=_LONGEST_WARNING) for text in report.warnings),
    )


def backbone_source(model: str) -> Source:
    """Return the frozen networks of a model, without any training.

    Args:
        model: name of a model on frozen networks.

    Returns:
        The source.

    Raises:
        ConfigError: there is no such model, or it has no frozen networks.
        MissingExtraError: a package that it needs isn't installed.
    """
    spec = model_registry.get(model)
    if spec.features is None or spec.image_size is None:
        raise ConfigError(f"model {model} has no frozen networks: it can't be used without a training")
    spec.check()
    return Source(
        spec=spec,
        shape=InputShape(3, spec.image_size),
        network=None,
        code=model_registry.code_of(model),
    )


def _training(plan: TrainingPlan, report: TrainingReport) -> Training:
    return Training(
        training_id=plan.training_id,
        run=report.run.id,
        deployed=report.run.deployed,
        rounds=report.opened_rounds,
        merchants=len(plan.roster),
        records=plan.records_total,
    )


def _privacy(report: TrainingReport) -> Privacy:
    told = report.privacy
    return Privacy(
        mode=told.mode,
        unit=told.unit,
        scheme=report.secure_aggregation.scheme,
        epsilon=told.epsilon,
        epsilon_aggregation_broken=told.epsilon_aggregation_broken,
        delta=None if told.epsilon is None else told.delta,
        seeded=told.seeded,
    )


def _measured(metrics: MetricsSection, *, chosen: bool) -> tuple[Measured, ...]:
    if metrics.accuracy is None or metrics.f1_macro is None:
        return ()
    public = metrics.split == EVALUATION_SPLIT
    photos = (
        "public photos of the operator (--eval-data)"
        if public
        else f"the {metrics.split} split of the simulation's photos, of which no gradient was taken"
    )
    if chosen and metrics.split in (EVALUATION_SPLIT, VALIDATION_SPLIT):
        photos += "; the best round was chosen by them, so that the figure is too high"
    return (
        Measured(
            name="accuracy",
            value=metrics.accuracy,
            interval=metrics.accuracy_interval,
            photos=photos,
            covered=None if public else False,
        ),
        Measured(name="macro F1", value=metrics.f1_macro, photos=photos, covered=None if public else False),
    )
