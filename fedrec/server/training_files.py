"""Define what the server keeps of a training beside its plan: how it was filed, and its status."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AwareDatetime, PlainSerializer

from fedrec._internal.moments import iso_text
from fedrec.protocol.schema import Hash, Strict

Status = Literal["filed", "running", "done", "failed", "cancelled"]
Moment = Annotated[AwareDatetime, PlainSerializer(iso_text, return_type=str)]


class TrainingState(Strict):
    """The status of a training.

    Attributes:
        status: the status.
        reason: why it failed, or what it waits for; empty for neither.
        started: when it first ran; None before.
        since: since when it has its status, or waits.
    """

    status: Status
    reason: str
    started: Moment | None
    since: Moment


class Filing(Strict):
    """How a training was filed.

    Attributes:
        training_id: the hash of its plan.
        eval_data: the folder of public photos to evaluate on, if there is one.
        initial_seed: the seed of the initial weights, which are public.
        run_id: what a simulation's report calls the run; None in a deployment.
        start_from: the number of the training whose result this one starts from; None if there is none.
    """

    training_id: Hash
    eval_data: str | None
    initial_seed: int
    run_id: str | None = None
    start_from: str | None = None
