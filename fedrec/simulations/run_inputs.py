"""Convert a run's photos to model inputs, on disk for the workers; runs with the same inputs share them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from fedrec.observability.progress import Stage, Tell
from fedrec.server.evaluation import EvaluationData
from fedrec.simulations.data_sources import write_arrays
from fedrec.simulations.run_folder import scratch_folder
from fedrec.simulations.run_setup import SimulationRun
from fedrec.vision.imageset import ImageSet
from fedrec.vision.model_inputs import model_inputs, to_inputs

VALIDATION_RECORDS = 500
"""The accuracy of each round is measured on at most this many validation records."""


@dataclass(frozen=True)
class Inputs:
    """The model inputs.

    Attributes:
        arrays: folder of the merchants' inputs.
        metrics: what the final model is evaluated on.
        validation: what each round is evaluated on; None if no record fell into that split.
    """

    arrays: Path
    metrics: EvaluationData
    validation: EvaluationData | None


class KeptInputs:
    """The model inputs of the last run, for the next ones that take the same; a context that deletes them."""

    def __init__(self) -> None:
        self._kind: object = None
        self._inputs: Inputs | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.drop()

    def drop(self) -> None:
        """Delete the inputs."""
        if self._inputs is not None:
            shutil.rmtree(self._inputs.arrays, ignore_errors=True)
        self._inputs = None

    def of(self, run: SimulationRun, *, tell: Tell) -> Inputs:
        """Return a run's inputs; they are made unless the last run had the same.

        Args:
            run: the run.
            tell: called with the progress.

        Returns:
            The inputs.
        """
        splits = run.source.splits
        kind = (
            run.task.spec,
            run.task.shape,
            run.plan.views,
            [(share.name, share.indices.tobytes()) for share in run.source.shares],
            *([record.digest for record in part.records] for part in (splits.train, splits.metrics)),
            None if splits.validation is None else [record.digest for record in splits.validation.records],
        )
        if self._inputs is None or kind != self._kind:
            self.drop()
            arrays = scratch_folder()
            try:
                self._inputs = prepare_inputs(run, arrays=arrays, tell=tell)
            except BaseException:
                shutil.rmtree(arrays, ignore_errors=True)
                raise
            self._kind = kind
        return self._inputs


def prepare_inputs(run: SimulationRun, *, arrays: Path, tell: Tell) -> Inputs:
    """Convert photos to model inputs.

    Args:
        run: the run.
        arrays: folder to write the merchants' inputs to.
        tell: called with the progress.

    Returns:
        The inputs.
    """
    spec, shape, splits = run.task.spec, run.task.shape, run.source.splits

    def features(images: ImageSet, name: str, *, views: int) -> NDArray[np.generic]:
        return model_inputs(
            images,
            spec,
            shape,
            views=views,
            progress=lambda done, total: tell(Stage(name, done, total)),
        )

    def evaluation(images: ImageSet, name: str) -> EvaluationData:
        inputs = to_inputs(features(images, name, views=1), spec)
        return EvaluationData(inputs=inputs[:, 0], labels=images.labels)

    train = features(splits.train, "preparing photos", views=run.plan.views)
    for share in run.source.shares:
        mine = splits.train.subset(share.indices)
        write_arrays(
            arrays / share.name,
            train[share.indices],
            mine.labels,
            digests=[record.digest for record in mine.records],
        )
    metrics = evaluation(splits.metrics, "preparing evaluation")
    validation: EvaluationData | None = None
    if splits.validation is splits.metrics:
        validation = metrics
    elif splits.validation is not None:
        validation = evaluation(splits.validation, "preparing validation")
    rounds_validation = None if validation is None else validation.subsample(VALIDATION_RECORDS)
    return Inputs(arrays=arrays, metrics=metrics, validation=rounds_validation)
