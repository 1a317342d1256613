"""Run the merchant's daemon, the process that answers the server until it is stopped."""

from __future__ import annotations

import logging
import threading
import time
import traceback
from dataclasses import dataclass

import torch
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedrec._internal.text import one_line
from fedrec.clients.activity import ActivityLog
from fedrec.clients.assembly import open_merchant
from fedrec.clients.client_app import build_client_app
from fedrec.clients.event_hook import EventHook
from fedrec.clients.event_watch import EventWatch
from fedrec.clients.merchant_home import MerchantHome
from fedrec.clients.merchant_observer import MerchantObserver
from fedrec.clients.refusals import PAUSED, UNUSABLE
from fedrec.clients.watchdog import Watchdog
from fedrec.errors import ConfigError, ConnectionLostError, FedrecError, NotAdmittedError, RefusedError
from fedrec.flower import APP_FAILED, error_reply
from fedrec.flower.fleet import FleetLink
from fedrec.observability.deduplicated_log import DeduplicatedLog
from fedrec.protocol.messages import CloseRequest, JoinRequest, TrainRequest, UnmaskRequest
from fedrec.protocol.shape import shape_of

_log = logging.getLogger(__name__)

BUSY_SECONDS = 0.1
IDLE_SECONDS = 1.5
"""Pause between two polls of the server: during a round, and after a while without messages."""

_IDLE_AFTER = 30.0
_EXPIRY_SECONDS = 3600.0
"""Pause between two searches for inactive trainings."""

_LARGEST_BODY = 2**21 + max(
    shape_of(kind).bytes for kind in (JoinRequest, TrainRequest, UnmaskRequest, CloseRequest)
)
"""Largest size of a request without its blobs, with the signature and Flower's headers."""

_FIRST_RETRY, _LONGEST_RETRY = 1.0, 60.0


@dataclass(frozen=True)
class DaemonOptions:
    """Options of the daemon.

    Attributes:
        device: the device on which models are trained.
        seed: makes noise, sampling and keys repeatable. Seeded noise protects nothing: use it in tests only.
        step_seconds: time limit for one message; the process then exits, so that it is restarted.

    """

    device: torch.device
    seed: int | None = None
    step_seconds: float = 3600.0


class Daemon:
    """Answers the server's messages and reconnects when the connection is lost.

    Changes of ``policy.toml`` and of the join file take effect at once. While one of them can't be used, the
    daemon refuses plans and rounds; it never falls back to their earlier content. :meth:`stop` ends it
    between two messages.

    Args:
        home: the merchant's folder.
        options: the options.
        activity: told what the daemon does; by default one that begins now.

    Raises:
        ConfigError: the settings, the policy, the join file or a key can't be used.
        LedgerError: the ledger is damaged, or another process has it open.

    """

    def __init__(
        self, home: MerchantHome, options: DaemonOptions, *, activity: ActivityLog | None = None
    ) -> None:
        self._home = home
        self._options = options
        self._stamp = home.rules_stamp()
        self._join = home.joined()
        self._with_next_key = False
        home.node_key()
        self._activity = activity or ActivityLog(home.folder)
        self._merchant = open_merchant(
            home, device=options.device, seed=options.seed, tell=self._activity.tell
        )
        self._hook = EventHook(lambda: self._merchant.policy.hook, folder=home.folder)
        self._watch = EventWatch(self._merchant.store, self._hook, merchant=self._merchant.name)
        self._deduplicated = DeduplicatedLog(_log)
        self._app: ClientApp = build_client_app(lambda context: self._merchant, log=self._deduplicated)
        self._stop = threading.Event()
        self._next_expiry = 0.0
        self.observer = MerchantObserver(self._merchant.ledger)

    def stop(self) -> None:
        """Ask the daemon to stop; it finishes and sends the current reply first."""
        self._stop.set()

    def connection(self) -> FleetLink:
        """Return a new connection to the server that this merchant joined; enter it as a context manager."""
        key = self._home.next_node_key() if self._with_next_key else None
        return FleetLink(
            address=self._join.address, ca=self._home.authority, key=key or self._home.node_key()
        )

    def run(self) -> None:
        """Connect and answer messages until stopped; reconnect after growing pauses."""
        pause = _FIRST_RETRY
        try:
            self._load_records()
            while not self._stop.is_set():
                self._expire()
                self._follow_rules()
                self._activity.tell("connecting")
                try:
                    with self.connection() as link:
                        self._connected()
                        pause = _FIRST_RETRY
                        self._answer(link)
                except (ConnectionLostError, NotAdmittedError, ConfigError) as error:
                    self._lost(str(error))
                    if self._stop.is_set():
                        break
                    self._deduplicated.write("connection", f"{error}; retrying until it succeeds")
                    if isinstance(error, NotAdmittedError):
                        self._with_next_key = not self._with_next_key
                    self._stop.wait(pause)
                    pause = min(_LONGEST_RETRY, 2 * pause)
        finally:
            self._lost("the daemon has stopped")
            self._hook.close()
            self._merchant.close()
            self._deduplicated.end()
            _log.info("stopped")

    def _load_records(self) -> None:
        """Load the records of the open training, if there is one, before the server asks for a round."""
        try:
            with Watchdog(self._options.step_seconds):
                self._merchant.load_records()
        except (FedrecError, ValueError) as error:
            # The round that needs them says what is wrong.
            _log.debug("the open training's records were not loaded: %s", error)

    def _expire(self) -> None:
        if time.monotonic() >= self._next_expiry:
            self._next_expiry = time.monotonic() + _EXPIRY_SECONDS
            self._merchant.expire()
            self._watch.look()

    def _connected(self) -> None:
        self._deduplicated.end("connection")
        _log.info("connected to %s", self._join.address)
        self.observer.connection(up=True)
        self._home.note_connection(connected=True)
        self._activity.tell("waiting")
        if self._with_next_key and self._home.next_node_key_file.exists():
            self._home.adopt_next_node_key()
            _log.info("the server has admitted the new node key; the old one is deleted")
        self._with_next_key = False

    def _lost(self, reason: str) -> None:
        self.observer.connection(up=False)
        self._home.note_connection(connected=False, reason=reason)

    def _follow_rules(self) -> bool:
        """Reload policy and join file if they changed; return whether they name another server."""
        stamp = self._home.rules_stamp()
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        try:
            policy, join = self._home.policy(), self._home.joined()
        except ConfigError as error:
            _log.error("%s; plans and rounds are refused until that is fixed", error)
            self._merchant.suspend(UNUSABLE)
            self._watch.decision(str(error))
            return False
        self._merchant.use_policy(policy)
        if self._home.paused:
            self._merchant.suspend(PAUSED)
        self._merchant.gate.use_server_key(join.server_key)
        _log.info(
            "policy and join file were reloaded; %s",
            "paused" if self._home.paused else "taking part",
        )
        moved = (join.address, join.authority) != (self._join.address, self._join.authority)
        self._join = join
        return moved

    def _answer(self, link: FleetLink) -> None:
        last = time.monotonic()
        while not self._stop.is_set() and not self._follow_rules():
            self._expire()
            if self.answer_next(link):
                last = time.monotonic()
                continue
            idle = time.monotonic() - last > _IDLE_AFTER
            self._stop.wait(IDLE_SECONDS if idle else BUSY_SECONDS)

    def answer_next(self, link: FleetLink) -> bool:
        """Answer the next message on a connection, if there is one.

        Returns:
            Whether there was one.

        Raises:
            ConnectionLostError: the connection is lost.
            NotAdmittedError: the server doesn't admit this merchant's node key.

        """
        message = link.receive(most_bytes=self._most_bytes)
        if message is None:
            return False
        started = time.monotonic()
        self._activity.tell("answering")
        with Watchdog(self._options.step_seconds):
            reply = self._reply(message, node_id=link.node_id)
        self.observer.answered(message, reply, seconds=time.monotonic() - started)
        self._delay_reply(message, started=started)
        # The server is not told how long the step took, because the time depends on the photos.
        link.send(reply, seconds=0.0)
        with Watchdog(self._options.step_seconds):
            # After the reply, because the time that this takes depends on the number of photos.
            self._merchant.fix_records()
        self._watch.look()
        self._activity.tell("waiting")
        return True

    def _most_bytes(self) -> int:
        """Return the largest size of a message: its body, and the blobs of the open training."""
        try:
            derived = self._merchant.derived_of_open_training()
        except RefusedError:
            return _LARGEST_BODY
        return _LARGEST_BODY + max(derived.train_bytes, derived.unmask_bytes)

    def _delay_reply(self, message: Message, *, started: float) -> None:
        """Delay a reply to ``train``, also a refusal, until the policy's ``reply_seconds`` have passed."""
        seconds = self._merchant.policy.reply_seconds
        if seconds is None or message.metadata.message_type != "train":
            return
        left = started + seconds - time.monotonic()
        if left < 0:
            _log.warning(
                "a step took %.0f s longer than 'reply_seconds': the server can see how long it took", -left
            )
        # Also when the daemon is stopped: an earlier reply would show what the rule hides.
        time.sleep(max(0.0, left))

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
            return error_reply(message, code=APP_FAILED, reason="the merchant failed; its own log says why")
