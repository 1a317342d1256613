"""Fine-tuning by LoRA: clipped steps against plain ones, a merchant's round, and a training.

    python benchmarks/fine_tuning.py [--quick] [--json FILE]

``tiny`` and ``small`` are vision transformers of random weights in the shapes of DeiT-tiny and DeiT-small
(224 pixels, patches of 16, 192 and 384 wide, 12 blocks), adapted at rank 8 in all blocks, with a head for 10
classes. Times are CPU milliseconds for a picture on one thread (medians) in batches of 16; memory is the rise
of the resident set. Plain training is a forward and a backward pass on the mean loss.

A merchant's round is the clipped sum of 30 photos in ``small``, with all blocks adapted, from pictures, or
with the last ones alone, from cached tokens, in CPU seconds on one thread; the tokens of the photos are
computed once before the first round.

``lite0`` is ``effnet-lite0-lora``, the packaged model, on cached tokens. A merchant's round is compared with
that of the head on the same network, for 384 photos: an eighth of 3,068.

The training is ``fedrec simulate`` of three merchants with 30 photos each under encryption, in ``small`` from
a safetensors file with the default number of adapted blocks, 3 rounds; ``--quick`` leaves it out. Its memory
is the largest of one process.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from measure import cpu_seconds, fedrec_here, finish, parse, peak_memory_bytes
from torch import nn
from torch.nn import functional as F

from fedrec.privacy.dp.clipping import RecordClipper
from fedrec.privacy.dp.vectors import load_parameter_vector, parameter_count, parameter_vector, trainable
from fedrec.vision import model_registry
from fedrec.vision.backbones.backbone import ViewExtractor
from fedrec.vision.backbones.weights_files.layers import shared_copy
from fedrec.vision.backbones.weights_files.split import LeadingPart, block_count
from fedrec.vision.models.lora import FineTuned
from fedrec.vision.synthetic import generate, write

NETWORKS = {"tiny": "vit_tiny_patch16_224", "small": "vit_small_patch16_224"}
CLASSES = 10
BATCH = 16
PHOTOS = 30
BLOCKS = (1, 2, 4, 12)
PACKAGED = ("effnet-lite0-lora", "effnet-lite0-head")
PACKAGED_PHOTOS = 384
ROUNDS = 3


def network(name: str) -> nn.Module:
    """A vision transformer of random weights."""
    torch.manual_seed(0)
    made: nn.Module = timm.create_model(NETWORKS[name], num_classes=0)
    return made.eval()


def moved(model: nn.Module) -> nn.Module:
    """Move a model away from its start, where the head is zero and no gradient reaches the network."""
    load_parameter_vector(model, parameter_vector(model) + 0.01)
    return model


def vit_speed(name: str, *, repeats: int) -> dict[str, Any]:
    """Compare steps of a vision transformer from pictures."""
    frozen = network(name)
    model = FineTuned(frozen, classes=CLASSES, dimension=int(getattr(frozen, "num_features")))  # noqa: B009
    pictures = torch.randn(BATCH, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    return speed(name, moved(model), pictures, repeats=repeats)


def speed(name: str, model: nn.Module, inputs: torch.Tensor, *, repeats: int) -> dict[str, Any]:
    """Compare a clipped step's time and memory with a plain one's."""
    labels = torch.arange(len(inputs)) % CLASSES
    parameters = trainable(model)

    def plain() -> None:
        for part, wanted in zip(torch.split(inputs, BATCH), torch.split(labels, BATCH), strict=True):
            loss = F.cross_entropy(model(part), wanted)
            torch.autograd.grad(loss, parameters, allow_unused=True)

    clipper = RecordClipper(model, clip=1.0)

    def clipped() -> None:
        clipper.clipped_sum(inputs[:, None], labels)

    times = {"plain": cpu_seconds(plain, repeats=repeats), "clipped": cpu_seconds(clipped, repeats=repeats)}
    return {
        "network": name,
        "trained parameters": parameter_count(model),
        "plain, ms": 1000 * times["plain"] / len(inputs),
        "clipped, ms": 1000 * times["clipped"] / len(inputs),
        "plain, MiB": peak_memory_bytes(plain) / 2**20,
        "clipped, MiB": peak_memory_bytes(clipped) / 2**20,
        "clipped of plain's speed": times["plain"] / times["clipped"],
    }


def a_round(adapted: int, *, repeats: int) -> dict[str, Any]:
    """Measure a merchant's round with so many adapted blocks."""
    frozen = network("small")
    blocks = block_count(frozen)
    pictures = torch.randn(PHOTOS, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(PHOTOS) % CLASSES
    inputs, once = pictures, 0.0
    if adapted < blocks:
        leading = LeadingPart(shared_copy(frozen), blocks=blocks - adapted)
        started = time.process_time()
        with torch.no_grad():
            inputs = torch.cat([leading(picture[None]) for picture in pictures]).half()
        once = time.process_time() - started
    model = FineTuned(
        frozen,
        classes=CLASSES,
        dimension=int(getattr(frozen, "num_features")),  # noqa: B009
        frozen_blocks=blocks - adapted if adapted < blocks else None,
    )
    with RecordClipper(moved(model), clip=1.0) as clipper:
        taken = cpu_seconds(lambda: clipper.clipped_sum(inputs[:, None], labels), repeats=repeats)
    return {
        "adapted blocks": adapted,
        "trained": parameter_count(model),
        "a round, s": taken,
        "tokens, once, s": once,
        "input of a photo, kB": inputs[0].numel() * inputs.element_size() / 1000,
    }


def packaged_tokens(count: int) -> torch.Tensor:
    """Random tokens of the packaged model."""
    shape = model_registry.get(PACKAGED[0]).record_shape(3, 224)
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(0)).half()


def packaged(name: str) -> nn.Module:
    """One of the packaged models."""
    return moved(model_registry.get(name).build(classes=CLASSES, channels=3, size=224, seed=0))


def packaged_round(name: str, *, repeats: int) -> dict[str, Any]:
    """Measure a merchant's round of a packaged model, and what a photo costs before."""
    spec, model = model_registry.get(name), packaged(name)
    inputs = packaged_tokens(PACKAGED_PHOTOS)
    extractors: list[ViewExtractor] = [spec.tokens.extractor()] if spec.tokens is not None else []
    if spec.features is not None:
        inputs = F.normalize(torch.rand(PACKAGED_PHOTOS, *spec.record_shape(3, 224)), dim=1)
        extractors = list(spec.features.extractors().values())
    (extractor,) = extractors
    pictures = torch.randint(0, 256, (BATCH, 224, 224, 3), dtype=torch.uint8).numpy()
    labels = torch.arange(len(inputs)) % CLASSES
    with RecordClipper(model, clip=1.0) as clipper:
        taken = cpu_seconds(lambda: clipper.clipped_sum(inputs[:, None], labels), repeats=repeats)
    return {
        "model": name,
        "trained": parameter_count(model),
        "a round, s": taken,
        "a photo, once, ms": 1000 * cpu_seconds(lambda: extractor(pictures), repeats=repeats) / BATCH,
        "kept of a photo, kB": 2 * extractor.dimension / 1000,
    }


def training(folder: Path) -> list[dict[str, Any]]:
    """Add the larger network from a safetensors file, and fine-tune it."""
    os.environ["XDG_DATA_HOME"], os.environ["XDG_CACHE_HOME"] = str(folder / "data"), str(folder / "cache")
    path = folder / "small.safetensors"
    safetensors.torch.save_file(network("small").state_dict(), path)
    options = ["--size", 224, "--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5"]
    started = time.perf_counter()
    fedrec_here("backbone", "add", path, "--name", "deit", "--architecture", NETWORKS["small"], *options)
    added = time.perf_counter() - started
    photos = folder / "photos"
    write(generate(merchants=3, per_merchant=PHOTOS, size=64, seed=0, validation=20, test=0), photos)
    started = time.perf_counter()
    subprocess.run(
        [
            *(sys.executable, "-m", "fedrec.cli", "simulate", "--model", "deit-lora"),
            *("--data", str(photos), "--partition", "folder", "--out", str(folder / "run")),
            *("--delta", "1e-3", "--device", "cpu", "--rounds", str(ROUNDS)),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    taken = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return [{"backbone add, s": added, "training, s": taken, "largest process, MiB": peak}]


def main() -> None:
    """Run the benchmark."""
    options = parse(__doc__ or "")
    torch.set_num_threads(1)
    repeats = 2 if options.quick else 5
    rows = [vit_speed(name, repeats=repeats) for name in NETWORKS]
    rows.append(speed("lite0", packaged(PACKAGED[0]), packaged_tokens(4 * BATCH), repeats=repeats))
    compared = [packaged_round(name, repeats=repeats) for name in PACKAGED]
    rounds = [a_round(adapted, repeats=1 if options.quick else 3) for adapted in BLOCKS]
    with tempfile.TemporaryDirectory() as scratch:
        trained = [] if options.quick else training(Path(scratch))
    ratios = {f"{row['network']}_vs_plain": row["clipped of plain's speed"] for row in rows}
    whole = rounds[-1]["a round, s"]
    ratios |= {
        f"round_of_{row['adapted blocks']}_vs_{BLOCKS[-1]}_blocks": row["a round, s"] / whole
        for row in rounds[:-1]
    }
    ratios["round_of_lite0_vs_head"] = compared[0]["a round, s"] / compared[1]["a round, s"]
    finish("fine_tuning", options, rows=[*rows, *rounds, *compared, *trained], ratios=ratios)


if __name__ == "__main__":
    main()
