"""The files of a campaign that is under way, and what the operator may see of them without any secret."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import FailFast, Field

from fedrec._internal.files import sync_folder, write_atomically
from fedrec._internal.text import listed
from fedrec.errors import ProtocolError, TrainingError
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.reading import read_json
from fedrec.protocol.schema import MAX_PEERS, Hash, PartyName, Strict
from fedrec.server.trainings import Training

FOLDER: Final = "window"
"""The campaign's folder in the folder of its training."""
ReplyKind = Literal["upload", "answer"]
Seconds = Annotated[int, Field(ge=0, le=253_402_300_799)]
"""A time up to the year 9999, in seconds since 1970 (UTC)."""


class Window(Strict):
    """When a campaign's window began and ends, in seconds since 1970 (UTC)."""

    training_id: Hash
    began: Seconds
    ends: Seconds

    @property
    def end(self) -> datetime:
        """When the window ends."""
        return datetime.fromtimestamp(self.ends, UTC)


class Survivor(Strict):
    """A merchant in the sum, and the SHA-256 of its signed commitment."""

    merchant: PartyName
    commitment_hash: Hash


class SurvivorSet(Strict):
    """The one set of uploads that a campaign asks its committee to open, and when it was fixed."""

    training_id: Hash
    fixed: Seconds
    survivors: Annotated[tuple[Survivor, ...], FailFast(), Field(max_length=MAX_PEERS)]


class CampaignFiles:
    """The paths of a campaign's files, and its two small records, each written once.

    Args:
        training: the folder of the training.
        plan: its plan.
    """

    def __init__(self, training: Path, *, plan: TrainingPlan) -> None:
        self.folder = training / FOLDER
        self.plan = plan
        # A party's file has the number of its place on the roster: names may differ in case alone.
        self._places = {peer.name: place for place, peer in enumerate(plan.parties)}

    def path(self, kind: ReplyKind, merchant: str) -> Path:
        """Return the path of a merchant's stored reply.

        Args:
            kind: which of its replies.
            merchant: its name on the roster.

        Returns:
            The path; there may be no file.
        """
        return self.folder / f"{kind}-{self._places[merchant]:04d}.bin"

    def stored(self, kind: ReplyKind) -> list[str]:
        """Return the merchants with a stored reply of a kind, in the roster's order."""
        return [name for name in self._places if self.path(kind, name).exists()]

    def window(self) -> Window | None:
        """Return the window; None before it begins."""
        path = self.folder / "window.json"
        if not path.exists():
            return None
        found: Window = self._read(path, Window)
        if found.ends - found.began != self.plan.upload_window:
            raise TrainingError(f"{path} has a window of another length than the plan's")
        return found

    def write_window(self, window: Window) -> None:
        """Record durably that the window begins."""
        self._write_once(self.folder / "window.json", window)

    def survivors(self) -> SurvivorSet | None:
        """Return the survivor set; None before it is fixed."""
        path = self.folder / "survivors.json"
        return self._read(path, SurvivorSet) if path.exists() else None

    def write_survivors(self, survivors: SurvivorSet) -> None:
        """Fix the survivor set durably; ``TrainingError`` if one was fixed before."""
        self._write_once(self.folder / "survivors.json", survivors)

    def make_folder(self) -> None:
        """Make the campaign's folder, durably, if it doesn't exist."""
        if not self.folder.exists():
            self.folder.mkdir(mode=0o700, exist_ok=True)
            sync_folder(self.folder.parent)

    def _write_once(self, path: Path, record: Window | SurvivorSet) -> None:
        self.make_folder()
        if path.exists():
            raise TrainingError(f"{path} was written before: a campaign never begins or closes twice")
        write_atomically(path, record.canonical_bytes(), mode=0o600)

    def _read(self, path: Path, kind: type[Window] | type[SurvivorSet]) -> Any:
        try:
            found = read_json(path.read_bytes(), kind)
        except (OSError, ProtocolError) as error:
            raise TrainingError(f"{path} can't be used: {error}") from None
        if found.training_id != self.plan.training_id:
            raise TrainingError(f"{path} is of another training")
        return found


@dataclass(frozen=True)
class CampaignProgress:
    """How far a campaign is.

    Attributes:
        since: when uploads, or the answers that open the sum, began to be waited for; None before the window.
        ends: when its window ends; None while the committee's keys are missing.
        uploaded: the merchants whose uploads are stored.
        missing: those whose uploads aren't, in the roster's order.
        closed: whether the survivor set is fixed.
        answered: the committee's members whose answers are stored.
        awaited: those whose answers aren't, in the roster's order.
        needed: how many answers open the sum.
    """

    since: datetime | None
    ends: datetime | None
    uploaded: tuple[str, ...]
    missing: tuple[str, ...]
    closed: bool
    answered: tuple[str, ...]
    awaited: tuple[str, ...]
    needed: int

    @property
    def text(self) -> str:
        """The progress in one line."""
        if self.ends is None:
            return "begins once the committee's keys are known"
        cohort = len(self.uploaded) + len(self.missing)
        missing = f"; missing: {listed(self.missing)}" if self.missing else ""
        uploads = f"{len(self.uploaded)} of {cohort} uploads{missing}"
        if not self.closed:
            return f"until {self.ends:%Y-%m-%d %H:%M} UTC: {uploads}"
        awaited = f"; waits for {listed(self.awaited)}" if len(self.answered) < self.needed else ""
        return f"closed: {uploads}; {len(self.answered)} of the {self.needed} answers needed{awaited}"


def read_progress(training: Path, plan: TrainingPlan) -> CampaignProgress | None:
    """Read how far a campaign is, from its files alone.

    Args:
        training: the folder of the training.
        plan: its plan.

    Returns:
        The progress; None for a training without a window, and for a campaign that is over.

    Raises:
        TrainingError: a file can't be read.
    """
    if plan.upload_window is None or (training / "rounds.jsonl").exists():
        return None
    files = CampaignFiles(training, plan=plan)
    window, fixed = files.window(), files.survivors()
    uploaded = files.stored("upload")
    if fixed is not None:
        uploaded = [survivor.merchant for survivor in fixed.survivors]
    answered = files.stored("answer")
    since = window.began if window is not None else None
    if fixed is not None:
        since = fixed.fixed
    return CampaignProgress(
        since=None if since is None else datetime.fromtimestamp(since, UTC),
        ends=None if window is None else window.end,
        uploaded=tuple(uploaded),
        missing=tuple(peer.name for peer in plan.roster if peer.name not in uploaded),
        closed=fixed is not None,
        answered=tuple(answered),
        awaited=tuple(
            peer.name for peer in plan.parties if peer.name in plan.committee and peer.name not in answered
        ),
        needed=plan.threshold,
    )


def shown_progress(training: Path, plan: TrainingPlan) -> CampaignProgress | None:
    """Read how far a campaign is, for a page that shows other things too.

    Args:
        training: the folder of the training.
        plan: its plan.

    Returns:
        The progress; also None where a file can't be used, as the training's status then says.
    """
    try:
        return read_progress(training, plan)
    except TrainingError:
        return None


def delete_cancelled(trainings: Iterable[Training]) -> None:
    """Delete what campaigns that were cancelled while no server ran have stored."""
    for training in trainings:
        if (training.folder / FOLDER).exists() and training.is_cancelled():
            shutil.rmtree(training.folder / FOLDER)
