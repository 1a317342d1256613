"""Evidence over a photo adds up to the score, and lies where the class's colour is."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedrec.recognition.evidence.heat import Heat, evidence_of, occlusion_heat
from fedrec.recognition.evidence.picture import LONGEST_SIDE, evidence_picture
from fedrec.recognition.model import RecognitionModel, open_model
from tests.support.bundles import write_tiny_bundle

RED, BLUE = 0, 2


@pytest.fixture
def model(tmp_path: Path) -> RecognitionModel:
    return open_model(write_tiny_bundle(tmp_path / "m"))


def halves(size: tuple[int, int] = (60, 40)) -> Image.Image:
    """Red on the left, blue on the right."""
    made = Image.new("RGB", size, (255, 0, 0))
    made.paste((0, 0, 255), (size[0] // 2, 0, *size))
    return made


def test_exact_evidence_sums_to_the_score_above_the_average(model: RecognitionModel) -> None:
    photo = halves()
    scores = model.outputs(photo).scores[0]
    for label in range(3):
        heat = evidence_of(model, photo, label)
        assert heat.exact
        assert heat.cells.sum() + heat.offset == pytest.approx(scores[label] - scores.mean(), abs=1e-4)


def test_it_lies_where_the_colour_is_and_nowhere_outside_the_picture(model: RecognitionModel) -> None:
    heat = evidence_of(model, halves(), RED)
    height, width = heat.cells.shape
    assert (height, width) == (75, 112)
    # The model sees the middle square, 40 of 60 pixels: its left half speaks for red, its right half against.
    edge = round(width * 10 / 60)
    assert (heat.cells[:, edge + 2 : width // 2 - 2] > 0).all()
    assert (heat.cells[:, width // 2 + 2 : width - edge - 2] < 0).all()
    assert not heat.cells[:, : edge - 1].any() and not heat.cells[:, width - edge + 1 :].any()


def test_covering_finds_the_same_side(model: RecognitionModel) -> None:
    heat = occlusion_heat(model, halves((80, 80)), BLUE)
    middle = heat.cells.shape[1] // 2
    assert not heat.exact
    assert heat.cells[:, middle + 8 :].mean() > 0 > heat.cells[:, : middle - 8].mean()


def test_the_picture_is_warm_for_and_cold_against(model: RecognitionModel) -> None:
    photo = Image.new("RGB", (2000, 1000), (120, 120, 120))
    cells = np.zeros((56, 112), dtype=np.float32)
    cells[:, :40], cells[:, -40:] = 1, -1
    drawn = np.asarray(evidence_picture(photo, Heat(cells, exact=True)), dtype=int)
    assert drawn.shape == (LONGEST_SIDE // 2, LONGEST_SIDE, 3)
    assert drawn[160, 60, 0] > drawn[160, 60, 2] + 80 and drawn[160, -60, 2] > drawn[160, -60, 0] + 80
    assert abs(drawn[160, 320] - 120).max() <= 2


def test_no_evidence_leaves_the_photo_as_it_is() -> None:
    nothing = dataclasses.replace(Heat(np.zeros((10, 10), np.float32), exact=True))
    drawn = evidence_picture(Image.new("RGB", (50, 50), (90, 90, 90)), nothing)
    assert np.asarray(drawn).tolist() == np.full((50, 50, 3), 90).tolist()
