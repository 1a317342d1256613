"""Keep the server's durable state: reserve rounds before use, and replace the state atomically."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray
from pydantic import TypeAdapter

from fedrec._internal.files import replacing, write_atomically
from fedrec._internal.json_files import read_checked, write_json
from fedrec._internal.validation_messages import problem_text
from fedrec.errors import TrainingError
from fedrec.protocol.statements import SignedSealingKey
from fedrec.protocol.training_report.round_line import RoundRecord
from fedrec.server.optimizers.interface import State
from fedrec.server.reservation import RESERVATION, ConductRecord, Reservation
from fedrec.server.stored_figures import StoredFigures
from fedrec.server.weights import Weights

_STATE = "state."
"""The prefix of the names of the global model's arrays in the file."""
_KEYS = TypeAdapter(tuple[SignedSealingKey, ...])
Content = TypeVar("Content")


class Checkpoint:
    """The last reserved round and the global model of one training, in a folder of its own."""

    def __init__(self, folder: Path, *, training_id: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._training_id = training_id
        self._reserved = folder / RESERVATION
        self._state = folder / "state.npz"
        self._committee = folder / "committee.json"
        self._best = folder / "best-parameters.f32"
        self._figures = folder / "figures.json"

    def sealing_keys(self) -> tuple[SignedSealingKey, ...]:
        """Return the committee's public sealing keys of this training, empty if none were kept."""
        if not self._committee.exists():
            return ()
        found = _read(self._committee, _KEYS.validate_json)
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
        return self._reservation().round

    def conduct(self) -> ConductRecord | None:
        """Return the last stored record of the merchants' conduct, None before the first."""
        return self._reservation().conduct

    def survivors(self) -> str | None:
        """Return the hash of the survivor set that a campaign has fixed, None before."""
        return self._reservation().survivors

    def _reservation(self) -> Reservation:
        if not self._reserved.exists():
            return Reservation(training_id=self._training_id, round=0, conduct=None, survivors=None)
        found = _read(self._reserved, Reservation.model_validate_json)
        if found.training_id != self._training_id:
            raise TrainingError("the checkpoint is of another training: give this one a folder of its own")
        return found

    def reserve(self, round_number: int, *, conduct: ConductRecord | None = None) -> None:
        """Reserve a round number for good, and store the record of the merchants' conduct with it.

        Args:
            round_number: the round that is about to begin.
            conduct: the record; None keeps the stored one.

        Raises:
            TrainingError: the round, or a later one, was reserved before.
        """
        before = self._reservation()
        if round_number <= before.round:
            raise TrainingError(
                f"round {round_number} was run before (the last one is {before.round}): it is never run twice"
            )
        known = before.conduct if conduct is None else conduct
        self._keep_reservation(before.model_copy(update={"round": round_number, "conduct": known}))

    def figures(self) -> StoredFigures | None:
        """Return what was stored of the round of site figures, None before it was begun."""
        if not self._figures.exists():
            return None
        return _read(self._figures, StoredFigures.model_validate_json)

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

    def keep_conduct(self, record: ConductRecord) -> None:
        """Store the record of the merchants' conduct with the last reserved round."""
        self._keep_reservation(self._reservation().model_copy(update={"conduct": record}))

    def keep_survivors(self, digest: str) -> None:
        """Store the hash of the survivor set that a campaign has fixed."""
        self._keep_reservation(self._reservation().model_copy(update={"survivors": digest}))

    def _keep_reservation(self, reservation: Reservation) -> None:
        write_json(self._reserved, reservation.model_dump(mode="json"))

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


def _read(path: Path, parse: Callable[[bytes], Content]) -> Content:
    return read_checked(path, parse, what="checkpoint of this version", error=TrainingError)


def _unreadable(path: Path, error: Exception) -> TrainingError:
    return TrainingError(f"the checkpoint {path} can't be read: {problem_text(error)}")
