"""Keep the server's durable state: reserve rounds before use, and replace the state atomically."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from fedrec._internal.files import replacing, write_atomically
from fedrec._internal.json_files import write_json
from fedrec._internal.validation_messages import problem_text
from fedrec.errors import TrainingError
from fedrec.protocol.statements import SignedSealingKey
from fedrec.protocol.training_report.round_line import RoundRecord
from fedrec.server.optimizers.interface import State
from fedrec.server.stored_figures import StoredFigures
from fedrec.server.weights import Weights

_STATE = "state."
"""The prefix of the names of the global model's arrays in the file."""
_KEYS = TypeAdapter(tuple[SignedSealingKey, ...])
_VALUES = TypeAdapter(dict[str, Any])


class Checkpoint:
    """The last reserved round and the global model of one training, in a folder of its own."""

    def __init__(self, folder: Path, *, training_id: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._training_id = training_id
        self._reserved = folder / "reserved.json"
        self._state = folder / "state.npz"
        self._committee = folder / "committee.json"
        self._best = folder / "best-parameters.f32"
        self._figures = folder / "figures.json"

    def sealing_keys(self) -> tuple[SignedSealingKey, ...]:
        """Return the committee's public sealing keys of this training, empty if none were kept."""
        if not self._committee.exists():
            return ()
        try:
            found = _KEYS.validate_json(self._committee.read_bytes())
        except ValidationError as error:
            raise _unreadable(self._committee, error) from None
        return tuple(key for key in found if key.statement.training_id == self._training_id)

    def keep_sealing_keys(self, keys: Iterable[SignedSealingKey]) -> None:
        """Store the committee's public sealing keys: a member that is away at a restart keeps its place."""
        write_json(self._committee, [key.model_dump(mode="json") for key in keys])

    def keep_best(self, parameters: NDArray[np.float64]) -> None:
        """Store the parameters of the best round so far, shape (d,), as float32."""
        write_atomically(self._best, parameters.astype("<f4").tobytes())

    def best(self) -> NDArray[np.float64] | None:
        """Return the parameters of the best round, float64, shape (d,); None if none were stored."""
        if not self._best.exists():
            return None
        return np.frombuffer(self._best.read_bytes(), dtype="<f4").astype(np.float64)

    def last_reserved(self) -> int:
        """Return the highest round number ever reserved, 0 before the first."""
        reserved = self._read_reserved()
        return 0 if reserved is None else int(reserved["round"])

    def conduct(self) -> dict[str, Any] | None:
        """Return the last stored record of the merchants' conduct (JSON values), None before the first."""
        reserved = self._read_reserved()
        found: dict[str, Any] | None = None if reserved is None else reserved.get("conduct")
        return found

    def _read_reserved(self) -> dict[str, Any] | None:
        if not self._reserved.exists():
            return None
        reserved = _read_values(self._reserved)
        if reserved.get("training_id") != self._training_id:
            raise TrainingError("the checkpoint is of another training: give this one a folder of its own")
        return reserved

    def reserve(self, round_number: int, *, conduct: Mapping[str, Any] | None = None) -> None:
        """Reserve a round number for good, and store the record of the merchants' conduct with it.

        Args:
            round_number: the round that is about to begin.
            conduct: the record, JSON values; None keeps the stored one.

        Raises:
            TrainingError: the round, or a later one, was reserved before.
        """
        last = self.last_reserved()
        if round_number <= last:
            raise TrainingError(
                f"round {round_number} was run before (the last one is {last}): it is never run twice"
            )
        self._write_reserved(round_number, self.conduct() if conduct is None else conduct)

    def figures(self) -> StoredFigures | None:
        """Return what was stored of the round of site figures, None before it was begun."""
        if not self._figures.exists():
            return None
        try:
            return StoredFigures.model_validate_json(self._figures.read_bytes())
        except ValidationError as error:
            raise _unreadable(self._figures, error) from None

    def reserve_figures(self) -> None:
        """Note durably that the round of site figures begins.

        Raises:
            TrainingError: it was begun before: it is never run twice.
        """
        if self.figures() is not None:
            raise TrainingError("the round of site figures was run before: it is never run twice")
        self.keep_figures(StoredFigures())

    def keep_figures(self, figures: StoredFigures) -> None:
        """Store what came of the round of site figures."""
        write_json(self._figures, figures.model_dump(mode="json"))

    def keep_conduct(self, state: Mapping[str, Any]) -> None:
        """Store the record of the merchants' conduct (JSON values) with the last reserved round."""
        self._write_reserved(self.last_reserved(), state)

    def _write_reserved(self, round_number: int, conduct: Mapping[str, Any] | None) -> None:
        state = {"training_id": self._training_id, "round": round_number, "conduct": conduct}
        write_json(self._reserved, state)

    def save(self, weights: Weights, *, round_number: int, record: RoundRecord) -> None:
        """Store the global model after a round and the round's record in one file, atomically.

        Args:
            weights: the global model.
            round_number: the round that has ended.
            record: the round's record.

        Raises:
            TrainingError: the optimizer's state isn't all numeric arrays. Nothing is ever pickled.
        """
        state = {f"{_STATE}{name}": array for name, array in weights.state().items()}
        if any(array.dtype.kind not in "biuf" for array in state.values()):
            raise TrainingError("the server's optimizer has a state that isn't all numeric arrays")
        with replacing(self._state) as file:
            np.savez(
                file,
                allow_pickle=False,
                round=np.array([round_number], dtype=np.int64),
                record=np.frombuffer(record.model_dump_json().encode(), dtype=np.uint8),
                **state,
            )

    def last_record(self) -> RoundRecord | None:
        """Return the record that is stored with the state, None if there is none."""
        if self.last_reserved() == 0 or not self._state.exists():
            return None
        with self._stored() as state:
            return RoundRecord.model_validate_json(state["record"].tobytes())

    def restore(self, weights: Weights) -> int:
        """Load the stored state into ``weights``.

        Returns:
            The number of the round that it is after, 0 if there is no state.

        Raises:
            TrainingError: the state is of another model or optimizer, or can't be read.
        """
        if self.last_reserved() == 0 or not self._state.exists():
            return 0
        with self._stored() as stored:
            found = {name[len(_STATE) :]: stored[name] for name in stored.files if name.startswith(_STATE)}
            round_number = int(stored["round"][0])
        if _layout(found) != _layout(weights.state()):
            raise TrainingError("the checkpoint is of another model, or of another optimizer")
        weights.load(found)
        return round_number

    @contextmanager
    def _stored(self) -> Iterator[NpzFile]:
        """Open the stored state; turn errors in reading it, also inside the block, into ``TrainingError``."""
        try:
            with np.load(self._state, allow_pickle=False) as state:
                yield state
        # A damaged archive header can request features that zipfile doesn't implement: a RuntimeError.
        except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
            raise _unreadable(self._state, error) from None


def _layout(state: State) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Return shape and dtype of each array, by name."""
    return {name: (array.shape, array.dtype) for name, array in state.items()}


def _read_values(path: Path) -> dict[str, Any]:
    try:
        return _VALUES.validate_json(path.read_bytes())
    except ValidationError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> TrainingError:
    return TrainingError(f"the checkpoint {path} can't be read: {problem_text(error)}")
