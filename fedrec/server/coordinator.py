"""Run the rounds of a training: train, fix the survivor set, unmask, update.

A round number is reserved before it is used, and never run twice.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedrec._internal.text import counted, listed
from fedrec.errors import TrainingError
from fedrec.privacy.aggregation.scheme import SumOfCiphertexts
from fedrec.protocol.messages import TrainReply
from fedrec.protocol.schema import sha256_hex
from fedrec.protocol.site_figures import figures_length
from fedrec.protocol.training_report.round_line import RoundRecord
from fedrec.server.attendance import CohortIncompleteError
from fedrec.server.earlier_conduct import EarlierConduct
from fedrec.server.layer_removal import Opened
from fedrec.server.merchant_conduct import Conduct, LeftOut
from fedrec.server.message_exchange import ExchangeSettings, ask
from fedrec.server.round_records import place_in_round
from fedrec.server.stored_figures import StoredFigures
from fedrec.server.stragglers import waiting
from fedrec.server.sum_opening import Opening
from fedrec.server.traffic import Traffic
from fedrec.server.training_runner import TrainingRunner
from fedrec.server.uploads import Upload, UploadCollector, train_requests

_log = logging.getLogger(__name__)


class _LostRoundError(TrainingError):
    """The round can't be opened; the training goes on with the next.

    Attributes:
        refused: whether merchants' own rules refused, so that too few were left; they will refuse for a
            while.
        stop: why the training should stop, or None.
    """

    def __init__(self, reason: str, *, refused: bool = False, stop: str | None = None) -> None:
        super().__init__(reason)
        self.refused = refused
        self.stop = stop


@dataclass(kw_only=True)
class Coordinator(TrainingRunner):
    """Run the rounds of a training, each with the merchants that are connected during it.

    Args:
        most_lost: the training stops once this many more rounds are lost than one in eleven; None for no
            limit. It also stops if sums don't open and the merchant at fault can't be found.
        before_round: called before every round, with the number of rounds just before it that were lost to
            refusals. Merchants that didn't refuse are charged for each of those.
        figures_model: returns the parameters, shape (d,), that site figures are of; None for those after the
            last round.
        earlier: the record of merchants' conduct in the training before, if there was one.
        asks_again: whether a round for which no merchant can be spared is begun only once all have said that
            they still take part. That is one more exchange, and saves a charge for nothing.
    """

    most_lost: int | None = None
    before_round: Callable[[int], None] = lambda lost: None
    figures_model: Callable[[], NDArray[np.float64]] | None = None
    earlier: EarlierConduct | None = None
    asks_again: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._conduct = Conduct(self.plan)
        self._connected: frozenset[str] = frozenset()
        self._lost_to_refusals = 0

    def notes(self) -> dict[str, str]:
        """Return the notes about merchants that are slow or left out, by name."""
        return self._conduct.notes(round_number=self.checkpoint.last_reserved() + 1)

    def run(self) -> None:
        """Let the cohort join, run every round that is left, and close the training."""
        done = max(self.checkpoint.restore(self.weights), self.checkpoint.last_reserved())
        last, over = self.checkpoint.last_record(), done >= self.plan.rounds
        figures_left = self.plan.site_figures is not None and self.checkpoint.figures() is None
        if last is not None:
            # A crash may have come after the state of this round was stored, and before on_round was called.
            over |= bool(self.on_round(last))
        try:
            self._cohort.open(self.checkpoint.sealing_keys())
        except CohortIncompleteError:
            # If no round is left, a missing merchant may have closed the training before a crash.
            if not over or (figures_left and not self._cohort.rules_forbid_rounds):
                raise
        if self._cohort.sealing_keys:
            self.checkpoint.keep_sealing_keys(self._cohort.sealing_keys)
        if not over:
            self._rounds(done + 1)
        if figures_left:
            self._site_figures()
        self.close()

    def _rounds(self, first: int) -> None:
        """Run the rounds from ``first`` on, until the last one or until ``on_round`` ends the training."""
        self._conduct = Conduct(self.plan, record=self.checkpoint.conduct(), earlier=self.earlier)
        for round_number in range(first, self.plan.rounds + 1):
            self.before_round(self._lost_to_refusals)
            excluded = self._conduct.complaints.excluded
            # Before the first one all have just joined.
            all_needed = self.asks_again and round_number > first and not self._cohort.spares(excluded)
            if self._lost_to_refusals or all_needed:
                self._cohort.ask_again()
            self._connected = frozenset(self._cohort.refresh(excluded=excluded))
            self.checkpoint.reserve(round_number, conduct=self._conduct.record())
            record, stop = self._round(round_number, take=self._apply)
            self.checkpoint.save(self.weights, round_number=round_number, record=record)
            if self.on_round(record):
                return
            if stop is not None and round_number < self.plan.rounds:
                self._conduct.forgive()
                self.checkpoint.keep_conduct(self._conduct.record())
                raise TrainingError(stop)

    def _site_figures(self) -> None:
        """Run the round of site figures after the last one, at most once, and store what came of it.

        It isn't begun where too few merchants' rules allow it by now: the others would be charged for it.
        """
        self.before_round(self._lost_to_refusals)
        self._cohort.ask_again()
        if self._cohort.rules_forbid_rounds:
            for name in sorted(self._cohort.abstaining):
                self._note(self.plan.last_round, name, self.refusals[name])
            _log.warning("no site figures: too few merchants' rules allow them; nobody is charged for them")
            return
        self._connected = frozenset(self._cohort.refresh(excluded=self._conduct.complaints.excluded))
        self.checkpoint.reserve_figures()
        found: list[tuple[int, ...]] = []
        length = figures_length(len(self.plan.classes))
        record, _ = self._round(
            self.plan.last_round, take=lambda opened: found.append(tuple(opened.values[:length].tolist()))
        )
        values = found[0] if found else None
        self.checkpoint.keep_figures(StoredFigures(record=record, values=values))

    def _round(self, round_number: int, *, take: Callable[[Opened], None]) -> tuple[RoundRecord, str | None]:
        """Run one round.

        Args:
            round_number: the round.
            take: called with the opened sum.

        Returns:
            The round's record, and why the training stops after it, or None.
        """
        started = time.monotonic()
        traffic = Traffic()
        reason: str | None = None
        stop: str | None = None
        refused = False
        noise_kept: float | None = None
        try:
            opened = self._collect(round_number, traffic)
            noise_kept = self._noise_kept(opened, round_number=round_number)
            take(opened)
            self._conduct.opened(traffic.contributors)
        except _LostRoundError as error:
            reason, refused, stop = str(error), error.refused, error.stop or self._too_many(error)
            # Stored at once: a merchant that is left out must not return by a restart.
            self.checkpoint.keep_conduct(self._conduct.record())
        self._lost_to_refusals = self._lost_to_refusals + 1 if refused else 0
        record = RoundRecord(
            round=round_number,
            opened=reason is None,
            contributors=len(traffic.contributors),
            dropouts=self.plan.cohort - len(traffic.contributors),
            seconds=time.monotonic() - started,
            seconds_train=traffic.seconds_train,
            seconds_unmask=traffic.seconds_unmask,
            bytes_up=traffic.bytes_up,
            bytes_down=traffic.bytes_down,
            upload_bytes=traffic.upload_bytes,
            reason=reason,
            merchants=traffic.contributors,
            noise_kept=noise_kept,
        )
        return record, stop

    def _too_many(self, error: _LostRoundError) -> str | None:
        if self.most_lost is None or self._conduct.losses.level < self.most_lost:
            return None
        return (
            f"too many rounds are lost, {self.most_lost} more than one in eleven, the last because of: "
            f"{error}; "
            "the others would be charged for nothing: fix the cause, then resume"
        )

    def _collect(self, round_number: int, traffic: Traffic) -> Opened:
        """Return the opened sum; raise ``_LostRoundError`` if it can't be opened."""
        total = self._derived.of_round(round_number).scheme.new_sum()
        left_out = self._conduct.left_out(self._connected, round_number=round_number)
        uploads, refused = self._train(round_number, traffic, total, left_out)
        took_part = {upload.merchant for upload in uploads}
        traffic.contributors = tuple(peer.name for peer in self.plan.roster if peer.name in took_part)
        if len(uploads) < self.plan.min_contributors:
            self._conduct.lost_for_contributors()
            told = [
                f"{name}: {self.refusals[where]}"
                for name in self._cohort.merchant_nodes
                if (where := place_in_round(round_number, name)) in self.refusals
            ]
            raise _LostRoundError(
                f"{counted(len(uploads), 'contributor')}, fewer than the {self.plan.min_contributors} "
                "required"
                + (
                    f" ({told[0]}" + (f"; and {len(told) - 1} more" if told[1:] else "") + ")" if told else ""
                ),
                refused=refused,
            )
        started = time.monotonic()
        try:
            return self._open(round_number, traffic, total, uploads, left_out)
        finally:
            traffic.seconds_unmask = time.monotonic() - started

    def _train(
        self, round_number: int, traffic: Traffic, total: SumOfCiphertexts, left_out: LeftOut
    ) -> tuple[list[Upload], bool]:
        """Collect the round's uploads; also return whether any merchant refused."""
        started = time.monotonic()
        parameters = self.weights.parameters
        if self.plan.is_of_figures(round_number) and self.figures_model is not None:
            parameters = self.figures_model()
        model = parameters.astype("<f4").tobytes()
        collector = UploadCollector(
            total,
            plan=self.plan,
            round_number=round_number,
            model_hash=sha256_hex(model),
            nodes=self._cohort.merchant_nodes,
            receipts=self.receipts,
            note=lambda merchant, reason: self._note(round_number, merchant, reason),
        )
        asked = len(self._connected - left_out.all)
        with waiting(self.grace, asked=asked, needed=self.plan.min_contributors) as end:
            answers = ask(
                self.grid,
                # Not bound to a name, so that the requests are freed once they are sent.
                train_requests(
                    model,
                    plan=self.plan,
                    round_number=round_number,
                    cohort=self._cohort,
                    receipts=self.receipts,
                    signer=self.signer,
                    without=left_out.all,
                ),
                ExchangeSettings(
                    message_type="train",
                    reply_type=TrainReply,
                    max_blob_bytes=self._derived.upload_bytes,
                    timeout=self.timeout,
                    group_id=str(round_number),
                    board=self.board,
                ),
                take=collector.take,
                end=lambda seconds: end(len(collector), seconds),
            )
        traffic.count(answers)
        traffic.seconds_train = time.monotonic() - started
        traffic.upload_bytes = collector.largest
        late = [name for name, node in self._cohort.merchant_nodes.items() if node in answers.late]
        if late:
            _log.warning("round %d goes on without %s: no reply in time", round_number, listed(late))
        replied = [
            name
            for name, node in self._cohort.merchant_nodes.items()
            if name not in left_out.all and node not in answers.failed
        ]
        self._conduct.lateness.note(round_number, late=late, replied=replied)
        return collector.close(), collector.refused

    def _open(
        self,
        round_number: int,
        traffic: Traffic,
        total: SumOfCiphertexts,
        uploads: Sequence[Upload],
        left_out: LeftOut,
    ) -> Opened:
        """Open the sum of the round's survivor set. No other set of the same round is ever opened."""
        conduct = self._conduct
        opening = Opening(
            grid=self.grid,
            plan=self.plan,
            derived=self._derived.of_round(round_number),
            round_number=round_number,
            total=total,
            uploads=uploads,
            nodes=self._cohort.nodes,
            receipts=self.receipts,
            signer=self.signer,
            distrusted=conduct.distrusted(left_out),
            timeout=self.timeout,
            grace=self.grace,
            board=self.board,
        )
        opening.run(traffic.count)
        self._note_faults(round_number, opening)
        if opening.opened is None:
            raise self._lost_round(round_number, opening)
        for dealer, reason in opening.removal.faulty.items():
            conduct.noisy.add(dealer)
            self._note(round_number, dealer, f"its noise layers can't be removed: {reason}")
        return opening.opened

    def _note_faults(self, round_number: int, opening: Opening) -> None:
        """Note who refused to open the sum, answered wrongly, or dealt shares that don't verify."""
        for member, reason in opening.refused.items():
            self._note(round_number, member, reason)
        for dealer, by in opening.complaints.items():
            self._note(
                round_number, dealer, f"dealt shares that don't verify, according to {', '.join(sorted(by))}"
            )
        for member, reason in {**opening.wrong_layers, **opening.wrong}.items():
            self._conduct.answered_wrongly.add(member)
            self._note(round_number, member, reason)
        self._conduct.complaints.add(opening.complaints)

    def _lost_round(self, round_number: int, opening: Opening) -> _LostRoundError:
        """Say why the sum wasn't opened, and decide without whom training goes on."""
        conduct = self._conduct
        if opening.answered >= self.plan.threshold or (
            self.plan.trust.opened_by == "holder" and opening.refused
        ):
            reason = f"the sum could not be opened: {opening.failure or next(iter(opening.refused.values()))}"
            suspects = opening.suspects()
            stop = conduct.lost_at_opening(suspects, connected=self._connected)
            reason += f"; one of these is the cause: {listed(sorted(suspects))}"
        else:
            reason = (
                f"{opening.answered} committee members answered, "
                f"fewer than the threshold of {self.plan.threshold}"
            )
            if opening.wrong:
                reason += f"; wrong answers came from {listed(sorted(opening.wrong))}"
            if opening.complaints:
                conduct.lost_over_complaints(connected=self._connected)
            else:
                conduct.lost_for_answers()
            stop = conduct.stopped_by(opening.wrong)
        without = conduct.left_out(self._connected, round_number=round_number + 1).suspected
        return _LostRoundError(
            reason + (f"; the next round does without {listed(sorted(without))}" if without else ""),
            stop=stop,
        )
