"""Networks from ONNX files: time against torch, one picture a call against several, and a training.

    python benchmarks/file_backbones.py [--quick] [--json FILE]

Times are CPU milliseconds for a picture, on one thread (medians). ``lite2`` is EfficientNet-Lite2 at 260
pixels, ``deit-small`` a vision transformer of random weights in DeiT-small's shape (224 pixels, patches of
16, 384 wide, 12 blocks). The training is ``fedrec simulate`` of three merchants with 100 photos each under
encryption, once with an empty feature cache and once with a warm one; ``--quick`` leaves it out. Its memory
is the largest of one process.
"""

from __future__ import annotations

import importlib
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import cpu_seconds, fedrec_here, finish, parse
from torch import Tensor, nn
from torchvision.models.vision_transformer import VisionTransformer

from fedrec.vision.backbones.efficientnet_lite import LITE2
from fedrec.vision.backbones.onnx_files.network import OnnxNetwork, open_session
from fedrec.vision.synthetic import generate, write

HALF = (0.5, 0.5, 0.5)
BATCH = 8
PHOTOS = 100


class Pooled(nn.Module):
    """EfficientNet-Lite2 as its package has it, up to its pooled last convolution."""

    def __init__(self) -> None:
        super().__init__()
        package = importlib.import_module("efficientnet_lite_pytorch")
        self.network = package.EfficientNet.from_name(LITE2.name, image_size=260)
        self.network.load_state_dict(torch.load(LITE2.weights_path(), weights_only=True))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the features (n, 1280)."""
        pooled: Tensor = self.network.extract_features(inputs).mean(dim=(2, 3))
        return pooled


def deit_small() -> nn.Module:
    """A vision transformer of DeiT-small's shape, up to its class token."""
    torch.manual_seed(0)
    network: nn.Module = VisionTransformer(
        image_size=224, patch_size=16, num_layers=12, num_heads=6, hidden_dim=384, mlp_dim=1536
    )
    setattr(network, "heads", nn.Identity())  # noqa: B010 - its type asks for a Sequential
    return network


def exported(network: nn.Module, path: Path, size: int) -> Path:
    """Write a network as ONNX whose batch is open."""
    torch.backends.mha.set_fastpath_enabled(False)
    with warnings.catch_warnings(action="ignore"):
        torch.onnx.export(
            network.eval(),
            (torch.zeros(2, 3, size, size),),
            str(path),
            input_names=["pictures"],
            output_names=["features"],
            dynamic_axes={"pictures": {0: "n"}, "features": {0: "n"}},
            dynamo=False,
        )
    return path


def speed(name: str, network: nn.Module, path: Path, size: int) -> dict[str, Any]:
    """Compare a file's times with torch's, and its features."""
    images = np.random.default_rng(0).integers(0, 256, (BATCH, size, size, 3), dtype=np.uint8)
    batch = np.ascontiguousarray(((images.astype(np.float32) / 255 - 0.5) / 0.5).transpose(0, 3, 1, 2))
    loaded = OnnxNetwork(open_session(path.read_bytes()), layers=["features"], mean=HALF, std=HALF)
    with torch.inference_mode():
        expected = network(torch.from_numpy(batch)).numpy()
        plain = cpu_seconds(lambda: network(torch.from_numpy(batch)), repeats=5)
    found = loaded(images)["features"]
    alone = cpu_seconds(lambda: loaded(images), repeats=5)
    together = cpu_seconds(lambda: loaded._session.run(["features"], {"pictures": batch}), repeats=5)
    row: dict[str, Any] = {
        "network": name,
        "MiB": path.stat().st_size / 2**20,
        "torch, 8 a call": 1000 * plain / BATCH,
        "file, 8 a call": 1000 * together / BATCH,
        "file, 1 a call": 1000 * alone / BATCH,
        "packaged, folded": None,
        "difference": float(np.abs(found - expected).max() / np.abs(expected).max()),
    }
    if name == "lite2":
        folded = LITE2.load(size=size, dtype=torch.float32)
        halves = [images[:4], images[4:]]
        row["packaged, folded"] = (
            1000 * cpu_seconds(lambda: [folded(half) for half in halves], repeats=5) / BATCH
        )
    return row


def training(path: Path, folder: Path) -> list[dict[str, Any]]:
    """Add the file and train a head on it, twice."""
    os.environ["XDG_DATA_HOME"], os.environ["XDG_CACHE_HOME"] = str(folder / "data"), str(folder / "cache")
    colours = ["--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5"]
    started = time.perf_counter()
    fedrec_here("backbone", "add", path, "--name", "deit", "--size", 224, *colours)
    rows: list[dict[str, Any]] = [{"what": "backbone add", "seconds": time.perf_counter() - started}]
    photos = folder / "photos"
    write(generate(merchants=3, per_merchant=PHOTOS, size=64, seed=0, validation=50, test=0), photos)
    for what in ("empty cache", "warm cache"):
        started = time.perf_counter()
        subprocess.run(
            [
                *(sys.executable, "-m", "fedrec.cli", "simulate", "--model", "deit-head"),
                *("--data", str(photos), "--partition", "folder", "--out", str(folder / what)),
                *("--delta", "1e-3", "--device", "cpu"),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        rows.append({"what": what, "seconds": time.perf_counter() - started})
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return [row | {"peak MiB": None} for row in rows[:-1]] + [rows[-1] | {"peak MiB": peak}]


def main() -> None:
    """Run the benchmark."""
    options = parse(__doc__ or "")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        networks: Mapping[str, tuple[nn.Module, int]] = {
            "lite2": (Pooled(), 260),
            "deit-small": (deit_small(), 224),
        }
        rows = [
            speed(name, network, exported(network, folder / f"{name}.onnx", size), size)
            for name, (network, size) in networks.items()
        ]
        trained = [] if options.quick else training(folder / "deit-small.onnx", folder)
    ratios = {
        f"{row['network']}_torch_over_file": row["torch, 8 a call"] / row["file, 1 a call"] for row in rows
    }
    finish("file_backbones", options, rows=[*rows, *trained], ratios=ratios)


if __name__ == "__main__":
    main()
