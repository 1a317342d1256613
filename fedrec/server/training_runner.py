"""What every way to run a training has in common: its parts, the step with an opened sum, and its end."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from flwr.serverapp import Grid

from fedrec.privacy.accounting.discrete_noise_lemma import needed_variance
from fedrec.privacy.derived_parameters import derive
from fedrec.protocol.messages import CloseReply, CloseRequest
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.roster_statements import RosterUpdate
from fedrec.protocol.training_report.round_line import RoundRecord
from fedrec.protocol.transport import pack
from fedrec.server.attendance import Attendance
from fedrec.server.checkpoint import Checkpoint
from fedrec.server.layer_removal import Opened
from fedrec.server.message_exchange import ExchangeSettings, ask
from fedrec.server.receipts import ReceiptBook
from fedrec.server.reply_board import ReplyBoard
from fedrec.server.request_signing import RequestSigner
from fedrec.server.round_records import place_in_round
from fedrec.server.stragglers import GracePeriod, waiting
from fedrec.server.weights import Weights

_log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class TrainingRunner:
    """Run one training over a Flower Grid; subclasses decide when merchants are asked.

    Args:
        grid: the Flower Grid.
        plan: the training's plan.
        weights: the global model.
        checkpoint: the durable state.
        receipts: the server's book of receipts.
        signer: signs the requests.
        on_round: called after every round, opened or lost, and after a restart once more for the last one. If
            it returns true, the training ends with that round.
        timeout: in seconds, how long each exchange waits for the minimum of replies.
        grace: how long it then waits for the other replies; None waits for them up to ``timeout``.
        refusals: collects refusals: where, and why.
        roster_update: returns the operator's roster and the merchants' statements; None without one.

    Attributes:
        board: whose replies are waited for now.
    """

    grid: Grid
    plan: TrainingPlan
    weights: Weights
    checkpoint: Checkpoint
    receipts: ReceiptBook
    signer: RequestSigner
    on_round: Callable[[RoundRecord], bool | None]
    timeout: float = 3600.0
    grace: GracePeriod | None = None
    refusals: dict[str, str] = field(default_factory=dict)
    board: ReplyBoard = field(init=False)
    roster_update: Callable[[], RosterUpdate | None] = lambda: None

    def __post_init__(self) -> None:
        self._derived = derive(self.plan)
        self.board = ReplyBoard(self.signer.names)
        self._cohort = Attendance(
            self.grid,
            self.plan,
            self._derived.scheme,
            self.signer,
            timeout=self.timeout,
            refusals=self.refusals,
            receipts=self.receipts,
            patient=self.grace is None,
            board=self.board,
            roster_update=self.roster_update,
        )

    @property
    def seeded(self) -> bool:
        """Whether any merchant said, when it joined, that its noise comes from a seed."""
        return self._cohort.seeded

    def run(self) -> None:
        """Run every round that is left, and close the training."""
        raise NotImplementedError

    def notes(self) -> dict[str, str]:
        """Return the notes for the operator about merchants, by name."""
        return {}

    def close(self) -> None:
        """Tell the merchants that the training is over, so that they delete its keys."""
        requests = {
            node: self.signer.sign(
                pack(CloseRequest(training_id=self.plan.training_id, receipt=self.receipts.last(name))),
                kind="query.close",
                training_id=self.plan.training_id,
                recipient=name,
            )
            for name, node in self._cohort.nodes.items()
        }
        needed = min(self.plan.min_contributors, len(requests))
        with waiting(self.grace, asked=len(requests), needed=needed) as end:
            heard: list[int] = []
            ask(
                self.grid,
                requests,
                ExchangeSettings(
                    message_type="query.close",
                    reply_type=CloseReply,
                    max_blob_bytes=0,
                    timeout=self.timeout,
                    group_id="close",
                    board=self.board,
                ),
                take=lambda answer: heard.append(answer.node_id),
                end=lambda seconds: end(len(heard), seconds),
            )

    def _note(self, round_number: int, merchant: str, reason: str) -> None:
        self.refusals[place_in_round(round_number, merchant)] = reason
        _log.info("round %d, %s: %s", round_number, merchant, reason)

    def _noise_kept(self, opened: Opened, *, round_number: int) -> float | None:
        """Return the deviation of the honest contributors' noise in an opened sum over the guaranteed one.

        Args:
            opened: the sum.
            round_number: the round.

        Returns:
            The ratio, at least; None where merchants don't share the noise.
        """
        noise = self._derived.of_round(round_number).noise
        if not self.plan.privacy_mode.shares_noise:
            return None
        needed = needed_variance(noise.noise_multiplier, sensitivity=noise.sensitivity)
        return opened.honest_std(colluders=self.plan.colluders) / math.sqrt(needed)

    def _apply(self, opened: Opened) -> None:
        """Update the model with an opened sum."""
        gradient = opened.values.astype(np.float64)
        if self.weights.solve is not None:
            scale = self._derived.noise.scale
            self.weights.set_solution(self.weights.solve(gradient / scale, opened.noise_std / scale))
            return
        part = self._derived.unit / (self.plan.sample_rate * self.plan.records_total)
        gradient *= part
        if self.weights.lacks_mean:
            # Merchants scaled the features by the clip.
            gradient /= self.plan.clip
            self.weights.set_mean(gradient, noise=opened.noise_std * part / self.plan.clip)
            return
        if self.plan.sends_moves:
            # Merchants sum the gradients of their local steps; a model's change is minus the rate times that.
            gradient *= self.plan.local_learning_rate
        self.weights.step(gradient)
