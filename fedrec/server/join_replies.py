"""Check a merchant's reply to a join, and countersign the head of the ledger that it brings."""

from __future__ import annotations

from fedrec.privacy.identity import verify
from fedrec.protocol.messages import JoinReply
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.statements import JOINED_CONTEXT, Joined
from fedrec.server.receipts import ReceiptBook


def is_signed(reply: JoinReply, *, plan: TrainingPlan) -> bool:
    """Return whether a join reply is signed by the merchant that it names.

    Args:
        reply: the reply; it names a party of the plan.
        plan: the training's plan.

    Returns:
        Whether it is.
    """
    joined = Joined(training_id=plan.training_id, merchant=reply.merchant, seeded=reply.seeded)
    return reply.signature is not None and verify(
        plan.party_key(reply.merchant),
        joined.canonical_bytes(),
        bytes.fromhex(reply.signature),
        context=JOINED_CONTEXT,
    )


def keep_first_receipt(reply: JoinReply, *, plan: TrainingPlan, receipts: ReceiptBook) -> None:
    """Countersign the join's ledger head, if there is no receipt yet; never replace a newer receipt.

    A witness has no ledger.

    Args:
        reply: the reply.
        plan: the training's plan.
        receipts: the server's book.
    """
    if reply.merchant in plan.signing_keys and receipts.last(reply.merchant) is None:
        receipt = receipts.sign(
            reply.head, plan=plan, merchant=reply.merchant, round_number=0, moment="joined"
        )
        receipts.keep([receipt])
