"""Run a training of one round whose uploads arrive over days: merchants and committee needn't meet.

1. The committee's members bring their keys, in any order and on any day. Then the window begins.
2. Each merchant is asked for its upload while it is connected. An upload is stored before its receipt is.
3. The window ends, or everybody has uploaded. The set of survivors is stored before a member is asked.
4. Each member is asked about this set while it is connected, until enough have answered. No other set of the
   campaign is ever asked about, whatever happens to the server in between.

The server may stop at any instant, and carries on from its files.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fedrec.errors import TrainingError
from fedrec.protocol.schema import sha256_hex
from fedrec.protocol.training_report.round_line import RoundRecord
from fedrec.server.attendance import OPENING_SECONDS, CohortIncompleteError
from fedrec.server.layer_removal import Opened
from fedrec.server.sum_opening import Opening
from fedrec.server.training_runner import TrainingRunner
from fedrec.server.uploads import Upload
from fedrec.server.window.campaign_files import CampaignFiles, SurvivorSet, Window, read_progress
from fedrec.server.window.campaign_uploads import ROUND, CampaignUploads
from fedrec.server.window.late_opening import LateOpening, LostCampaignError
from fedrec.server.window.stored_replies import StoredReplies

_log = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
_LOOKS_AT_THE_END = 3


@dataclass(kw_only=True)
class Campaign(TrainingRunner):
    """Run the one round of a plan with an upload window.

    Args:
        training: the folder of the training.
        pause: waits between two checks of who is connected; raises an error to end the run.
        tell: called with the campaign's progress in a line, when it has changed.
        now: returns the time in seconds since 1970.
    """

    training: Path
    pause: Callable[[], None] = lambda: time.sleep(_LOOK_SECONDS)
    tell: Callable[[str], None] = lambda text: None
    now: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.plan.rounds != ROUND or self.plan.upload_window is None:
            raise TrainingError("only a training of one round can have an upload window")
        self._length = self.plan.upload_window
        self._told = ""
        derived = self._derived
        self._files = CampaignFiles(self.training, plan=self.plan)
        self._replies = StoredReplies(
            self._files, upload_bytes=derived.upload_bytes, answer_bytes=derived.answer_bytes
        )
        self._total = derived.scheme.new_sum()
        self._uploads = CampaignUploads(
            grid=self.grid,
            plan=self.plan,
            cohort=self._cohort,
            receipts=self.receipts,
            signer=self.signer,
            files=self._files,
            replies=self._replies,
            model=self.weights.parameters.astype("<f4").tobytes(),
            total=self._total,
            upload_bytes=derived.upload_bytes,
            timeout=self.timeout,
            refusals=self.refusals,
            note=self._note_merchant,
            wait=self._wait,
            now=self.now,
            board=self.board,
        )

    def run(self) -> None:
        """Carry the campaign on from its files to its end, and close the training.

        Raises:
            CohortIncompleteError: no member of the committee has ever joined, so that nothing has begun.
            TrainingError: a file of the campaign can't be used.
        """
        self.checkpoint.restore(self.weights)
        last = self.checkpoint.last_record()
        if last is None:
            record = self._round()
            self.checkpoint.save(self.weights, round_number=ROUND, record=record)
        else:
            record = last
        self.on_round(record)
        for _ in range(_LOOKS_AT_THE_END):
            # After a restart, whoever is connected joins again, to be told the end.
            self._cohort.admit([peer.name for peer in self.plan.parties])
            self.pause()
        self.close()

    def close(self) -> None:
        """Delete what the campaign has stored, and tell the merchants that the training is over."""
        self._replies.delete()
        super().close()

    def _round(self) -> RoundRecord:
        window = self._begin()
        self._check_set(self._files.survivors())
        self._wait()
        uploads: list[Upload] = []
        fixed: SurvivorSet | None = None
        reason: str | None = None
        noise_kept: float | None = None
        late: LateOpening | None = None
        try:
            uploads, fixed = self._uploads.survivors(window)
            self._check_set(fixed)
            late = self._opening(uploads)
            opened = self._open(late)
            noise_kept = self._noise_kept(opened, round_number=ROUND)
            self._apply(opened)
        except LostCampaignError as error:
            reason = str(error)
        now = self.now()
        closed = now if fixed is None else float(fixed.fixed)
        merchants = tuple(upload.merchant for upload in self._uploads.collector.uploads())
        return RoundRecord(
            round=ROUND,
            opened=reason is None,
            contributors=len(merchants),
            dropouts=self.plan.cohort - len(merchants),
            seconds=max(0.0, now - window.began),
            seconds_train=max(0.0, closed - window.began),
            seconds_unmask=max(0.0, now - closed),
            bytes_up=self._uploads.bytes_up + (0 if late is None else late.bytes_up),
            bytes_down=self._uploads.bytes_down + (0 if late is None else late.bytes_down),
            upload_bytes=self._uploads.collector.largest,
            reason=reason,
            merchants=merchants,
            noise_kept=noise_kept,
        )

    def _begin(self) -> Window:
        """Wait for the committee's keys, each stored as it comes, and begin the window."""
        self._cohort.use_sealing_keys(self.checkpoint.sealing_keys())
        started = time.monotonic()
        while (missing := self._cohort.missing_keys()) is not None:
            known = len(self._cohort.sealing_keys)
            self._cohort.admit(self.plan.committee)
            keys = self._cohort.sealing_keys
            if len(keys) > known:
                self.checkpoint.keep_sealing_keys(keys)
            if keys:
                # A member would close this training if it joined another one.
                self._reserve()
            if self.checkpoint.last_reserved():
                self._tell(f"waits for the committee's keys: {missing}")
            elif time.monotonic() - started > OPENING_SECONDS:
                raise CohortIncompleteError(f"the committee is not complete: {missing}")
            self.pause()
        self._reserve()
        window = self._files.window()
        if window is None:
            began = int(self.now())
            window = Window(training_id=self.plan.training_id, began=began, ends=began + self._length)
            self._files.write_window(window)
            _log.info("the window of training %s ends at %s", self.plan.training_id[:16], window.end)
        return window

    def _check_set(self, fixed: SurvivorSet | None) -> None:
        """Record in the checkpoint which set is fixed.

        So a set whose file was removed, or put back from a backup, isn't fixed anew.

        Raises:
            TrainingError: another set was fixed before.
        """
        kept = self.checkpoint.survivors()
        found = None if fixed is None else sha256_hex(fixed.canonical_bytes())
        if kept is None and found is not None:
            self.checkpoint.keep_survivors(found)
        elif kept != found:
            raise TrainingError(
                "the survivor set was fixed before, and its file is gone or holds another one: put "
                "window/survivors.json and the uploads back, or cancel the training"
            )

    def _reserve(self) -> None:
        if self.checkpoint.last_reserved() < ROUND:
            self.checkpoint.reserve(ROUND)

    def _opening(self, uploads: list[Upload]) -> LateOpening:
        return LateOpening(
            opening=Opening(
                grid=self.grid,
                plan=self.plan,
                derived=self._derived,
                round_number=ROUND,
                total=self._total,
                uploads=uploads,
                nodes=self._cohort.nodes,
                receipts=self.receipts,
                signer=self.signer,
                distrusted=(),
                timeout=self.timeout,
                grace=self.grace,
                board=self.board,
            ),
            replies=self._replies,
            cohort=self._cohort,
            receipts=self.receipts,
            note=self._note_merchant,
        )

    def _open(self, late: LateOpening) -> Opened:
        """Open the sum of the survivor set, and of no other, as the committee's members come."""

        def wait() -> None:
            self._uploads.note_late()
            self._wait()

        opened = late.run(wait)
        self._uploads.note_late()
        for dealer, reason in late.opening.removal.faulty.items():
            self._note_merchant(dealer, f"its noise layers can't be removed: {reason}")
        return opened

    def _note_merchant(self, merchant: str, reason: str) -> None:
        self._note(ROUND, merchant, reason)

    def _wait(self) -> None:
        """Tell how far the campaign is, and wait until the next check."""
        progress = read_progress(self.training, self.plan)
        if progress is not None:
            self._tell(progress.text)
        self.pause()

    def _tell(self, text: str) -> None:
        if text != self._told:
            self._told = text
            self.tell(text)
