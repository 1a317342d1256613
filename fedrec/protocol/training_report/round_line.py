"""Define the record of a round, and its line in ``rounds`` of a training's report and in ``rounds.jsonl``."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field

from fedrec.protocol.schema import Strict
from fedrec.protocol.training_report.values import Amount, Count, Epsilon, Share


class RoundRecord(Strict):
    """What the server knows of a finished round.

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


class RoundLine(RoundRecord):
    """A finished round, and what is known after it.

    Attributes:
        accuracy: measured after the round; None where it wasn't.
        f1_macro: likewise.
        epsilon: of all rounds so far, in the server's view; None without a guarantee.
    """

    accuracy: Share | None
    f1_macro: Share | None
    epsilon: Epsilon | None

    @classmethod
    def of(
        cls, record: RoundRecord, *, accuracy: float | None, f1_macro: float | None, epsilon: float | None
    ) -> Self:
        """Return the line of a round.

        Args:
            record: what is known of the round.
            accuracy: measured after the round, if it was.
            f1_macro: likewise.
            epsilon: of all rounds so far; None without a guarantee.

        Returns:
            The line.
        """
        after = {"accuracy": accuracy, "f1_macro": f1_macro, "epsilon": epsilon}
        return cls.model_validate({**vars(record), **after})
