"""Run the merchant's daemon, the process that answers the server until it is stopped."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

import torch
from flwr.app import Message

from fedrec.clients.activity import ActivityLog, Doing
from fedrec.clients.assembly import open_merchant
from fedrec.clients.daemon_loop import DaemonLoop
from fedrec.clients.event_hook import EventHook
from fedrec.clients.event_watch import EventWatch
from fedrec.clients.merchant_home import MerchantHome
from fedrec.clients.merchant_observer import MerchantObserver
from fedrec.clients.watchdog import Watchdog
from fedrec.errors import FedrecError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DaemonOptions:
    """Options of the daemon.

    Attributes:
        device: the device on which models are trained.
        seed: makes noise, sampling and keys repeatable. Seeded noise protects nothing: use it in tests only.
        step_seconds: time limit for one message; the process then exits, so that it is restarted.
        activity: told what the daemon does; by default one that begins with the daemon.
    """

    device: torch.device
    seed: int | None = None
    step_seconds: float = 3600.0
    activity: ActivityLog | None = None


class Daemon(DaemonLoop):
    """Answers the server's messages for a merchant; see :class:`fedrec.clients.daemon_loop.DaemonLoop`.

    Args:
        home: the merchant's folder.
        options: the options.

    Raises:
        ConfigError: the settings, the policy, the join file or a key can't be used.
        LedgerError: the ledger is damaged, or another process has it open.
    """

    def __init__(self, home: MerchantHome, options: DaemonOptions) -> None:
        home.joined()
        home.node_key()
        self._home = home
        self._options = options
        self._activity = options.activity or ActivityLog(home.folder)
        self._merchant = open_merchant(
            home, device=options.device, seed=options.seed, tell=self._activity.tell
        )
        self._hook = EventHook(lambda: self._merchant.policy.hook, folder=home.folder)
        self._watch = EventWatch(self._merchant.store, self._hook, merchant=self._merchant.name)
        self.observer = MerchantObserver(self._merchant.ledger)
        super().__init__(home, self._merchant, observer=self.observer, step_seconds=options.step_seconds)

    def _use_policy(self) -> None:
        self._merchant.use_policy(self._home.policy())

    def _begin(self) -> None:
        """Load the records of the open training, if there is one, before the server asks for a round."""
        try:
            with Watchdog(self._options.step_seconds):
                self._merchant.load_records()
        except (FedrecError, ValueError) as error:
            # The round that needs them says what is wrong.
            _log.debug("the open training's records were not loaded: %s", error)

    def _rules_broken(self, reason: str) -> None:
        self._watch.decision(reason)

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

    def _after_reply(self) -> None:
        # The time that this takes depends on the number of photos.
        self._merchant.fix_records()

    def _poll(self) -> None:
        self._watch.poll()

    def _end(self) -> None:
        self._hook.close()

    def _tell(self, doing: Doing) -> None:
        self._activity.tell(doing)
