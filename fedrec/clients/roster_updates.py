"""Follow changes of the roster that need no meeting, from a join file or from the server's next plan."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from fedrec._internal.files import write_atomically
from fedrec._internal.text import counted
from fedrec.clients.approvals import Review, Rules, review
from fedrec.clients.approvals_file import read_approvals, write_approvals
from fedrec.clients.merchant_home import JOIN_FILE, MerchantHome
from fedrec.clients.policy import MerchantPolicy
from fedrec.clients.refusals import UNUSABLE
from fedrec.errors import ConfigError, RefusedError
from fedrec.protocol.messages import JoinRequest
from fedrec.protocol.plan import Peer, TrainingPlan
from fedrec.protocol.roster_fingerprints import roster_fingerprint
from fedrec.protocol.roster_statements import RosterUpdate

_log = logging.getLogger(__name__)


class RosterFollower:
    """Accepts the rosters that follow from what a merchant approved by hand, as its policy says.

    Args:
        home: the merchant's folder, with a confirmed join file.

    Raises:
        ConfigError: the settings or the identity key can't be used.
    """

    def __init__(self, home: MerchantHome) -> None:
        self._home = home
        self._own = Peer(name=home.settings().name, signing_key=home.identity().public.hex())

    def review(self, update: RosterUpdate, *, policy: MerchantPolicy, colluders: int = 0) -> Review:
        """Decide whether a roster may be accepted without an approval by hand.

        Args:
            update: the roster and its statements.
            policy: the merchant's rules.
            colluders: how many colluders a plan assumes; a new merchant needs one more vouch than that.

        Returns:
            The outcome.

        Raises:
            ConfigError: the file of approvals, the join file or ``policy.toml`` can't be used.
        """
        joined, least = self._home.joined(), policy.least_vouchers
        outcome = review(
            read_approvals(self._home.folder, joined),
            update,
            own=self._own,
            rules=Rules(
                least_vouchers=None if least is None else max(least, colluders + 1),
                follow_rotations=policy.rotated_keys == "accept",
            ),
            today=datetime.now(UTC).date(),
        )
        if set(update.witnesses) != set(joined.witnesses):
            outcome.problems.append("the witnesses changed")
        pinned = MerchantPolicy.load(self._home.folder / "policy.toml").roster_fingerprint
        if pinned not in (None, roster_fingerprint(update.roster, update.witnesses)):
            outcome.problems.append("policy.toml names another roster by 'roster_fingerprint'")
        return outcome

    def accept(self, outcome: Review, update: RosterUpdate) -> None:
        """Keep a roster whose review found no problem, in the place of the join file's.

        Args:
            outcome: the review.
            update: the roster and its statements.
        """
        # The approvals first: what they have beyond the join file isn't accepted, but is known.
        write_approvals(self._home.folder, outcome.approvals)
        changed = self._home.joined().model_copy(update=dict(update))
        write_atomically(self._home.folder / JOIN_FILE, changed.canonical_bytes())
        for change in outcome.changes:
            _log.info("the roster changed: %s", change)

    def follow(self, request: JoinRequest, *, policy: MerchantPolicy) -> MerchantPolicy:
        """Accept a plan's roster if it changed and follows from what was approved.

        Args:
            request: the server's proposal.
            policy: the merchant's rules with the approved roster.

        Returns:
            The rules, with the plan's roster if that was accepted now.

        Raises:
            RefusedError: the roster has merchants that must be approved by hand.
        """
        plan, update = request.plan, request.update
        wanted = roster_fingerprint(plan.roster, plan.witnesses)
        if update is not None and policy.roster_fingerprint != wanted:
            if wanted != roster_fingerprint(update.roster, update.witnesses):
                raise RefusedError("the plan's roster is not the one that came with it", code="plan")
            try:
                outcome = self.review(update, policy=policy, colluders=plan.colluders)
            except ConfigError as error:
                raise RefusedError("the merchant's approvals can't be used; its log says why") from error
            if outcome.problems:
                raise RefusedError(
                    "policy 'roster_fingerprint': the plan has a roster that was not approved: "
                    f"{'; '.join(outcome.problems)}; approve the new join file with 'fedrec client join'",
                    code="policy",
                )
            self.accept(outcome, update)
            policy = policy.model_copy(update={"roster_fingerprint": wanted})
        self._check_approvals(plan, policy=policy)
        return policy

    def rules_for(self, plan: TrainingPlan, *, policy: MerchantPolicy) -> MerchantPolicy:
        """Return a merchant's rules for a training that it joined, whose roster it approved by then.

        A roster that is approved later is for later trainings, unless ``policy.toml`` itself names it.

        Args:
            plan: the training's plan.
            policy: the merchant's rules with the roster approved last.

        Returns:
            The rules, with the plan's roster unless ``policy.toml`` names another.

        Raises:
            RefusedError: ``policy.toml`` can't be read.
        """
        own = roster_fingerprint(plan.roster, plan.witnesses)
        if policy.roster_fingerprint in (None, own):
            return policy
        try:
            pinned = MerchantPolicy.load(self._home.folder / "policy.toml").roster_fingerprint
        except ConfigError as error:
            raise RefusedError(UNUSABLE, code="paused") from error
        return policy if pinned is not None else policy.model_copy(update={"roster_fingerprint": own})

    def _check_approvals(self, plan: TrainingPlan, *, policy: MerchantPolicy) -> None:
        """Check that merchants accepted by vouches had enough of them for this plan and the rule in force.

        Where the committee is safe by the draw of its seats alone, the whole roster must have been approved
        by hand: the draw follows from the roster, and who can change that without a meeting could try many.

        Raises:
            RefusedError: one was accepted on the word of too few, or the roster follows from another one.
        """
        try:
            approvals = read_approvals(self._home.folder, self._home.joined())
        except ConfigError as error:
            raise RefusedError("the merchant's approvals can't be used; its log says why") from error
        least = policy.least_vouchers
        whole = roster_fingerprint(plan.roster, plan.witnesses)
        if plan.seat_risk > 0 and approvals.whole_by_hand != whole:
            raise RefusedError(
                "the plan's committee is safe by the draw of its seats (its seat_risk isn't 0), which "
                "follows from the roster: approve that by hand, with 'fedrec client join --by-hand'",
                code="policy",
            )
        for entry in approvals.vouched:
            if entry.peer not in plan.roster:
                continue
            needed = None if least is None else max(least, plan.colluders + 1)
            if needed is None or len(entry.vouchers) < needed:
                raise RefusedError(
                    f"policy 'least_vouchers': {entry.peer.name} was accepted on the word of "
                    f"{counted(len(entry.vouchers), 'merchant')}, and now "
                    + ("no vouches count" if needed is None else f"{needed} are needed")
                    + "; approve the join file by hand with 'fedrec client join --by-hand'",
                    code="policy",
                )
