"""Define what a party, a merchant or a witness, needs to answer a server's messages."""

from __future__ import annotations

from typing import Protocol

from fedrec.clients.request_gate import RequestGate
from fedrec.clients.store import MerchantStore
from fedrec.privacy.derived_parameters import Derived
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
from fedrec.protocol.transport import Blobs


class Participant(Protocol):
    """A merchant or a witness, as the ClientApp sees it."""

    @property
    def name(self) -> str:
        """The party's name."""
        ...

    @property
    def store(self) -> MerchantStore:
        """The open store."""
        ...

    @property
    def gate(self) -> RequestGate:
        """Accepts the requests of the party's own server, and no others."""
        ...

    def join(self, request: JoinRequest) -> tuple[JoinReply, dict[str, bytes]]:
        """Join a training, or raise ``FedrecError`` with the reason why not."""
        ...

    def train(self, request: TrainRequest, blobs: Blobs) -> tuple[TrainReply, dict[str, bytes]]:
        """Take the step of a round.

        Args:
            request: the server's request.
            blobs: the blobs of the request, by name.

        Returns:
            The reply and its blobs.

        Raises:
            FedrecError: the party refuses, or can't.
        """
        ...

    def unmask(self, request: UnmaskRequest, blobs: Blobs) -> tuple[UnmaskReply, dict[str, bytes]]:
        """Help to open a sum.

        Args:
            request: the server's request.
            blobs: the blobs of the request, by name.

        Returns:
            The reply and its blobs.

        Raises:
            FedrecError: the party refuses, or can't.
        """
        ...

    def close_training(self, request: CloseRequest) -> CloseReply:
        """Delete the private keys and the stored replies of a training."""
        ...

    def derived_of_open_training(self) -> Derived:
        """Return the parameters derived from the open training's plan; ``RefusedError`` if none is open."""
        ...
