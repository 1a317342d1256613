"""The Flower ClientApp: the same in a simulation and in a deployment."""

from __future__ import annotations

import logging
from collections.abc import Callable

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedrec.clients.merchant import Merchant
from fedrec.errors import AggregationError, BudgetExceededError, FedrecError, ProtocolError, RefusedError
from fedrec.protocol import (
    CloseReply,
    CloseRequest,
    JoinReply,
    JoinRequest,
    TrainReply,
    TrainRequest,
    UnmaskReply,
    UnmaskRequest,
    pack,
    unpack,
)

MAX_MODEL_BYTES = 4 * 200_000_000
MAX_SHARES_BYTES = 2**28
_MAX_REASON = 500
_log = logging.getLogger(__name__)


def _reason(error: FedrecError) -> str:
    """Return what the server may read: the rule that was broken, no figure or path of the merchant's."""
    if isinstance(error, BudgetExceededError):
        return "the merchant's lifetime budget would be passed"
    if isinstance(error, RefusedError | ProtocolError | AggregationError):
        return str(error)[:_MAX_REASON]
    _log.error("%s", error)
    return "the merchant can't answer; its own log says why"


def build_client_app(merchant_of: Callable[[Context], Merchant]) -> ClientApp:
    """Return a ClientApp whose messages are answered by the merchant of their context.

    A refusal goes back as a reply with its reason; any other failure becomes Flower's error reply.
    """
    app = ClientApp()

    @app.query("join")
    def join(message: Message, context: Context) -> Message:
        merchant = merchant_of(context)
        try:
            request, _ = unpack(message.content, JoinRequest, max_blob_bytes=0)
            reply = merchant.join(request)
        except FedrecError as error:
            reply = JoinReply(merchant=merchant.name, refused=_reason(error))
        return Message(pack(reply), reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        merchant = merchant_of(context)
        try:
            request, blobs = unpack(message.content, TrainRequest, max_blob_bytes=MAX_MODEL_BYTES)
            reply, sent = merchant.train(request, blobs)
        except FedrecError as error:
            reply, sent = TrainReply(merchant=merchant.name, refused=_reason(error)), {}
        return Message(pack(reply, sent), reply_to=message)

    @app.query("unmask")
    def unmask(message: Message, context: Context) -> Message:
        merchant = merchant_of(context)
        try:
            request, blobs = unpack(message.content, UnmaskRequest, max_blob_bytes=MAX_SHARES_BYTES)
            reply, sent = merchant.unmask(request, blobs)
        except FedrecError as error:
            reply, sent = UnmaskReply(merchant=merchant.name, refused=_reason(error)), {}
        return Message(pack(reply, sent), reply_to=message)

    @app.query("close")
    def close(message: Message, context: Context) -> Message:
        merchant = merchant_of(context)
        try:
            request, _ = unpack(message.content, CloseRequest, max_blob_bytes=0)
            reply = merchant.close_training(request)
        except FedrecError as error:
            reply = CloseReply(merchant=merchant.name, refused=_reason(error))
        return Message(pack(reply), reply_to=message)

    return app
