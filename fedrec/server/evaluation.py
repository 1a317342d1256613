"""Evaluate a model on public or held-out data that no merchant trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedrec.privacy.dp.vectors import load_parameter_vector
from fedrec.vision.metrics import macro_f1

_BATCH = 32


@dataclass(frozen=True)
class EvaluationData:
    """Model inputs, shape (n, ...), float32, and labels, shape (n,), int64."""

    inputs: torch.Tensor
    labels: NDArray[np.int64]

    def subsample(self, count: int) -> EvaluationData:
        """Return at most ``count`` records, evenly spaced, since folders are sorted by class."""
        if len(self.labels) <= count:
            return self
        chosen = np.linspace(0, len(self.labels) - 1, count).round().astype(np.int64)
        return EvaluationData(inputs=self.inputs[torch.from_numpy(chosen)], labels=self.labels[chosen])


def probabilities(
    model: nn.Module, parameters: NDArray[np.float64], data: EvaluationData
) -> NDArray[np.float64]:
    """Return the class probabilities that a model predicts.

    Args:
        model: the network; its parameters are replaced.
        parameters: float64, shape (d,).
        data: n records.

    Returns:
        float64, shape (n, classes).
    """
    load_parameter_vector(model, parameters)
    model.eval()
    out: list[NDArray[np.float64]] = []
    device = next(model.parameters()).device
    with torch.no_grad():
        for start in range(0, len(data.labels), _BATCH):
            logits = model(data.inputs[start : start + _BATCH].to(device))
            out.append(torch.softmax(logits.double(), dim=1).cpu().numpy())
    return np.concatenate(out) if out else np.zeros((0, 0))


@dataclass(frozen=True)
class Scores:
    """How a round's model does: the share of records that are predicted right, and the mean F1 of classes."""

    accuracy: float
    f1_macro: float


def score(model: nn.Module, parameters: NDArray[np.float64], data: EvaluationData) -> Scores:
    """Compare the most probable classes with the labels.

    Args:
        model: the network; its parameters are replaced.
        parameters: float64, shape (d,).
        data: the records, one at least.

    Returns:
        The scores.
    """
    found = probabilities(model, parameters, data)
    predicted = found.argmax(axis=1)
    return Scores(
        accuracy=float(np.mean(predicted == data.labels)),
        f1_macro=macro_f1(predicted, data.labels, classes=found.shape[1]),
    )
