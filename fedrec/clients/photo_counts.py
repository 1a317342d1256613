"""Count what became of a merchant's photos or products in a training, and say it in words."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from fedrec._internal.text import counted
from fedrec.protocol.plan import Unit

ChangedData = Literal["refuse", "count_together"]
SET_CHANGED = (
    "the ledger counts all {unit}s together: what was spent holds for the new ones too, and nothing more is "
    "charged for them"
)
"""What a changed set means for the ledger."""


class PhotoCounts(BaseModel):
    """Numbers of records (photos or products) in one training, for the merchant alone.

    Attributes:
        unit: what a record is.
        held: records in the folder.
        used: records in the folder that the training's next step may use.
        added: records of the training's set that no earlier charge counted.
        new: records in the folder that came after the set was fixed, or that the policy leaves out.
        other_class: records in the folder whose class isn't in the training.
        beyond_share: records in the folder that are left out because the plan is for smaller merchants.
        missing: records of the training's set that are deleted, edited or unreadable.
        forgotten: records of the training's set that the merchant has forgotten.
        problem: why the folder can't be read; empty if it can.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    unit: Unit
    held: int = 0
    used: int = 0
    added: int = 0
    new: int = 0
    other_class: int = 0
    beyond_share: int = 0
    missing: int = 0
    forgotten: int = 0
    problem: str = ""


def photo_text(counts: PhotoCounts, *, changed_data: ChangedData) -> str:
    """Say in one line which records a training uses, and what became of the others.

    Args:
        counts: the numbers.
        changed_data: the policy's rule.

    Returns:
        The line.
    """
    unit = counts.unit
    if counts.problem:
        return f"noise alone is sent: {counts.problem}"
    if counts.used:
        parts = [f"{counts.used:,} of {counted(counts.held, unit)} are used"]
    else:
        none = "none has a class of the training" if not counts.missing else "none of its set is there"
        parts = [f"noise alone is sent: of {counted(counts.held, unit)}, {none}"]
    if counts.added:
        parts.append(
            f"{counts.added:,} of the set are new since the last charge: {SET_CHANGED}".format(unit=unit)
        )
    if counts.beyond_share:
        parts.append(f"{counts.beyond_share:,} are left out, because the plan is for smaller merchants")
    if counts.used and counts.other_class:
        parts.append(f"{counts.other_class:,} have a class that isn't in the training")
    if counts.missing:
        are, were = ("is", "was") if counts.missing == 1 else ("are", "were")
        parts.append(
            f"{counts.missing:,} of the set {were} deleted, edited or can't be read, and {are} in no step"
        )
    if counts.forgotten:
        parts.append(f"{counts.forgotten:,} are forgotten")
    if counts.new and changed_data == "count_together":
        parts.append(f"{counts.new:,} were added since the set was fixed, and wait for the next training")
    elif counts.new:
        parts.append(
            f"{counts.new:,} added since the last charge are left out: policy 'changed_data' is 'refuse', "
            "'count_together' would use them from the next training on"
        )
    return "; ".join(parts)
