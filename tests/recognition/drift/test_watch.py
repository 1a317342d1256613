"""A watch raises the alarms it should, few others, and keeps nothing of a single photo."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter
from typer.testing import CliRunner

from fedrec.cli import model_watch
from fedrec.cli.app import app
from fedrec.errors import ConfigError, DataError
from fedrec.recognition.drift.measures import MEASURES
from fedrec.recognition.drift.photo_statistics import PhotoStatistics, photo_statistics
from fedrec.recognition.drift.reference import Reference, make_reference, read_reference, write_reference
from fedrec.recognition.drift.thresholds import CHECKS, Photos, limits
from fedrec.recognition.drift.watch import Alarm, Watch
from fedrec.recognition.model import Recognition
from tests.recognition.quality.test_measures import texture

CLASSES = ("mug", "plate", "vase")
SIDE = 24


def unit(rows: np.ndarray) -> np.ndarray:
    done: np.ndarray = (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)
    return done


def drawn(
    rng: np.random.Generator, count: int, *, shares: Sequence[float] = (0.5, 0.3, 0.2), shift: float = 0.0
) -> Photos:
    """Photos of three classes, each around a direction of its own; ``shift`` moves all of them."""
    labels = rng.choice(3, count, p=shares)
    vectors = unit(np.eye(SIDE)[labels] + 0.2 * rng.normal(size=(count, SIDE)) + shift * np.eye(SIDE)[10])
    sure = rng.uniform(0.5, 0.95, count)
    probabilities = (np.eye(3)[labels] * (sure - (1 - sure) / 2)[:, None] + (1 - sure)[:, None] / 2).astype(
        np.float32
    )
    looks = [
        PhotoStatistics(float(bright), float(sharp))
        for bright, sharp in rng.normal((130, 6), (30, 1), (count, 2))
    ]
    return Photos(vectors, probabilities, looks)


def raised(watch: Watch, photos: Photos) -> list[tuple[int, Alarm]]:
    return [
        (count, alarm)
        for count, (vector, row, look) in enumerate(
            zip(photos.embeddings, photos.probabilities, photos.looks, strict=True), 1
        )
        for alarm in watch.add(vector, row, look)
    ]


@pytest.fixture(scope="module")
def reference() -> Reference:
    photos = drawn(np.random.default_rng(0), 300)
    return make_reference(photos, embedding_id="e", classes=CLASSES)


def test_photos_like_those_of_the_reference_raise_few_alarms(reference: Reference) -> None:
    watch = Watch(reference)
    raised(watch, drawn(np.random.default_rng(1), 100 * CHECKS[-1]))
    assert watch.standing.windows == 100 and watch.standing.alarmed <= 1


def test_a_small_reference_may_lack_the_few_photos_of_which_a_model_is_unsure() -> None:
    rng = np.random.default_rng(5)

    def nearly_sure(count: int, *, unsure: float) -> Photos:
        photos = drawn(rng, count)
        largest = np.where(rng.random(count) < unsure, 0.4, 0.999)
        rows = np.stack([largest, *[(1 - largest) / 2] * 2], axis=1).astype(np.float32)
        return Photos(photos.embeddings, rows, photos.looks)

    watch = Watch(make_reference(nearly_sure(100, unsure=0), embedding_id="e", classes=CLASSES))
    assert not raised(watch, nearly_sure(20 * CHECKS[-1], unsure=0.02))
    alarms = raised(watch, nearly_sure(CHECKS[-1], unsure=0.4))
    assert {alarm.measure for _, alarm in alarms} == {"unsure"}


@pytest.mark.parametrize("wanted", MEASURES)
def test_each_change_is_named_within_a_window(reference: Reference, wanted: str) -> None:
    rng, count = np.random.default_rng(2), CHECKS[-1]
    shares = (0.05, 0.05, 0.9) if wanted == "one-class" else (0.5, 0.3, 0.2)
    photos = drawn(rng, count, shares=shares, shift=0.6 if wanted == "foreign" else 0.0)
    if wanted in {"dark", "bright", "blur"}:
        light = {"dark": -25.0, "bright": 25.0}.get(wanted, 0.0)
        soft = 0.9 if wanted == "blur" else 0.0
        looks = [PhotoStatistics(look.luminance + light, look.sharpness - soft) for look in photos.looks]
        photos = Photos(photos.embeddings, photos.probabilities, looks)
    if wanted == "unsure":
        photos = Photos(photos.embeddings, 0.7 * photos.probabilities + np.float32(0.1), photos.looks)
    alarms = raised(Watch(reference), photos)
    found = {alarm.measure: alarm for _, alarm in alarms}
    assert wanted in found and len(alarms) == len(found), "each measure is raised once in a window"
    assert found[wanted].value > found[wanted].limit and found[wanted].photos in CHECKS
    assert found[wanted].label == ("vase" if wanted == "one-class" else None)
    if wanted in {"dark", "bright", "blur", "unsure"}:
        assert set(found) == {wanted}


def test_the_values_are_those_of_the_photos_means(reference: Reference) -> None:
    photos = drawn(np.random.default_rng(4), CHECKS[0], shift=0.3)
    watch = Watch(reference)
    raised(watch, photos)
    values = watch.standing.values
    away = photos.embeddings.mean(axis=0) - np.array(reference.embedding)
    assert values["foreign"] == pytest.approx(float(np.sqrt((away**2).sum())), rel=1e-5)
    shares = np.bincount(photos.probabilities.argmax(axis=1), minlength=3) / CHECKS[0]
    assert values["one-class"] == pytest.approx(max(shares - np.array(reference.shares)))
    assert values["unsure"] == pytest.approx(
        reference.confidence - photos.probabilities.max(axis=1).mean(), rel=1e-3
    )
    assert values["dark"] == pytest.approx(
        reference.luminance - np.mean([one.luminance for one in photos.looks])
    )
    assert values["blur"] == pytest.approx(
        reference.sharpness - np.mean([one.sharpness for one in photos.looks])
    )


def test_a_watch_holds_sums_alone(reference: Reference) -> None:
    photos = drawn(np.random.default_rng(5), CHECKS[-1])
    watch = Watch(reference)
    held = []
    for count in range(CHECKS[-1] - 1):
        watch.add(photos.embeddings[count], photos.probabilities[count], photos.looks[count])
        state = {
            key: value for key, value in vars(watch).items() if key not in {"_mutex", "_reference", "_means"}
        }
        held.append(pickle.dumps(state))
    assert len(held[-1]) < len(held[5]) + 500, "what it holds doesn't grow with the photos"
    for vector in photos.embeddings[1:-1]:
        assert vector.tobytes() not in held[-1] and vector.astype(np.float64).tobytes() not in held[-1]
    watch.add(photos.embeddings[-1], photos.probabilities[-1], photos.looks[-1])
    assert watch._sums.photos == 0 and not watch._sums.embedding.any(), "a window that has ended is forgotten"


def test_a_broken_model_raises_an_alarm(reference: Reference) -> None:
    photos = drawn(np.random.default_rng(6), CHECKS[0])
    photos.embeddings[7, 3] = np.nan
    assert "foreign" in {alarm.measure for _, alarm in raised(Watch(reference), photos)}


def test_a_backbone_alone_is_watched_by_what_it_has() -> None:
    photos = drawn(np.random.default_rng(7), 150)
    bare = Photos(photos.embeddings, np.zeros((150, 0), np.float32), photos.looks)
    reference = make_reference(bare, embedding_id="e", classes=())
    assert set(reference.limits[CHECKS[0]]) == {"blur", "dark", "bright", "foreign"}
    moved = Photos(np.roll(bare.embeddings, 5, axis=1), bare.probabilities, bare.looks)
    assert {alarm.measure for _, alarm in raised(Watch(reference), moved)} == {"foreign"}


def test_a_reference_of_before_has_fewer_limits(reference: Reference) -> None:
    limits = {
        count: {name: limit for name, limit in each.items() if name != "bright"}
        for count, each in reference.limits.items()
    }
    photos = drawn(np.random.default_rng(8), CHECKS[-1])
    looks = [PhotoStatistics(look.luminance + 25, look.sharpness) for look in photos.looks]
    lit = Photos(photos.embeddings, photos.probabilities, looks)
    assert not raised(Watch(reference.model_copy(update={"limits": limits})), lit)
    assert {alarm.measure for _, alarm in raised(Watch(reference), lit)} == {"bright"}


def test_limits_are_beyond_windows_drawn_one_by_one() -> None:
    """A plain loop draws windows of the photos, and compares each with all of them."""
    rng = np.random.default_rng(8)
    photos = drawn(rng, 200)
    found, everywhere = limits(photos), photos.embeddings.mean(axis=0)
    for size in CHECKS:
        distances = [
            np.linalg.norm(photos.embeddings[rng.integers(0, 200, size)].mean(axis=0) - everywhere)
            for _ in range(2000)
        ]
        assert np.mean(np.array(distances) > found[size]["foreign"]) < 0.001
        assert found[size]["foreign"] < 4 * np.median(distances), "and not so wide that nothing is seen"
    with pytest.raises(DataError, match="100 photos or more, not 99"):
        limits(photos.some(np.arange(99)))


def test_a_look_is_the_mean_and_the_curvature_of_a_loop() -> None:
    photo = texture(0, width=40, height=30)
    pixels = np.asarray(photo.convert("L"), dtype=np.float64)
    curvature = []
    for row in range(30):
        for column in range(40):
            around = [
                pixels[min(max(row + down, 0), 29), min(max(column + right, 0), 39)]
                for down, right in ((0, 1), (0, -1), (1, 0), (-1, 0))
            ]
            curvature.append(sum(around) - 4 * pixels[row, column])
    assert photo_statistics(photo).luminance == pytest.approx(pixels.mean(), rel=1e-5)
    assert photo_statistics(photo).sharpness == pytest.approx(np.log(np.var(curvature)), rel=1e-4)
    assert photo_statistics(Image.new("L", (1, 1))).luminance == 0
    assert photo_statistics(Image.new("RGB", (5000, 3))).sharpness < -6


def test_a_reference_is_read_as_it_was_written(reference: Reference, tmp_path: Path) -> None:
    write_reference(tmp_path / "r.json", reference)
    assert read_reference(tmp_path / "r.json") == reference
    reference.check_model("e", CLASSES)
    for embedding_id, classes in (("other", CLASSES), ("e", ("mug",))):
        with pytest.raises(ConfigError, match="another model"):
            reference.check_model(embedding_id, classes)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("schema", "fedrec/drift-reference/2"),
        ("embedding", []),
        ("embedding", ["x"]),
        ("luminance", float("nan")),
        ("shares", [1.0]),
        ("limits", {}),
        ("limits", {"0": {"blur": 1.0}}),
        ("limits", {"50": {"weather": 1.0}}),
        ("photos", -1),
        ("extra", 1),
    ],
)
def test_a_damaged_reference_is_refused(reference: Reference, tmp_path: Path, key: str, value: Any) -> None:
    content = json.loads(reference.model_dump_json(by_alias=True)) | {key: value}
    path = tmp_path / "r.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"no reference of a watch: ('|there)[^()]*$"):
        read_reference(path)


class Colours:
    """A model of a photo's mean colours in 4 x 2 cells."""

    classes = ("bright", "dark")
    embedding_id = "colours"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def recognise(self, photos: Sequence[Image.Image]) -> list[Recognition]:
        found = []
        for photo in photos:
            cells = np.asarray(photo.convert("RGB").resize((4, 2)), np.float32).ravel() + 1
            bright = np.float32(np.clip(cells.mean() / 255, 0.1, 0.9))
            found.append(Recognition(np.array([bright, 1 - bright]), unit(cells)))
        return found


def test_the_commands_make_a_reference_and_name_blur_and_darkness(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_watch, "open_model", Colours)
    changes: dict[str, Callable[[Image.Image], Image.Image]] = {
        "usual": lambda photo: photo,
        "soft": lambda photo: photo.filter(ImageFilter.GaussianBlur(2)),
        "night": lambda photo: ImageEnhance.Brightness(photo).enhance(0.4),
    }
    for name, change in changes.items():
        (tmp_path / name).mkdir()
        for seed in range(100):
            change(texture(seed if name == "usual" else 500 + seed, width=64, height=48)).save(
                tmp_path / name / f"{seed:03}.png"
            )
    (tmp_path / "usual" / "torn.png").write_bytes(b"\x89PNG nothing")
    run = CliRunner()
    told = run.invoke(
        app, ["model", "reference", str(tmp_path), str(tmp_path / "usual")], catch_exceptions=False
    )
    assert "100 photos" in told.stdout and "torn.png: can't be read" in told.stderr
    asked = ["model", "watch", str(tmp_path)]
    told = run.invoke(app, [*asked, "--reference", str(tmp_path / "none.json"), str(tmp_path / "usual")])
    assert "'fedrec model reference' makes one" in str(told.exception)
    assert run.invoke(app, [*asked, str(tmp_path / "usual")]).stdout == (
        "100 photos, 1 window of 100: 0 alarms\n"
    )
    told = run.invoke(app, [*asked, str(tmp_path / "soft")], catch_exceptions=False)
    assert "ALARM blur after 50 photos: The photos are less sharp than usual. Look at: a lens" in told.stdout
    told = run.invoke(app, [*asked, str(tmp_path / "night"), "--json"], catch_exceptions=False)
    *alarms, end = map(json.loads, told.stdout.splitlines())
    assert "dark" in {alarm["alarm"] for alarm in alarms} and end["windows_with_alarms"] == 1
    monkeypatch.setattr(Colours, "embedding_id", "another")
    assert isinstance(run.invoke(app, [*asked, str(tmp_path / "soft")]).exception, ConfigError)
