"""A package of somebody else's adds a model, an optimizer and a data set, and fedrec isn't touched for it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "acme-fedrec"
version = "1.0"

[project.entry-points."fedrec.models"]
acme-net = "acme_fedrec.net:SPEC"

[project.entry-points."fedrec.optimizers"]
acme-sign = "acme_fedrec.sign:SPEC"

[project.entry-points."fedrec.datasets"]
acme-bars = "acme_fedrec.bars:SPEC"

[tool.setuptools]
packages = ["acme_fedrec"]
"""

NET = """
from torch import nn

from fedrec.vision.model_registry import ModelSpec
from fedrec.vision.training_recipes import TrainingDefaults

HALF = (0.5, 0.5, 0.5)


def make(classes, channels, size):
    return nn.Sequential(
        nn.Conv2d(channels, 6, 3, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(6 * size * size, 8), nn.LayerNorm(8), nn.Linear(8, classes),
    )


SPEC = ModelSpec(
    name="acme-net", image_size=None, margin=1.0, mean=HALF, std=HALF, features=None, make=make,
    defaults=TrainingDefaults(rounds=3, sample_rate=0.5, clip=1.0, learning_rate=0.5, momentum=0.0, ema=0.0),
)
"""

SIGN = """
import numpy as np

from fedrec.server.optimizers.interface import OptimizerSpec, Setting


class Sign:
    def __init__(self, rate):
        self.rate = rate

    def step(self, parameters, gradient):
        parameters -= self.rate * np.sign(gradient)

    def state(self):
        return {}

    def load(self, state):
        pass


SPEC = OptimizerSpec(
    name="acme-sign", settings={"scale": Setting(1.0, 0.0, 10.0)}, learning_rate=0.125,
    make=lambda dimension, rate, settings: Sign(rate * settings["scale"]),
)
"""

BARS = """
import numpy as np

from fedrec.vision.dataset_registry import DatasetSpec
from fedrec.vision.datasets import DataSplits, ImageSet, drop_duplicates


def bars(request):
    def split(count, seed):
        chance = np.random.default_rng(seed)
        labels = np.arange(count) % 2
        pictures = chance.integers(0, 90, (count, 8, 8, 1), dtype=np.uint8)
        pictures[labels == 0, :, 3] += 150
        pictures[labels == 1, 3] += 150
        return ImageSet.from_arrays(
            ["down", "level"], pictures, labels, names=[f"{seed}-{number:04d}" for number in range(count)]
        )

    return DataSplits(drop_duplicates(split(600, request.seed)), split(60, 100), split(60, 101))


SPEC = DatasetSpec("acme-bars", bars, root="unused")
"""


def simulate(folder: Path, *options: str, site: Path | None = None) -> subprocess.CompletedProcess[str]:
    paths = [path for path in (None if site is None else str(site), os.environ.get("PYTHONPATH")) if path]
    return subprocess.run(
        [sys.executable, "-m", "fedrec.cli", "simulate", "--out", str(folder), *options],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.install
def test_choices_of_an_installed_package_train_under_their_names(tmp_path: Path) -> None:
    source, site = tmp_path / "source", tmp_path / "site"
    (source / "acme_fedrec").mkdir(parents=True)
    (source / "pyproject.toml").write_text(PROJECT)
    for name, text in (("__init__", ""), ("net", NET), ("sign", SIGN), ("bars", BARS)):
        (source / "acme_fedrec" / f"{name}.py").write_text(text)
    pip = "-m pip install -q --no-deps --no-build-isolation --no-index --target"
    subprocess.run([sys.executable, *pip.split(), str(site), str(source)], check=True, timeout=200)
    options = ["--rounds", "2", "--seed", "1", "--workers", "1", "--device", "cpu", "--merchants", "3"]
    options += ["--model", "acme-net", "--optimizer", "acme-sign:scale=0.5", "--dataset", "acme-bars"]
    refused = simulate(tmp_path / "without", *options)
    assert refused.returncode == 2 and "choose one of synthetic" in refused.stderr, refused.stderr
    done = simulate(tmp_path / "run", *options, site=site)
    assert done.returncode == 0, done.stderr
    assert "model acme-net: exact but slow clipping, by Opacus: no fast rule for LayerNorm" in done.stderr
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    digest = hashlib.sha256(b"fedrec/package/1")
    for name in ("__init__.py", "bars.py", "net.py", "sign.py"):
        content = (source / "acme_fedrec" / name).read_bytes()
        digest.update(f"\0{name}\0{len(content)}\0".encode() + content)
    assert (plan["model"], plan["model_code"]) == ("acme-net", digest.hexdigest())
    assert plan["server_update"] == {
        "optimizer": "acme-sign",
        "learning_rate": 0.125,
        "settings": [{"name": "scale", "value": 0.5}],
        "averaging": 0.0,
    }
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["run"]["dataset"] == "acme-bars" and report["data"]["records"] == 600
    assert report["run"]["model_code"] == digest.hexdigest()
    assert [line["opened"] for line in report["rounds"]] == [True, True]
    # Two steps by a sign, each of 0.0625: every parameter moved by 0, 0.0625 or 0.125.
    moved = moves(tmp_path / "run", site)
    assert set(moved) <= {"0.0000", "0.0625", "0.1250"} and len(moved) > 1


def moves(run: Path, site: Path) -> list[str]:
    """How far parameters lie from where a model of this seed starts, in a process that has the package."""
    code = (
        "from safetensors.torch import load_file\nfrom fedrec.vision import model_registry\n"
        "model = model_registry.get('acme-net').build(classes=2, channels=1, size=8, seed=1)\n"
        f"found = load_file({str(run / 'model.safetensors')!r})\n"
        "print(*sorted({f'{float(value):.4f}' for name, start in model.state_dict().items() "
        "for value in (found[name] - start).abs().flatten()}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()
