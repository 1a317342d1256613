"""The server's state on disk, and the files that replace each other: whole, or the old one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedrec.errors import TrainingError
from fedrec.files import replacing, write_atomically
from fedrec.server.checkpoint import Checkpoint
from fedrec.server.optimizer import ServerOptimizer


@pytest.mark.parametrize("damage", [b"", b"rubbish", None])
def test_a_damaged_checkpoint_is_one_line(tmp_path: Path, damage: bytes | None) -> None:
    checkpoint = Checkpoint(tmp_path, training_id="t")
    optimizer = ServerOptimizer.start(np.arange(5.0), learning_rate=0.5, momentum=0.9, ema_decay=0.9)
    checkpoint.reserve(1)
    optimizer.step(np.ones(5))
    checkpoint.save(optimizer, round_number=1, record={"round": 1})
    again = ServerOptimizer.start(np.zeros(5), learning_rate=0.5, momentum=0.9, ema_decay=0.9)
    assert checkpoint.restore(again) == 1 and checkpoint.last_record() == {"round": 1}
    for name in ("parameters", "velocity", "average", "steps"):
        np.testing.assert_array_equal(getattr(again, name), getattr(optimizer, name))
    for step in (optimizer, again):
        step.step(np.ones(5))
    np.testing.assert_array_equal(again.model, optimizer.model)
    whole = (tmp_path / "state.npz").read_bytes()
    # Its vectors lie before the last kilobyte: one changed byte is found by the file's own checksum.
    (tmp_path / "state.npz").write_bytes(whole[:150] + b"\xff" + whole[151:] if damage is None else damage)
    with pytest.raises(TrainingError, match=r"state\.npz can't be read"):
        checkpoint.restore(again)
    other = ServerOptimizer.start(np.zeros(6), learning_rate=0.5, momentum=0.9, ema_decay=0.9)
    (tmp_path / "state.npz").write_bytes(whole)
    with pytest.raises(TrainingError, match="another model"):
        checkpoint.restore(other)


def test_what_fails_while_it_is_written_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with pytest.raises(RuntimeError), replacing(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"old"
