"""Build the Flower ClientApp that simulations and deployments share."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from typing import TypeVar

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedrec._internal.text import one_line
from fedrec.clients.participant import Participant
from fedrec.clients.store import MerchantStore
from fedrec.errors import DataError, FedrecError, ProtocolError, RefusedError
from fedrec.observability.deduplicated_log import DeduplicatedLog
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
from fedrec.protocol.transport import Blobs, HashedBlobs, pack, unpack

Request = TypeVar("Request", JoinRequest, TrainRequest, UnmaskRequest, CloseRequest)

_log = logging.getLogger(__name__)


def _refusal_for_server(error: FedrecError, *, log: DeduplicatedLog, subject: str) -> Refusal:
    """Reduce an error to what the server may read, and log the rest for the merchant."""
    if isinstance(error, RefusedError):
        log.write(subject, f"refused: {one_line(error, most=MAX_REASON)}")
    refusal = refusal_of(error)
    if refusal.code == "failed":
        # The error may name a photo, and names of photos must not be kept in a log.
        what = type(error).__name__ if isinstance(error, DataError) else one_line(error)
        log.write(
            subject,
            f"a request failed ({what}): run 'fedrec client check' to find the cause",
            level=logging.ERROR,
        )
        _log.debug("details: %s", error)
    return refusal


def build_client_app(
    merchant_of: Callable[[Context], Participant], *, log: DeduplicatedLog | None = None
) -> ClientApp:
    """Build a ClientApp that passes each message to the merchant or witness of the message's context.

    A refusal is sent as a reply with its reason. Any other failure becomes Flower's error reply.

    Args:
        merchant_of: returns the merchant or witness of a context.
        log: logs refusals, and a repeated one only once.

    Returns:
        The ClientApp.
    """
    app = ClientApp()
    deduplicated = log or DeduplicatedLog(_log)

    @app.query("join")
    def join(message: Message, context: Context) -> Message:
        merchant = merchant_of(context)

        def answer(request: JoinRequest, blobs: Blobs) -> tuple[JoinReply, dict[str, bytes]]:
            return merchant.join(request)

        def refuse(refusal: Refusal) -> JoinReply:
            return JoinReply(merchant=merchant.name, refused=refusal)

        return _reply(
            merchant,
            message,
            JoinRequest,
            answer=answer,
            refuse=refuse,
            blob_bytes=lambda: 0,
            log=deduplicated,
        )

    @app.train()
    def train(message: Message, context: Context) -> Message:
        merchant = merchant_of(context)

        def refuse(refusal: Refusal) -> TrainReply:
            return TrainReply(merchant=merchant.name, refused=refusal)

        def blob_bytes() -> int:
            return merchant.derived_of_open_training().train_bytes

        return _reply(
            merchant,
            message,
            TrainRequest,
            answer=merchant.train,
            refuse=refuse,
            blob_bytes=blob_bytes,
            log=deduplicated,
        )

    @app.query("unmask")
    def unmask(message: Message, context: Context) -> Message:
        merchant = merchant_of(context)

        def refuse(refusal: Refusal) -> UnmaskReply:
            return UnmaskReply(merchant=merchant.name, refused=refusal)

        def blob_bytes() -> int:
            return merchant.derived_of_open_training().unmask_bytes

        return _reply(
            merchant,
            message,
            UnmaskRequest,
            answer=merchant.unmask,
            refuse=refuse,
            blob_bytes=blob_bytes,
            log=deduplicated,
        )

    @app.query("close")
    def close(message: Message, context: Context) -> Message:
        merchant = merchant_of(context)

        def answer(request: CloseRequest, blobs: Blobs) -> tuple[CloseReply, dict[str, bytes]]:
            return merchant.close_training(request), {}

        def refuse(refusal: Refusal) -> CloseReply:
            return CloseReply(merchant=merchant.name, refused=refusal)

        return _reply(
            merchant,
            message,
            CloseRequest,
            answer=answer,
            refuse=refuse,
            blob_bytes=lambda: 0,
            log=deduplicated,
        )

    return app


def _reply(
    merchant: Participant,
    message: Message,
    kind: type[Request],
    *,
    answer: Callable[[Request, Blobs], tuple[Strict, dict[str, bytes]]],
    refuse: Callable[[Refusal], Strict],
    blob_bytes: Callable[[], int],
    log: DeduplicatedLog,
) -> Message:
    """Answer a message if the merchant's server signed it; refuse it if not, or if answering fails."""
    request: Request | None = None
    try:
        accepted = merchant.gate.check(message.content, kind=message.metadata.message_type)
        # The limit is computed before a blob is read.
        request, blobs = unpack(message.content, kind, max_blob_bytes=blob_bytes())
        if request.subject != (accepted.statement.training_id, accepted.statement.round_number):
            raise ProtocolError("a request's signature is for another training or round than its body")
        reply, sent = answer(request, HashedBlobs(blobs, hashes=accepted.blob_hashes))
        log.end(_subject(message, request))
    except FedrecError as error:
        subject = _subject(message, request)
        reply, sent = refuse(_refusal_for_server(error, log=log, subject=subject)), {}
        _store_refusal(merchant.store, error, message=message, request=request)
    return Message(pack(reply, sent), reply_to=message)


def _subject(message: Message, request: Request | None) -> str:
    """Return the key under which refusals are deduplicated: message type and training."""
    return f"{message.metadata.message_type} {'' if request is None else request.subject[0]}"


def _store_refusal(
    store: MerchantStore, error: FedrecError, *, message: Message, request: Strict | None
) -> None:
    """Keep the refused request in the store, where only the merchant reads it."""
    plan = request.plan.canonical_bytes() if isinstance(request, JoinRequest) else None
    try:
        store.note_refusal(
            kind=message.metadata.message_type, reason=one_line(error, most=MAX_REASON), plan=plan
        )
    except sqlite3.Error as failure:
        _log.error("a refusal could not be stored: %s", failure)
