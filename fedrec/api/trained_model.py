"""A trained model from a run: its network, its classes, and its predictions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fedrec._internal.files import read_regular
from fedrec._internal.validation_messages import problem_text
from fedrec.api.user_data import Labelled, read_pictures, read_test
from fedrec.api.user_model import is_user_model, user_model_spec
from fedrec.errors import ConfigError
from fedrec.privacy.dp.vectors import parameter_vector
from fedrec.protocol.plan import TrainingPlan
from fedrec.server.evaluation import EvaluationData, probabilities
from fedrec.vision import model_registry
from fedrec.vision.imageset import ImageSet
from fedrec.vision.metrics import Metrics, evaluate
from fedrec.vision.model_inputs import InputShape, model_inputs, to_inputs
from fedrec.vision.model_spec import ModelSpec
from fedrec.vision.stored_parameters import load_network


@dataclass(frozen=True)
class TrainedModel:
    """A trained network with the preparation of its pictures.

    Attributes:
        network: maps prepared pictures, (n, channels, size, size) float32, to scores, (n, classes).
        classes: class names, in the order of the scores.
    """

    network: nn.Module
    classes: tuple[str, ...]
    _spec: ModelSpec
    _shape: InputShape

    def probabilities(self, pictures: Any) -> NDArray[np.float64]:
        """Return the probability of each class, (n, classes), for an array or a sequence of pictures."""
        return self._of(read_pictures(pictures))

    def predict(self, pictures: Any) -> list[str]:
        """Return the most probable class of each picture."""
        return [self.classes[index] for index in self.probabilities(pictures).argmax(axis=1).tolist()]

    def evaluate(self, photos: Labelled) -> Metrics:
        """Return accuracy, F1 and more on labelled photos; ``DataError`` where they don't fit."""
        images = read_test(photos, classes=self.classes)
        return evaluate(self._of(images), images.labels, classes=self.classes)

    def _of(self, images: ImageSet) -> NDArray[np.float64]:
        prepared = model_inputs(images, self._spec, self._shape, views=1, progress=lambda done, total: None)
        inputs = to_inputs(prepared, self._spec)[:, 0]
        return probabilities(
            self.network, parameter_vector(self.network), EvaluationData(inputs=inputs, labels=images.labels)
        )


def as_trained_model(network: nn.Module, plan: TrainingPlan, spec: ModelSpec) -> TrainedModel:
    """Combine a training's network with its classes and its preparation of pictures.

    Args:
        network: the trained network.
        plan: the training's plan.
        spec: the model.

    Returns:
        The model.
    """
    return TrainedModel(network, plan.classes, spec, InputShape(plan.channels, plan.image_size))


def load_model(run: str | Path, *, model: Callable[[], nn.Module] | None = None) -> TrainedModel:
    """Load the final model of a run or of a deployed training.

    Args:
        run: the run directory, or a training's folder on the server.
        model: the factory that it was trained with, for a user's own model.

    Returns:
        The model, in evaluation mode.

    Raises:
        ConfigError: the folder holds no model, one whose layers differ from those of ``model``, or one whose
            installed code or added backbone isn't here as the training had it.
    """
    folder = Path(run)
    try:
        plan = TrainingPlan.model_validate_json(read_regular(folder / "plan.json"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder} holds no trained model: {problem_text(error)}") from None
    if model is None and is_user_model(plan.model):
        raise ConfigError(f"{folder} holds a model of your own, {plan.model}: give its factory as model=")
    code = plan.model_code
    spec = model_registry.get_exact(plan.model, code) if model is None else user_model_spec(model)
    shape = InputShape(plan.channels, plan.image_size)
    network = load_network(spec, folder, classes=len(plan.classes), shape=shape)
    return as_trained_model(network, plan, spec)
