"""Run the witness's daemon, the process that answers the server until it is stopped."""

from __future__ import annotations

from typing import ClassVar

from fedrec.clients.daemon_loop import DaemonLoop
from fedrec.clients.merchant_observer import PartyObserver
from fedrec.clients.witness.assembly import open_witness
from fedrec.clients.witness.home import WitnessHome


class WitnessDaemon(DaemonLoop):
    """Answers the server's messages for a witness; see :class:`fedrec.clients.daemon_loop.DaemonLoop`.

    Args:
        home: the witness's folder.
        step_seconds: time limit for one message; the process then exits, so that it is restarted.

    Raises:
        ConfigError: the settings, the policy, the join file or a key can't be used.
        LedgerError: the store or the record of openings can't be used.

    """

    paused: ClassVar[str] = "the witness has paused: it opens nothing until it resumes"
    unusable: ClassVar[str] = "the witness's policy can't be used; its own log says why"

    def __init__(self, home: WitnessHome, *, step_seconds: float = 600.0) -> None:
        self._home = home
        self._witness = open_witness(
            home, name=home.name, server_key=home.joined().server_key, policy=home.policy()
        )
        if home.paused:
            self._witness.suspend(self.paused)
        self.observer = PartyObserver()
        super().__init__(home, self._witness, observer=self.observer, step_seconds=step_seconds)

    def _use_policy(self) -> None:
        self._witness.use_policy(self._home.policy())
