"""Run the witness's daemon, the process that answers the server until it is stopped."""

from __future__ import annotations

from typing import ClassVar

from fedrec.clients.activity import ActivityLog, Doing
from fedrec.clients.daemon_loop import DaemonLoop
from fedrec.clients.merchant_observer import PartyObserver
from fedrec.clients.witness.assembly import open_witness
from fedrec.clients.witness.home import WitnessHome
from fedrec.clients.witness.openings import lock_openings
from fedrec.clients.witness.policy import PAUSED, UNUSABLE


class WitnessDaemon(DaemonLoop):
    """Answers the server's messages for a witness; see :class:`fedrec.clients.daemon_loop.DaemonLoop`.

    Args:
        home: the witness's folder.
        step_seconds: time limit for one message; the process then exits, so that it is restarted.
        activity: told what the daemon does; by default one that begins with the daemon.

    Raises:
        ConfigError: the settings, the policy, the join file or a key can't be used.
        LedgerError: the store or the record of openings can't be used, or another process uses them.
    """

    paused: ClassVar[str] = PAUSED
    unusable: ClassVar[str] = UNUSABLE

    def __init__(
        self, home: WitnessHome, *, step_seconds: float = 600.0, activity: ActivityLog | None = None
    ) -> None:
        self._home = home
        self._activity = activity or ActivityLog(home.folder)
        name, server_key, policy = home.name, home.joined().server_key, home.policy()
        self._lock = lock_openings(home.openings)
        self._witness = open_witness(home, name=name, server_key=server_key, policy=policy)
        if home.paused:
            self._witness.suspend(self.paused)
        self.observer = PartyObserver()
        super().__init__(home, self._witness, observer=self.observer, step_seconds=step_seconds)

    def _use_policy(self) -> None:
        self._witness.use_policy(self._home.policy())

    def _end(self) -> None:
        self._lock.close()

    def _tell(self, doing: Doing) -> None:
        self._activity.tell(doing)
