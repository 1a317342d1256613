"""Define a line of ``rounds`` in a training's report, and of ``rounds.jsonl``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from fedrec.protocol.schema import Strict
from fedrec.protocol.training_report.values import Amount, Count, Epsilon, Share


class ReportedRound(Strict):
    """A finished round.

    Attributes:
        round: its number.
        opened: whether its sum was opened.
        contributors: how many uploads are in its sum.
        dropouts: how many merchants of the cohort contributed nothing.
        seconds: how long it took.
        seconds_train: how long the collection of uploads took.
        seconds_unmask: how long the opening took.
        bytes_up: bytes from merchants.
        bytes_down: bytes to merchants.
        upload_bytes: bytes of the largest upload.
        reason: why it was lost; None of an opened one.
        merchants: names of the contributors, in the roster's order.
        noise_kept: deviation of the honest contributors' noise in the opened sum, divided by the one that is
            guaranteed; None of a lost round, and where the noise isn't shared out.
        accuracy: measured after the round; None where it wasn't.
        f1_macro: likewise.
        epsilon: of all rounds so far, in the server's view; None without a guarantee.
    """

    round: Annotated[int, Field(ge=1)]
    opened: bool
    contributors: Count
    dropouts: Count
    seconds: Amount
    seconds_train: Amount
    seconds_unmask: Amount
    bytes_up: Count
    bytes_down: Count
    upload_bytes: Count
    reason: str | None
    merchants: tuple[str, ...]
    noise_kept: Amount | None
    accuracy: Share | None
    f1_macro: Share | None
    epsilon: Epsilon | None
