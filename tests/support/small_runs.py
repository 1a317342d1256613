"""Options of simulations that end within seconds."""

from __future__ import annotations

from pathlib import Path


def small_run(photos: Path, out: Path, *, rounds: int) -> dict[str, object]:
    """Return options of a training of one worker, with a seed, on photos that lie in merchants' folders."""
    return {
        "data": photos,
        "partition": "folder",
        "model": "cnn-tanh",
        "rounds": rounds,
        "workers": 1,
        "device": "cpu",
        "seed": 3,
        "out": out,
    }
