"""A small model for tests of catalogues: a photo's vector is the histogram of its colours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fedrec.recognition.catalogue.catalogue import UsedModel
from fedrec.recognition.catalogue.photo_model import ModelOutput, PhotoModel


class ColourEmbedder:
    """Counts of 64 colours, of length 1; ``power`` makes different embeddings."""

    def __init__(self, *, power: float = 0.5) -> None:
        self.power = power

    @property
    def embedding_id(self) -> str:
        return f"colours {self.power}"

    @property
    def dimension(self) -> int:
        return 64

    def embed(self, photos: Sequence[Image.Image]) -> NDArray[np.float32]:
        found = np.zeros((len(photos), 64), np.float32)
        for row, photo in zip(found, photos, strict=True):
            cells = (np.asarray(photo.convert("RGB")).reshape(-1, 3) // 64) @ np.array([16, 4, 1])
            row += np.bincount(cells, minlength=64) ** self.power
        lengths: NDArray[np.float32] = np.linalg.norm(found, axis=1, keepdims=True)
        return found / lengths


def brightness(photo: Image.Image) -> tuple[str, float]:
    """Tell bright photos from dark ones."""
    mean = float(np.asarray(photo).mean()) / 255
    return ("bright", mean) if mean >= 0.5 else ("dark", 1 - mean)


def colour_model(*, power: float = 0.5, classes: bool = False, path: str | None = None) -> PhotoModel:
    """A model of colours, with or without classes."""
    embedder = ColourEmbedder(power=power)

    def run(photos: Sequence[Image.Image]) -> list[ModelOutput]:
        named = [brightness(photo) if classes else (None, None) for photo in photos]
        return [
            ModelOutput(vector, *label) for vector, label in zip(embedder.embed(photos), named, strict=True)
        ]

    used = UsedModel(
        embedding_id=embedder.embedding_id,
        dimension=embedder.dimension,
        path=path,
        labels_of="brightness" if classes else None,
        description=f"colours to the power of {power}",
    )
    return PhotoModel(used, run)


def save_photo(path: Path, seed: int, *, size: int = 24) -> Path:
    """Write a photo of a few random colours."""
    rng = np.random.default_rng(seed)
    colours = rng.integers(0, 256, (3, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(colours[rng.integers(0, 3, (size, size))]).save(path)
    return path
