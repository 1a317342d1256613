"""Try a network from a file in a process of its own, with limits on memory and time.

onnx's checker, onnxruntime and torch are large libraries in C++. A file that was made to harm them, or that
needs more memory than any photo should, ends that process and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from fedrec._internal.systems import require_system_for
from fedrec._internal.text import one_line
from fedrec.errors import ConfigError
from fedrec.vision.backbones.one_picture import Colours, OnePictureNetwork
from fedrec.vision.backbones.onnx_files.network import OnnxNetwork, open_session

MEMORY: Final = 4 << 30
"""Bytes that the process may take beside four times the file's size."""
CPU_SECONDS: Final = 300
LONGEST_VECTOR: Final = 65_536
_WALL_SECONDS: Final = 900
_LONGEST_ANSWER: Final = 1 << 20


@dataclass(frozen=True)
class Trial:
    """What to try.

    Attributes:
        path: the file.
        sha256: SHA-256 of its content, hexadecimal.
        layers: names of the outputs to compute.
        size: side of the pictures in pixels.
        mean: subtracted from each colour of pixels in 0 to 1.
        std: what each colour is divided by afterwards.
        architecture: of a safetensors file; None for an ONNX file.
        frozen_blocks: after how many blocks it is split for fine-tuning; None if it isn't.
    """

    path: Path
    sha256: str
    layers: tuple[str, ...]
    size: int
    mean: Colours = (0.5, 0.5, 0.5)
    std: Colours = (0.5, 0.5, 0.5)
    architecture: str | None = None
    frozen_blocks: int | None = None


def try_network(trial: Trial) -> dict[str, int]:
    """Compute the features of a few pictures in a process of its own.

    Args:
        trial: the file, its layers and the preparation of pictures.

    Returns:
        The length of each layer's feature vector.

    Raises:
        ConfigError: the network can't be computed within the limits, its features aren't finite, not of one
            length, the same for all pictures, or not the same for one picture each time.
        UnsupportedSystemError: this system has no such limits.
    """
    require_system_for("backbone add")
    asked = {
        "path": str(trial.path),
        "sha256": trial.sha256,
        "layers": trial.layers,
        "size": trial.size,
        "mean": trial.mean,
        "std": trial.std,
        "architecture": trial.architecture,
        "frozen_blocks": trial.frozen_blocks,
    }
    command = [sys.executable, "-P", "-m", "fedrec.vision.backbones.trial"]
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter and module
            command,
            input=json.dumps(asked).encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_WALL_SECONDS,
            check=False,
        )
        answer = json.loads(done.stdout[:_LONGEST_ANSWER])
        error, lengths = answer["error"], answer["lengths"]
    except (subprocess.TimeoutExpired, ValueError, KeyError, TypeError):
        raise ConfigError(
            "the process that tried it ended: it is malformed, or one picture takes more than "
            f"{MEMORY >> 30} GiB beside its weights, or minutes"
        ) from None
    if error is not None:
        raise ConfigError(str(error))
    return {str(name): int(length) for name, length in lengths.items()}


def _within_limits(file_bytes: int) -> None:
    """Limit this process from now on; what the interpreter and its libraries have mapped doesn't count."""
    # Windows lacks this module; importing this file there must work, so that a clear error can be raised.
    import resource

    import psutil  # on Linux it imports the same module

    limits = [(resource.RLIMIT_CPU, CPU_SECONDS), (resource.RLIMIT_CORE, 0)]
    if sys.platform == "linux":  # macOS refuses a limit on what is mapped
        mapped = psutil.Process().memory_info().vms
        limits.append((resource.RLIMIT_AS, mapped + MEMORY + 4 * file_bytes))
    for kind, most in limits:
        _, hard = resource.getrlimit(kind)
        limit = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (limit, limit))


def try_here(trial: Trial) -> dict[str, int]:
    """Do in this process what :func:`try_network` does in another; raise as it does, or worse."""
    data = trial.path.read_bytes()
    if hashlib.sha256(data).hexdigest() != trial.sha256:
        raise ConfigError("the file changed while it was checked")
    return _checked_lengths(_opened(data, trial), trial.layers, size=trial.size)


def _opened(data: bytes, trial: Trial) -> OnePictureNetwork:
    if trial.architecture is not None:
        # Importing torch takes longer than most ONNX files' trial.
        from fedrec.vision.backbones.weights_files.architecture import load_network
        from fedrec.vision.backbones.weights_files.network import WeightsNetwork
        from fedrec.vision.backbones.weights_files.split import check_split

        network = load_network(data, trial.architecture, size=trial.size)
        if trial.frozen_blocks:
            check_split(network, blocks=trial.frozen_blocks, size=trial.size)
        return WeightsNetwork(network, mean=trial.mean, std=trial.std)
    import onnx

    try:
        onnx.checker.check_model(data)
    # The checker raises errors of its own and of protobuf.
    except Exception as error:
        raise ConfigError(f"onnx's checker refuses it: {one_line(error)}") from None
    # A GPU's driver maps more than the limits allow.
    session = open_session(data, gpu=False)
    return OnnxNetwork(session, layers=trial.layers, mean=trial.mean, std=trial.std)


def _checked_lengths(network: OnePictureNetwork, layers: Sequence[str], *, size: int) -> dict[str, int]:
    """Compute a few pictures twice, compare, and return the lengths of their features."""
    pixels = np.random.default_rng(1).integers(0, 256, (4, size, size, 3), dtype=np.uint8)
    pixels[0], pixels[1] = 0, 255
    found = [network.outputs(image) for image in pixels]
    again = [network.outputs(image) for image in pixels]
    for place, name in enumerate(layers):
        what = f"the output {one_line(name, most=60)!r}"
        vectors = [row[place] for row in found]
        if len({vector.shape for vector in vectors}) > 1 or len(vectors[0]) > LONGEST_VECTOR:
            raise ConfigError(f"{what} isn't of one length up to {LONGEST_VECTOR:,} for every picture")
        if not all(np.isfinite(vector).all() for vector in vectors):
            raise ConfigError(f"{what} isn't finite for every picture")
        if any((row[place] != vector).any() for row, vector in zip(again, vectors, strict=True)):
            raise ConfigError(f"{what} isn't the same each time for one picture")
        if all((vector == vectors[0]).all() for vector in vectors):
            raise ConfigError(f"{what} is the same for all pictures")
    return {name: len(found[0][place]) for place, name in enumerate(layers)}


def _answer(asked: Mapping[str, object]) -> dict[str, object]:
    values = dict(asked) | {"path": Path(str(asked["path"]))}
    trial = Trial(**values)  # type: ignore[arg-type]  # a Trial's fields as JSON
    try:
        _within_limits(trial.path.stat().st_size)
        return {"error": None, "lengths": try_here(trial)}
    except ConfigError as error:
        return {"error": str(error), "lengths": {}}
    except MemoryError:
        return {"error": f"one picture takes more than {MEMORY >> 30} GiB beside its weights", "lengths": {}}


if __name__ == "__main__":
    print(json.dumps(_answer(json.load(sys.stdin))))  # noqa: T201 - the answer
