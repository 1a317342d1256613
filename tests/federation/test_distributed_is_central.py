"""Distributed noise on Fashion-MNIST: the accuracy of pooled central DP-SGD, which `local` hasn't."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import dp_accounting
import numpy as np
import pytest
import torch
from dp_accounting.pld import PLDAccountant

from fedrec.config import load_config
from fedrec.privacy.dp.clipping import RecordClipper
from fedrec.privacy.dp.vectors import load_parameter_vector, parameter_vector
from fedrec.server.evaluation import EvaluationData, score
from fedrec.server.optimizers.sgd import Sgd
from fedrec.server.weights import Weights
from fedrec.simulations.data_sources import open_source
from fedrec.simulations.harness import simulate
from fedrec.vision import model_registry
from fedrec.vision.datasets import ImageSet
from fedrec.vision.model_inputs import to_inputs

MERCHANTS, EPSILON, DELTA = 10, 1.0, 1e-5
DATA = os.environ.get("FEDREC_TEST_DATA")
OPTIONS = {
    "dataset": "fashion-mnist",
    "merchants": MERCHANTS,
    "model": "cnn",
    "epsilon": EPSILON,
    "delta": DELTA,
}


def pixels(images: ImageSet) -> np.ndarray:
    found = images.pixels()
    assert found is not None
    return found


def central_accuracy(root: Path) -> float:
    """DP-SGD on all photos in one place, with the same settings, by an analysis of dp-accounting's own."""
    spec = model_registry.get("cnn")
    settings = spec.defaults
    source = open_source(load_config(None, {**OPTIONS, "data_root": root}))
    train, test = source.splits.train, source.splits.metrics
    inputs = to_inputs(pixels(train)[:, None], model_registry.get("cnn"))
    labels = torch.from_numpy(train.labels)
    evaluation = EvaluationData(
        inputs=to_inputs(pixels(test)[:, None], model_registry.get("cnn"))[:, 0], labels=test.labels
    )
    model = spec.build(classes=10, channels=1, size=28, seed=0)
    rate, rounds, clip = settings.sample_rate, settings.rounds, settings.clip
    noise = dp_accounting.calibrate_dp_mechanism(
        PLDAccountant,
        lambda sigma: dp_accounting.SelfComposedDpEvent(
            dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(sigma)), rounds
        ),
        EPSILON,
        DELTA,
    )
    initial = parameter_vector(model)
    rule = Sgd(initial.size, learning_rate=settings.learning_rate, momentum=settings.momentum)
    weights = Weights.start(initial, rule, averaging=settings.ema)
    chance = np.random.default_rng()
    with RecordClipper(model, clip=clip) as clipper:
        for _ in range(rounds):
            load_parameter_vector(model, weights.parameters)
            chosen = np.flatnonzero(chance.random(len(labels)) < rate)
            total = clipper.clipped_sum(inputs[chosen], labels[chosen])
            total += chance.normal(0, noise * clip, total.size)
            weights.step(total / (rate * len(labels)))
    return score(model, weights.reported, evaluation).accuracy


def simulated(root: Path, out: Path, **options: Any) -> tuple[float, float]:
    report = simulate(
        load_config(None, {**OPTIONS, "data_root": root, "out": out, **options})
    ).report.to_json()
    return report["metrics"]["accuracy"], report["privacy"]["epsilon"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(DATA is None, reason="FEDREC_TEST_DATA names no data")
def test_distributed_noise_is_as_good_as_central_and_local_noise_is_not(tmp_path: Path) -> None:
    root = Path(str(DATA)) / "fashion-mnist"
    distributed, epsilon = simulated(root, tmp_path / "distributed")
    central = central_accuracy(root)
    local, local_epsilon = simulated(root, tmp_path / "local", privacy="local")
    print(f"distributed {distributed:.4f} (epsilon {epsilon:.2f}), central {central:.4f}, local {local:.4f}")
    assert epsilon <= EPSILON and local_epsilon <= EPSILON
    assert distributed >= central - 0.01
    assert local < distributed - 0.005
