"""The evidence for a class over a photo, as one map."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from fedrec.recognition.bundle.photo_inputs import PhotoInput
from fedrec.recognition.bundle.session import Outputs
from fedrec.recognition.model import RecognitionModel

LONG_SIDE: Final = 112
"""Cells of a map along the photo's longer side."""
_PARTS: Final = 7
"""Places a side that are covered one after the other."""
_COVER: Final = 1.6
"""Side of what is covered, in distances between places."""
_GREY: Final = (127, 127, 127)


@dataclass(frozen=True)
class Heat:
    """Evidence over a photo.

    Attributes:
        cells: float32 (height, width): how much each place speaks for the class (above 0) or against it, in
            units of the score above the average of all classes.
        exact: whether ``cells.sum() + offset`` is that score; otherwise each cell says how much it falls when
            the place is covered.
        offset: the part of the score that no place accounts for; 0 where the map isn't exact.
    """

    cells: NDArray[np.float32]
    exact: bool
    offset: float = 0.0


def evidence_of(model: RecognitionModel, photo: Image.Image, label: int) -> Heat:
    """Compute the evidence for a class, against the average of all classes.

    Args:
        model: a model with classes.
        photo: the photo.
        label: the class's number.

    Returns:
        The evidence.

    Raises:
        DataError: the model fails.
    """
    if model.manifest.evidence == "exact":
        return exact_heat(model.outputs(photo), model.manifest.inputs, photo.size, label)
    return occlusion_heat(model, photo, label)


def exact_heat(outputs: Outputs, inputs: Iterable[PhotoInput], photo: tuple[int, int], label: int) -> Heat:
    """Lay the maps of all inputs over the photo.

    Args:
        outputs: of one photo, with evidence.
        inputs: the graph's.
        photo: its width and height in pixels.
        label: the class's number.

    Returns:
        The evidence.
    """
    cells: NDArray[np.float64] = np.zeros(_grid(photo))
    for each in inputs:
        maps = outputs.evidence[each.name][0].astype(np.float64)
        contrast = maps[label] - maps.mean(axis=0)
        cells += _laid(contrast / contrast.size, each.shown(photo), photo, cells.shape)
    offsets = outputs.offset[0]
    return Heat(cells.astype(np.float32), exact=True, offset=float(offsets[label] - offsets.mean()))


def occlusion_heat(model: RecognitionModel, photo: Image.Image, label: int) -> Heat:
    """Cover one place after the other, and see how much the score falls.

    Zeiler and Fergus 2014, "Visualizing and Understanding Convolutional Networks", section 4.2.

    Args:
        model: a model with classes.
        photo: the photo.
        label: the class's number.

    Returns:
        The evidence.

    Raises:
        DataError: the model fails.
    """
    colour = photo.convert("RGB")
    whole = _score(model, colour, label)
    falls = np.zeros((_PARTS, _PARTS))
    for row in range(_PARTS):
        for column in range(_PARTS):
            covered = colour.copy()
            ImageDraw.Draw(covered).rectangle(_place(row, column, colour.size), fill=_GREY)
            falls[row, column] = whole - _score(model, covered, label)
    box = (0.0, 0.0, float(colour.width), float(colour.height))
    cells = _laid(falls / falls.size, box, colour.size, _grid(colour.size))
    return Heat(cells.astype(np.float32), exact=False)


def _score(model: RecognitionModel, photo: Image.Image, label: int) -> float:
    scores = model.outputs(photo).scores[0]
    return float(scores[label] - scores.mean())


def _place(row: int, column: int, size: tuple[int, int]) -> tuple[float, float, float, float]:
    width, height = size[0] / _PARTS, size[1] / _PARTS
    x, y = (column + 0.5) * width, (row + 0.5) * height
    return x - _COVER * width / 2, y - _COVER * height / 2, x + _COVER * width / 2, y + _COVER * height / 2


def _grid(photo: tuple[int, int]) -> tuple[int, int]:
    """Return the height and width of a photo's map in cells."""
    scale = LONG_SIDE / max(photo)
    return max(1, round(photo[1] * scale)), max(1, round(photo[0] * scale))


def _laid(
    values: NDArray[np.float64],
    box: tuple[float, float, float, float],
    photo: tuple[int, int],
    grid: tuple[int, int],
) -> NDArray[np.float64]:
    """Spread the values of a map over the part of the photo that it shows; their sum stays the same."""
    rows = _spread(values.shape[0], box[1], box[3], photo[1], grid[0])
    columns = _spread(values.shape[1], box[0], box[2], photo[0], grid[1])
    laid: NDArray[np.float64] = rows @ values @ columns.T
    return laid


def _spread(parts: int, low: float, high: float, length: int, cells: int) -> NDArray[np.float64]:
    """Return the matrix (cells, parts) of each part's share in each cell of a line; columns sum to 1."""
    edges = low + (high - low) * np.arange(parts + 1) / parts
    grid = length * np.arange(cells + 1) / cells
    begins = np.maximum(grid[:-1, None], edges[None, :-1])
    ends = np.minimum(grid[1:, None], edges[None, 1:])
    overlaps = np.clip(ends - begins, 0, None)
    shares: NDArray[np.float64] = overlaps / overlaps.sum(axis=0, keepdims=True)
    return shares
