"""The server's state on disk, and the files that replace each other: whole, or the old one."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from fedrec._internal.files import replacing, write_atomically
from fedrec.errors import TrainingError
from fedrec.server.checkpoint import Checkpoint
from fedrec.server.optimizers.sgd import Sgd
from fedrec.server.reservation import ConductRecord
from fedrec.server.weights import Weights
from tests.support.training_reports import A_ROUND


def weights(dimension: int = 5) -> Weights:
    rule = Sgd(dimension, learning_rate=0.5, momentum=0.9)
    return Weights.start(np.arange(float(dimension)), rule, averaging=0.9)


def assert_same(first: Weights, second: Weights) -> None:
    one, other = first.state(), second.state()
    assert set(one) == set(other) == {"parameters", "average", "steps", "optimizer.velocity"}
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


@pytest.fixture
def saved(tmp_path: Path) -> Weights:
    """A model after a step, which is on disk below the test's folder."""
    checkpoint, made = Checkpoint(tmp_path, training_id="t"), weights()
    checkpoint.reserve(1)
    made.step(np.ones(5))
    checkpoint.save(made, round_number=1, record=A_ROUND)
    return made


def test_what_is_restored_goes_on_as_what_was_saved(tmp_path: Path, saved: Weights) -> None:
    checkpoint, again = Checkpoint(tmp_path, training_id="t"), weights()
    assert checkpoint.restore(again) == 1 and checkpoint.last_record() == A_ROUND
    assert again.steps == saved.steps == 1
    for step in (saved, again):
        step.step(np.ones(5))
    assert_same(again, saved)
    # Against the formulas, from scratch: two steps of momentum, and the average warmed up.
    velocity, point, average = np.zeros(5), np.arange(5.0), np.arange(5.0)
    for count in range(2):
        velocity = 0.9 * velocity + 1
        point = point - 0.5 * velocity
        decay = min(0.9, (1 + count) / (10 + count))
        average = decay * average + (1 - decay) * point
    np.testing.assert_allclose(saved.parameters, point, rtol=1e-15)
    np.testing.assert_allclose(saved.reported, average, rtol=1e-15)


@pytest.mark.usefixtures("saved")
def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="another model"):
        Checkpoint(tmp_path, training_id="t").restore(weights(6))


@pytest.mark.parametrize("content", [b"", b"rubbish"])
@pytest.mark.usefixtures("saved")
def test_a_damaged_checkpoint_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "state.npz").write_bytes(content)
    checkpoint = Checkpoint(tmp_path, training_id="t")
    for read in (checkpoint.last_record, lambda: checkpoint.restore(weights())):
        with pytest.raises(TrainingError, match=r"state\.npz can't be read"):
            read()


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        (("round",), -1, "'round' must be 0 or more"),
        (("round",), "1", "'round' must be a whole number"),
        (("rounds",), 1, "'rounds' is unknown"),
        (("survivors",), "00", "'survivors' must be 64 hexadecimal digits"),
        (("conduct",), [], "'conduct' must be an object"),
        (("conduct", "rotation", "cleared"), {"m0": -1}, "'conduct.rotation.cleared.m0' must be 0 or more"),
        (("conduct", "rotation", "order"), ["m0"], "'conduct.rotation.order' is unknown"),
        (("conduct", "lateness", "until"), {"m0": 1.5}, "'conduct.lateness.until.m0' must be a whole number"),
        (("conduct", "losses", "level"), "high", "'conduct.losses.level' must be a number"),
        (("conduct", "complaints", "complaints"), {"m0": "m1"}, "'conduct.complaints.complaints.m0' must be"),
    ],
)
def test_a_hostile_reservation_is_one_line_with_the_place(
    tmp_path: Path, place: tuple[str, ...], value: object, told: str
) -> None:
    checkpoint, path = Checkpoint(tmp_path, training_id="t"), tmp_path / "reserved.json"
    checkpoint.reserve(3, conduct=ConductRecord())
    body = json.loads(path.read_text())
    part = body
    for name in place[:-1]:
        part = part[name]
    part[place[-1]] = value
    path.write_text(json.dumps(body))
    for read in (checkpoint.last_reserved, checkpoint.conduct, lambda: checkpoint.reserve(4)):
        with pytest.raises(TrainingError) as caught:
            read()
        assert str(caught.value).startswith(f"{path} is no checkpoint of this version: {told}")
        assert "\n" not in str(caught.value)


def test_a_round_of_another_training_is_refused(tmp_path: Path) -> None:
    Checkpoint(tmp_path, training_id="t").reserve(1)
    with pytest.raises(TrainingError, match="of another training"):
        Checkpoint(tmp_path, training_id="u").last_reserved()


def test_a_changed_byte_is_one_line_or_changes_nothing(tmp_path: Path, saved: Weights) -> None:
    whole = (tmp_path / "state.npz").read_bytes()
    checkpoint, refused = Checkpoint(tmp_path, training_id="t"), 0
    for place in range(len(whole)):
        flipped = bytes([whole[place] ^ 0xFF])
        (tmp_path / "state.npz").write_bytes(whole[:place] + flipped + whole[place + 1 :])
        again = weights()
        refused += 1
        with suppress(TrainingError):
            checkpoint.restore(again)
            assert_same(again, saved)
            refused -= 1
    assert refused > len(whole) / 2


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with pytest.raises(RuntimeError), replacing(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_of_one_file_never_mix_their_bytes(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 255)
    with replacing(path) as first:
        first.write(b"1" * 10)
        with replacing(path) as second:
            second.write(b"2" * 1000)
            second.flush()
            first.write(b"1" * 10)
            first.flush()
        assert path.read_bytes() == b"2" * 1000
    assert path.read_bytes() == b"1" * 20
    assert list(tmp_path.iterdir()) == [path]


def test_what_killed_writers_left_goes_once_it_is_old(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    names: list[str] = []
    for folder in (first, second):
        folder.mkdir()
    for _ in range(2):
        write_atomically(
            first / "file", b"", on_event=lambda event: names.extend({path.name for path in first.iterdir()})
        )
    old, young = sorted(set(names) - {"file"})
    kept = (second / young, second / "mine.tmp", second / f"{young}.txt")
    for path in (second / old, *kept):
        path.write_bytes(b"half")
    for path in (second / old, *kept[1:]):
        os.utime(path, (0, 0))
    write_atomically(second / "file", b"whole")
    assert set(second.iterdir()) == {second / "file", *kept}
