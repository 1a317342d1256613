"""Connect to the server, answer its messages one after another, and follow changes of the party's rules."""

from __future__ import annotations

import logging
import secrets
import threading
import time
import traceback
from typing import ClassVar, Protocol

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedrec._internal.text import one_line
from fedrec.clients.activity import Doing
from fedrec.clients.client_app import build_client_app
from fedrec.clients.participant import Participant
from fedrec.clients.party_home import PartyHome
from fedrec.clients.refusals import PAUSED, UNUSABLE
from fedrec.clients.watchdog import Watchdog
from fedrec.errors import (
    ConfigError,
    ConnectionFault,
    ConnectionLostError,
    NotAdmittedError,
    RefusedError,
    ServerBusyError,
)
from fedrec.flower import APP_FAILED, error_reply
from fedrec.flower.fleet import FleetLink
from fedrec.observability.deduplicated_log import DeduplicatedLog
from fedrec.protocol.messages import CloseRequest, JoinRequest, TrainRequest, UnmaskRequest
from fedrec.protocol.shape import shape_of

_log = logging.getLogger(__name__)
_RANDOM = secrets.SystemRandom()

BUSY_SECONDS = 0.1
"""Shortest time between two requests for a message, where the server doesn't let one wait."""
_LOOK_SECONDS = 1.0
"""While a request waits: pause between two checks of the rules, and whether to stop."""
_EXPIRY_SECONDS = 3600.0
"""Pause between two searches for inactive trainings."""

_LARGEST_BODY = 2**21 + max(
    shape_of(kind).bytes for kind in (JoinRequest, TrainRequest, UnmaskRequest, CloseRequest)
)
"""Largest size of a request without its blobs, with the signature and Flower's headers."""

_FIRST_RETRY, _LONGEST_RETRY = 1.0, 60.0
_SPREAD = 0.5
"""A pause is longer by up to this part of it, drawn anew, so that merchants don't all come again at once."""


class Party(Participant, Protocol):
    """A merchant or a witness, as its daemon sees it."""

    def expire(self) -> list[str]:
        """Close the trainings without a request for longer than the policy allows; return their ids."""
        ...

    def suspend(self, reason: str) -> None:
        """Refuse everything new with this reason, until another policy is used."""
        ...

    def close(self) -> None:
        """Close the open files."""
        ...


class ConnectionWatch(Protocol):
    """What is told of the connection and of each answer."""

    def connection(self, *, up: bool) -> None:
        """Record that the connection to the server was made or lost."""
        ...

    def answered(self, message: Message, reply: Message, *, seconds: float) -> None:
        """Record a message that was answered.

        Args:
            message: the server's message.
            reply: the party's reply.
            seconds: time from the message to the reply.
        """
        ...


class DaemonLoop:
    """Answers the server's messages and reconnects when the connection is lost.

    Changes of ``policy.toml`` and of the join file take effect at once. While one of them can't be used, the
    daemon refuses everything; it never falls back to their earlier content. :meth:`stop` ends it between two
    messages.

    Args:
        home: the party's folder.
        party: the merchant or witness.
        observer: is told of the connection and of each answer.
        step_seconds: time limit for one message; the process then exits, so that it is restarted.

    Attributes:
        paused: why everything new is refused while the party is paused.
        unusable: why, while its policy or its join file can't be used.
        link_type: makes the connections.

    Raises:
        ConfigError: the join file or the node key can't be used.
    """

    paused: ClassVar[str] = PAUSED
    unusable: ClassVar[str] = UNUSABLE
    link_type: ClassVar[type[FleetLink]] = FleetLink

    def __init__(
        self, home: PartyHome, party: Party, *, observer: ConnectionWatch, step_seconds: float
    ) -> None:
        self._party_home = home
        self._party = party
        self._seen = observer
        self._step_seconds = step_seconds
        self._stamp = home.rules_stamp()
        self._join = home.joined()
        self._with_next_key = False
        self._moved = False
        home.node_key()
        self._deduplicated = DeduplicatedLog(_log)
        self._app: ClientApp = build_client_app(lambda context: self._party, log=self._deduplicated)
        self._stop = threading.Event()
        self._link: FleetLink | None = None
        self._next_expiry = 0.0

    def _use_policy(self) -> None:
        """Read ``policy.toml`` again and use it; raise ``ConfigError`` if it can't be used."""
        raise NotImplementedError

    def _begin(self) -> None:
        """Prepare before the first connection; nothing by default."""

    def _rules_broken(self, reason: str) -> None:
        """Note that policy or join file can't be used; nothing by default."""

    def _delay_reply(self, message: Message, *, started: float) -> None:
        """Wait before a reply is sent; not at all by default."""

    def _after_reply(self) -> None:
        """Do what waits until a reply is sent; nothing by default."""

    def _poll(self) -> None:
        """Act on what has changed since the last call; nothing by default."""

    def _end(self) -> None:
        """Clean up before the party's files are closed; nothing by default."""

    def _tell(self, doing: Doing) -> None:
        """Tell what the daemon does now; nobody by default."""

    def stop(self) -> None:
        """Ask the daemon to stop; it finishes and sends the current reply first."""
        self._stop.set()
        link = self._link
        if link is not None:
            link.interrupt()

    def connection(self) -> FleetLink:
        """Return a new connection to the server that this party joined; enter it as a context manager."""
        key = self._party_home.next_node_key() if self._with_next_key else None
        return self.link_type(
            address=self._join.address, ca=self._party_home.authority, key=key or self._party_home.node_key()
        )

    def run(self) -> None:
        """Connect and answer messages until stopped; reconnect after growing pauses."""
        pause = _FIRST_RETRY
        try:
            self._begin()
            while not self._stop.is_set():
                self._expire()
                self._follow_rules()
                self._tell("connecting")
                try:
                    self._moved = False
                    with self.connection() as link:
                        self._connected()
                        pause = _FIRST_RETRY
                        self._link = link
                        self._answer(link)
                except (ConnectionLostError, NotAdmittedError, ConfigError) as error:
                    self._lost(str(error), fault=None if isinstance(error, ConfigError) else error.fault)
                    if self._stop.is_set():
                        break
                    self._deduplicated.write("connection", f"{error}; retrying until it succeeds")
                    if isinstance(error, NotAdmittedError):
                        self._with_next_key = not self._with_next_key
                    seconds = pause
                    if isinstance(error, ServerBusyError):
                        seconds = error.seconds
                    else:
                        pause = min(_LONGEST_RETRY, 2 * pause)
                    self._stop.wait(seconds * (1 + _SPREAD * _RANDOM.random()))
                finally:
                    self._link = None
        finally:
            self._lost("the daemon has stopped")
            self._end()
            self._party.close()
            self._deduplicated.end()
            _log.info("stopped")

    def _expire(self) -> None:
        if time.monotonic() >= self._next_expiry:
            self._next_expiry = time.monotonic() + _EXPIRY_SECONDS
            self._party.expire()
            self._poll()

    def _connected(self) -> None:
        self._deduplicated.end("connection")
        _log.info("connected to %s", self._join.address)
        self._seen.connection(up=True)
        self._party_home.note_connection(connected=True)
        self._tell("waiting")
        if self._with_next_key and self._party_home.next_node_key_file.exists():
            self._party_home.adopt_next_node_key()
            _log.info("the server has admitted the new node key; the old one is deleted")
        self._with_next_key = False

    def _lost(self, reason: str, *, fault: ConnectionFault | None = None) -> None:
        self._seen.connection(up=False)
        self._party_home.note_connection(connected=False, reason=reason, fault=fault)

    def _follow_rules(self) -> None:
        """Reload policy and join file if they changed; note whether they name another server."""
        stamp = self._party_home.rules_stamp()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            join = self._party_home.joined()
            self._use_policy()
        except ConfigError as error:
            _log.error("%s; plans and rounds are refused until that is fixed", error)
            self._party.suspend(self.unusable)
            self._rules_broken(str(error))
            return
        if self._party_home.paused:
            self._party.suspend(self.paused)
        self._party.gate.use_server_key(join.server_key)
        _log.info(
            "policy and join file were reloaded; %s",
            "paused" if self._party_home.paused else "taking part",
        )
        self._moved |= (join.address, join.authority) != (self._join.address, self._join.authority)
        self._join = join

    def _answer(self, link: FleetLink) -> None:
        while not self._stop.is_set():
            self._follow_rules()
            if self._moved:
                break
            self._expire()
            began = time.monotonic()
            if not self.answer_next(link, wait=_LOOK_SECONDS):
                self._stop.wait(max(0.0, began + BUSY_SECONDS - time.monotonic()))

    def answer_next(self, link: FleetLink, *, wait: float) -> bool:
        """Answer the next message on a connection, if there is one.

        Args:
            link: the connection.
            wait: seconds to wait for a message.

        Returns:
            Whether there was one.

        Raises:
            ConnectionLostError: the connection is lost.
            NotAdmittedError: the server doesn't admit this party's node key.
        """
        message = link.receive(most_bytes=self._most_bytes, wait=wait)
        if message is None:
            return False
        started = time.monotonic()
        # The rules may have changed while the message was fetched, and hold from the moment they are written.
        self._follow_rules()
        self._tell("answering")
        with Watchdog(self._step_seconds):
            reply = self._reply(message, node_id=link.node_id)
        self._seen.answered(message, reply, seconds=time.monotonic() - started)
        self._delay_reply(message, started=started)
        # The server is not told how long the step took, because the time depends on the photos.
        link.send(reply, seconds=0.0)
        with Watchdog(self._step_seconds):
            # After the reply, because the time that this takes depends on the number of photos.
            self._after_reply()
        self._poll()
        self._tell("waiting")
        return True

    def _most_bytes(self) -> int:
        """Return the largest size of a message: its body, and the blobs of the open training."""
        try:
            derived = self._party.derived_of_open_training()
        except RefusedError:
            return _LARGEST_BODY
        return _LARGEST_BODY + max(derived.train_bytes, derived.unmask_bytes)

    def _reply(self, message: Message, *, node_id: int) -> Message:
        run_id, kind = message.metadata.run_id, message.metadata.message_type
        context = Context(run_id=run_id, node_id=node_id, node_config={}, state=RecordDict(), run_config={})
        text = f"answering {one_line(kind)} of {one_line(message.metadata.group_id)}"
        self._deduplicated.write("message", text, level=logging.INFO)
        try:
            return self._app(message, context)
        # The daemon survives any failure of a message. The server learns that it failed, but not the reason.
        except Exception as error:
            # The text of an exception may name a photo, so only the place where it was raised is logged.
            frames = reversed(traceback.extract_tb(error.__traceback__))
            where = " < ".join(f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames)
            _log.error("a %s request failed: %s at %s", one_line(kind), type(error).__name__, where)
            _log.debug("details: %s", error)
            return error_reply(
                message, code=APP_FAILED, reason=f"the {self._party_home.party} failed; its own log says why"
            )
