"""Build the Flower ClientApp that simulations and deployments share."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

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


class _MakeRefusal(Protocol):
    """Makes the reply of one kind that refuses a request."""

    def __call__(self, *, merchant: str, refused: Refusal) -> Strict: ...


@dataclass(frozen=True)
class _Exchange(Generic[Request]):
    """One kind of request, and what a party does with it.

    Attributes:
        request: the schema of the request's body.
        refuse: makes the reply that refuses it.
        answer: makes any other reply, and its blobs.
        blob_bytes: the largest size of the request's blobs.
    """

    request: type[Request]
    refuse: _MakeRefusal
    answer: Callable[[Participant, Request, Blobs], tuple[Strict, dict[str, bytes]]]
    blob_bytes: Callable[[Participant], int] = lambda party: 0


_JOIN: Final = _Exchange(JoinRequest, JoinReply, lambda party, request, blobs: party.join(request))
_TRAIN: Final = _Exchange(
    TrainRequest,
    TrainReply,
    lambda party, request, blobs: party.train(request, blobs),
    blob_bytes=lambda party: party.derived_of_open_training().train_bytes,
)
_UNMASK: Final = _Exchange(
    UnmaskRequest,
    UnmaskReply,
    lambda party, request, blobs: party.unmask(request, blobs),
    blob_bytes=lambda party: party.derived_of_open_training().unmask_bytes,
)
_CLOSE: Final = _Exchange(
    CloseRequest, CloseReply, lambda party, request, blobs: (party.close_training(request), {})
)


def build_client_app(
    party_of: Callable[[Context], Participant], *, log: DeduplicatedLog | None = None
) -> ClientApp:
    """Build a ClientApp that passes each message to the merchant or witness of the message's context.

    A refusal is sent as a reply with its reason. Any other failure becomes Flower's error reply.

    Args:
        party_of: returns the merchant or witness of a context.
        log: logs refusals, and a repeated one only once.

    Returns:
        The ClientApp.
    """
    deduplicated = log or DeduplicatedLog(_log)

    def handler(exchange: _Exchange[Request]) -> Callable[[Message, Context], Message]:
        return lambda message, context: _reply(party_of(context), message, exchange, log=deduplicated)

    app = ClientApp()
    app.query("join")(handler(_JOIN))
    app.train()(handler(_TRAIN))
    app.query("unmask")(handler(_UNMASK))
    app.query("close")(handler(_CLOSE))
    return app


def _reply(
    party: Participant, message: Message, exchange: _Exchange[Request], *, log: DeduplicatedLog
) -> Message:
    """Answer a message if the party's server signed it; refuse it if not, or if answering fails."""
    request: Request | None = None
    try:
        accepted = party.gate.check(message.content, kind=message.metadata.message_type)
        # The limit is computed before a blob is read.
        most = exchange.blob_bytes(party)
        request, blobs = unpack(message.content, exchange.request, max_blob_bytes=most)
        if request.subject != (accepted.statement.training_id, accepted.statement.round_number):
            raise ProtocolError("a request's signature is for another training or round than its body")
        reply, sent = exchange.answer(party, request, HashedBlobs(blobs, hashes=accepted.blob_hashes))
        log.end(_subject(message, request))
    except FedrecError as error:
        refusal = _refusal_for_server(error, log=log, subject=_subject(message, request))
        reply, sent = exchange.refuse(merchant=party.name, refused=refusal), {}
        _store_refusal(party.store, error, message=message, request=request)
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
