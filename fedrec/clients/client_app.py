"""The Flower ClientApp: the same in a simulation and in a deployment."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Mapping
from typing import TypeVar

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedrec._internal.text import one_line
from fedrec.clients.merchant import Merchant
from fedrec.clients.store import MerchantStore
from fedrec.errors import DataError, FedrecError, ProtocolError, RefusedError
from fedrec.observability.repeats import Repeats
from fedrec.protocol.messages import (
    CloseReply,
    CloseRequest,
    JoinReply,
    JoinRequest,
    TrainReply,
    TrainRequest,
    UnmaskReply,
    UnmaskRequest,
)
from fedrec.protocol.refusals import Refusal, refusal_of
from fedrec.protocol.schema import MAX_REASON, Strict
from fedrec.protocol.transport import pack, unpack

Request = TypeVar("Request", JoinRequest, TrainRequest, UnmaskRequest, CloseRequest)
Blobs = Mapping[str, bytes]

_log = logging.getLogger(__name__)


def _told(error: FedrecError, *, repeats: Repeats, matter: str) -> Refusal:
    """Return what the server may read of an error; the merchant's own log has the rest."""
    if isinstance(error, RefusedError):
        repeats.say(matter, f"refused: {one_line(error, most=MAX_REASON)}")
    refusal = refusal_of(error)
    if refusal.code == "failed":
        # Such an error may name a photo; a log that is kept doesn't.
        what = type(error).__name__ if isinstance(error, DataError) else one_line(error)
        repeats.say(
            matter,
            f"a request can't be answered ({what}): 'fedrec client check' says why",
            level=logging.ERROR,
        )
        _log.debug("what it was: %s", error)
    return refusal


def build_client_app(
    merchant_of: Callable[[Context], Merchant], *, repeats: Repeats | None = None
) -> ClientApp:
    """Return a ClientApp whose messages are answered by the merchant of their context.

    A refusal goes back as a reply with its reason; any other failure becomes Flower's error reply.

    Args:
        merchant_of: finds the merchant.
        repeats: through which refusals are logged, so that one which comes again and again is one line.

    """
    app = ClientApp()
    said = repeats or Repeats(_log)

    @app.query("join")
    def join(message: Message, context: Context) -> Message:
        merchant = merchant_of(context)

        def answer(request: JoinRequest, blobs: Blobs) -> tuple[JoinReply, dict[str, bytes]]:
            return merchant.join(request)

        def refuse(refusal: Refusal) -> JoinReply:
            return JoinReply(merchant=merchant.name, refused=refusal)

        return _reply(
            merchant, message, JoinRequest, answer=answer, refuse=refuse, blob_bytes=lambda: 0, repeats=said
        )

    @app.train()
    def train(message: Message, context: Context) -> Message:
        merchant = merchant_of(context)

        def refuse(refusal: Refusal) -> TrainReply:
            return TrainReply(merchant=merchant.name, refused=refusal)

        def blob_bytes() -> int:
            return merchant.open_derived().train_bytes

        return _reply(
            merchant,
            message,
            TrainRequest,
            answer=merchant.train,
            refuse=refuse,
            blob_bytes=blob_bytes,
            repeats=said,
        )

    @app.query("unmask")
    def unmask(message: Message, context: Context) -> Message:
        merchant = merchant_of(context)

        def refuse(refusal: Refusal) -> UnmaskReply:
            return UnmaskReply(merchant=merchant.name, refused=refusal)

        def blob_bytes() -> int:
            return merchant.open_derived().unmask_bytes

        return _reply(
            merchant,
            message,
            UnmaskRequest,
            answer=merchant.unmask,
            refuse=refuse,
            blob_bytes=blob_bytes,
            repeats=said,
        )

    @app.query("close")
    def close(message: Message, context: Context) -> Message:
        merchant = merchant_of(context)

        def answer(request: CloseRequest, blobs: Blobs) -> tuple[CloseReply, dict[str, bytes]]:
            return merchant.close_training(request), {}

        def refuse(refusal: Refusal) -> CloseReply:
            return CloseReply(merchant=merchant.name, refused=refusal)

        return _reply(
            merchant, message, CloseRequest, answer=answer, refuse=refuse, blob_bytes=lambda: 0, repeats=said
        )

    return app


def _reply(
    merchant: Merchant,
    message: Message,
    kind: type[Request],
    *,
    answer: Callable[[Request, Blobs], tuple[Strict, dict[str, bytes]]],
    refuse: Callable[[Refusal], Strict],
    blob_bytes: Callable[[], int],
    repeats: Repeats,
) -> Message:
    """Answer a message that the merchant's server signed, and no other.

    ``blob_bytes`` says, before it is read, what its blobs may come to.
    """
    request: Request | None = None
    try:
        signed = merchant.gate.check(message.content, kind=message.metadata.message_type)
        request, blobs = unpack(message.content, kind, max_blob_bytes=blob_bytes())
        if request.subject != (signed.training_id, signed.round_number):
            raise ProtocolError("a request was signed for another training or round than it names")
        reply, sent = answer(request, blobs)
        repeats.end(_matter(message, request))
    except FedrecError as error:
        reply, sent = refuse(_told(error, repeats=repeats, matter=_matter(message, request))), {}
        _note(merchant.store, error, message=message, request=request)
    return Message(pack(reply, sent), reply_to=message)


def _matter(message: Message, request: Request | None) -> str:
    """Name what a refusal is about: requests of one kind, of one training."""
    return f"{message.metadata.message_type} {'' if request is None else request.subject[0]}"


def _note(store: MerchantStore, error: FedrecError, *, message: Message, request: Strict | None) -> None:
    """Keep what was refused for the merchant's own eyes."""
    plan = request.plan.canonical_bytes() if isinstance(request, JoinRequest) else None
    try:
        store.note_refusal(
            kind=message.metadata.message_type, reason=one_line(error, most=MAX_REASON), plan=plan
        )
    except sqlite3.Error as failure:
        _log.error("a refusal could not be kept: %s", failure)
