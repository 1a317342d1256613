"""Collect a campaign's uploads as its merchants come, and fix the set of survivors once."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from flwr.serverapp import Grid

from fedrec._internal.text import counted
from fedrec.errors import ProtocolError, TrainingError
from fedrec.privacy.aggregation.scheme import SumOfCiphertexts
from fedrec.protocol.messages import TrainReply
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.schema import sha256_hex
from fedrec.server.attendance import Attendance
from fedrec.server.message_exchange import ExchangeSettings
from fedrec.server.receipts import ReceiptBook
from fedrec.server.reply_board import ReplyBoard
from fedrec.server.request_signing import RequestSigner
from fedrec.server.round_records import place_in_round
from fedrec.server.uploads import Upload, UploadCollector, reply_bytes, train_requests
from fedrec.server.window.campaign_files import CampaignFiles, Survivor, SurvivorSet, Window
from fedrec.server.window.late_opening import LostCampaignError
from fedrec.server.window.standing_requests import StandingRequests
from fedrec.server.window.stored_replies import StoredReplies

_log = logging.getLogger(__name__)

ROUND = 1
"""The number of a campaign's only round."""
_LAST_SECONDS = 120.0
"""How long a request that is under way at the end of the window is waited for."""


@dataclass(kw_only=True)
class CampaignUploads:
    """The uploads of one campaign, from the files and from the network.

    Args:
        grid: the Flower Grid.
        plan: the training's plan.
        cohort: who is connected.
        receipts: the server's book of receipts.
        signer: signs the requests.
        files: the campaign's files.
        replies: the stored uploads.
        model: the parameters that merchants start from, little-endian float32.
        total: the sum of ciphertexts, to which every valid upload is added.
        upload_bytes: most bytes of an upload.
        timeout: in seconds, after which a request is given up.
        refusals: collects why uploads aren't counted.
        note: called with a merchant and what was found out about it.
        wait: called between two checks of who is connected; it waits, and raises an error to end the run.
        now: returns the time in seconds since 1970.

    Attributes:
        collector: the uploads so far.
        bytes_up: bytes of the uploads.
    """

    grid: Grid
    plan: TrainingPlan
    cohort: Attendance
    receipts: ReceiptBook
    signer: RequestSigner
    files: CampaignFiles
    replies: StoredReplies
    model: bytes
    total: SumOfCiphertexts
    upload_bytes: int
    timeout: float
    refusals: dict[str, str]
    note: Callable[[str, str], None]
    wait: Callable[[], None]
    now: Callable[[], float]
    board: ReplyBoard = field(default_factory=ReplyBoard)
    bytes_up: int = 0
    _restored: int = 0
    collector: UploadCollector = field(init=False)
    _requests: StandingRequests[TrainReply] = field(init=False)

    def __post_init__(self) -> None:
        self.collector = UploadCollector(
            self.total,
            plan=self.plan,
            round_number=ROUND,
            model_hash=sha256_hex(self.model),
            nodes={},
            receipts=self.receipts,
            note=self.note,
        )
        self._requests = StandingRequests(
            self.grid,
            ExchangeSettings(
                message_type="train",
                reply_type=TrainReply,
                max_blob_bytes=self.upload_bytes,
                timeout=self.timeout,
                group_id=str(ROUND),
                board=self.board,
            ),
        )

    @property
    def bytes_down(self) -> int:
        """Bytes of this process's requests, and of the models that were sent before it started."""
        return self._requests.bytes_down + self._restored * len(self.model)

    def survivors(self, window: Window) -> tuple[list[Upload], SurvivorSet]:
        """Return the survivor set: the stored one, or what has come by the end of the window.

        Args:
            window: the campaign's window.

        Returns:
            The uploads, and the set as it is stored.

        Raises:
            LostCampaignError: fewer have come than the plan requires.
            TrainingError: the set is fixed, and a stored upload of it can't be used.
        """
        fixed = self.files.survivors()
        if fixed is not None:
            return self._fixed(fixed), fixed
        self._restore_all()
        self._collect(window)
        uploads = self.collector.uploads()
        if len(uploads) < self.plan.min_contributors:
            raise LostCampaignError(
                f"{counted(len(uploads), 'contributor')} by the end of the window, fewer than the "
                f"{self.plan.min_contributors} required; those that uploaded stay charged"
            )
        fixed = SurvivorSet(
            training_id=self.plan.training_id,
            fixed=int(self.now()),
            survivors=tuple(_survivor(upload) for upload in uploads),
        )
        # Before a member is asked: after a restart the same set is asked about.
        self.files.write_survivors(fixed)
        return uploads, fixed

    def note_late(self) -> None:
        """Note whose uploads came after the survivor set was fixed; they get no receipt."""
        for merchant, _ in self._requests.pull():
            if merchant not in self.collector:
                self.note(
                    merchant, "its upload came after the window: it is not in the sum, and stays charged"
                )

    def _restore_all(self) -> None:
        """Rebuild the sum from the stored uploads; one that can't be used is asked for again."""
        for merchant in self.files.stored("upload"):
            try:
                self._restore(merchant)
            except ProtocolError as error:
                self.note(merchant, f"its stored upload can't be used: {error}")
                self.replies.drop_upload(merchant)

    def _fixed(self, fixed: SurvivorSet) -> list[Upload]:
        for survivor in fixed.survivors:
            try:
                self._restore(survivor.merchant)
            except (ProtocolError, KeyError) as error:
                raise TrainingError(
                    f"the survivor set is fixed, and the stored upload of {survivor.merchant} can't be used "
                    f"({error}): put it back from a backup, or cancel the training"
                ) from None
        uploads = self.collector.uploads()
        if tuple(_survivor(upload) for upload in uploads) != fixed.survivors:
            raise TrainingError("the stored uploads are not those of the survivor set, which is fixed")
        return uploads

    def _restore(self, merchant: str) -> None:
        """Check a stored upload as one from the network, and add it to the sum."""
        stored = self.replies.upload(merchant)
        if stored is None:
            raise ProtocolError("there is none")
        receipt = self.collector.add(merchant, *stored)
        if receipt is None:
            raise ProtocolError(self.refusals.get(place_in_round(ROUND, merchant), "it is not valid"))
        if not self.receipts.has(receipt):
            self.receipts.keep([receipt])
        self.bytes_up += reply_bytes(*stored)
        self._restored += 1

    def _collect(self, window: Window) -> None:
        """Ask each merchant for its upload while it is connected, until all have come or the window ends."""
        everybody = [peer.name for peer in self.plan.roster]
        while len(self.collector) < self.plan.cohort and self.now() < window.ends:
            connected = self.cohort.admit(everybody).intersection(everybody)
            due = [name for name in self._requests.due(connected) if name not in self.collector]
            if due:
                # Not delivered later: it would charge a merchant whose upload can't be in the sum any more.
                self._ask(due, seconds=max(0.0, window.ends - self.now()) + _LAST_SECONDS)
            if not self._take():
                self.wait()
        last = time.monotonic() + _LAST_SECONDS
        while self._expected() and time.monotonic() < last:
            if not self._take():
                self.wait()

    def _expected(self) -> set[str]:
        """Return the connected merchants whose upload may come any moment."""
        connected = self.cohort.admit(())
        return {name for name in self._requests.under_way() & connected if name not in self.collector}

    def _ask(self, merchants: list[str], *, seconds: float) -> None:
        nodes = self.cohort.nodes
        requests = train_requests(
            self.model,
            plan=self.plan,
            round_number=ROUND,
            cohort=self.cohort,
            receipts=self.receipts,
            signer=self.signer,
            without=set(nodes) - set(merchants),
        )
        self._requests.send(requests, names={nodes[name]: name for name in merchants}, seconds=seconds)

    def _take(self) -> bool:
        """Store the uploads that have come, then their receipts; return whether there was any."""
        taken = False
        for merchant, answer in self._requests.pull():
            if merchant in self.collector:
                continue
            receipt = self.collector.add(merchant, answer.body, answer.blobs)
            if receipt is None:
                continue
            self.replies.keep(merchant, answer.body, answer.blobs)
            self.receipts.keep([receipt])
            self.refusals.pop(place_in_round(ROUND, merchant), None)
            self.bytes_up += reply_bytes(answer.body, answer.blobs)
            _log.info("the upload of %s is stored", merchant)
            taken = True
        return taken


def _survivor(upload: Upload) -> Survivor:
    return Survivor(merchant=upload.merchant, commitment_hash=sha256_hex(upload.signed.canonical_bytes()))
