"""Pictures of one colour."""

from __future__ import annotations

from pathlib import Path

from PIL import Image


def picture(path: Path, shade: int, *, size: tuple[int, int] = (6, 4)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade, 10, 200)).save(path)
    return path
