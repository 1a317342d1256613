"""Define the sections of a training's report on the run, its data and its cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from fedrec.protocol.schema import Hash, Strict
from fedrec.protocol.training_report.values import Amount, Count

DEPLOYED = "deployment"
"""What the report of a deployment names as its engine."""


class RunSection(Strict):
    """How a training was run.

    Attributes:
        id: the run's id.
        seconds: how long it took.
        engine: what ran the merchants.
        workers: number of worker processes; None of a deployment, where each merchant has its own.
        merchants: size of the cohort.
        rounds: rounds of the plan.
        dataset: name of the data; None of a deployment, whose photos are the merchants' own.
        partition: how the data was divided among merchants; None of a deployment.
        model: name of the model.
        model_code: hash of the model's code where it is not this package's own.
        optimizer: how the server updates the model, in words.
        learning_rate: the server's learning rate; None where the model is solved from the opened sum.
        local_steps: steps of a merchant in a round.
        local_learning_rate: learning rate of these steps; None where a merchant sends a gradient.
        loss: what merchants minimise, in words.
        early_stopping: how the training may end early, in words; None if it can't.
        parameters: number of the model's parameters.
        seed: the run's seed; None without one.
        training_id: hash of the plan.
    """

    id: str
    seconds: Amount
    engine: str
    workers: Count | None
    merchants: Annotated[int, Field(ge=1)]
    rounds: Annotated[int, Field(ge=1)]
    dataset: str | None
    partition: str | None
    model: str
    model_code: str | None
    optimizer: str
    learning_rate: float | None
    local_steps: Annotated[int, Field(ge=1)]
    local_learning_rate: float | None
    loss: str
    early_stopping: str | None
    parameters: Annotated[int, Field(ge=1)]
    seed: int | None
    training_id: Hash

    @property
    def deployed(self) -> bool:
        """Whether this was a deployment, and not a simulation."""
        return self.engine == DEPLOYED


class SkippedFile(Strict):
    """A file that could not be used: its name, its merchant, and why."""

    name: str
    reason: str
    merchant: str | None = None


class DataSection(Strict):
    """The photos of a training; what a server can't know of its merchants' is None or empty.

    Attributes:
        records: number of records; of a deployment the sum of the noised sizes that merchants declared.
        skipped: files that could not be used.
        ignored: how many other entries of the folder were no photos, by the reason.
        folders: how many folders were read.
        notes: what a reader must know of how names and folders were read.
        duplicates_dropped: records dropped as exact copies.
        near_duplicates: photos that look like another one of their merchant; all of them are kept.
        evaluation_copies_dropped: records to measure on that were dropped as copies of ones trained on.
    """

    records: Count
    skipped: tuple[SkippedFile, ...]
    ignored: Mapping[str, Count]
    folders: Count | None
    notes: tuple[str, ...]
    duplicates_dropped: Count | None
    near_duplicates: Count | None
    evaluation_copies_dropped: Count | None


class CostSection(Strict):
    """What a training cost; a deployed server doesn't know the time that its merchants spent.

    Attributes:
        bytes_up: bytes from all merchants, in all rounds.
        bytes_down: bytes to all merchants, in all rounds.
        peak_memory_bytes: the largest memory use of the server, or of the whole simulation.
        seconds_train: CPU seconds of training, all merchants together; None if that isn't known.
    """

    bytes_up: Count
    bytes_down: Count
    peak_memory_bytes: Count
    seconds_train: Amount | None
