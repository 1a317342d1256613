"""The server's process: the SuperLink, and the trainings on file, one after another."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator

import httpx
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from flwr.serverapp import Grid

from fedrec.errors import FedrecError, TrainingError
from fedrec.flower.superlink import Certificates, SuperLinkHost
from fedrec.protocol import TrainingPlan
from fedrec.server.coordinator import CohortIncompleteError
from fedrec.server.home import ServerHome
from fedrec.server.observe import ServerObserver
from fedrec.server.run import TrainingRun
from fedrec.server.trainings import Training, all_trainings

_log = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
_GATHER_SECONDS = 120.0
_RETRIES = 5
_RETRY_SECONDS = 5.0


class Service:
    """Runs until stopped, or with ``once`` until no training is left to run.

    Merchants that are enrolled or revoked while it runs are admitted or locked out within a second.
    ``gather_seconds`` is how long a training waits for its whole cohort before it starts with whoever is
    there, and ``timeout`` how long a phase waits for its replies.
    """

    def __init__(
        self,
        home: ServerHome,
        *,
        once: bool = False,
        timeout: float = 3600.0,
        gather_seconds: float = _GATHER_SECONDS,
    ) -> None:
        self._home = home
        self._once = once
        self._timeout = timeout
        self._gather_seconds = gather_seconds
        self._stop, self._over = threading.Event(), threading.Event()
        self.observer = ServerObserver(home)
        _, host, port = home.settings()
        self._host = SuperLinkHost(
            certificates=Certificates(authority=home.authority, certificate=home.certificate, key=home.key),
            host=host,
            port=port,
            on_refusal=self._turned_away,
        )

    def stop(self) -> None:
        """Ask the service to end after the round that is under way."""
        self._stop.set()

    def _turned_away(self, address: str, path: str) -> None:
        _log.warning("refused %s from %s", path, address)
        self.observer.turned_away(address, path)

    def run(self) -> None:
        """Serve; raises ``ServiceError`` when the port is taken."""
        self._host.start()
        _log.info("listening on port %d", self._host.port)
        self._admit()
        watch = threading.Thread(target=self._watch_roster, name="fedrec-roster", daemon=True)
        watch.start()
        try:
            while not self._stop.is_set():
                training = next(self._waiting(), None)
                if training is not None:
                    self._train(training)
                elif self._once:
                    return
                else:
                    self._stop.wait(_LOOK_SECONDS)
        finally:
            self._over.set()
            watch.join()
            self._host.stop()
            _log.info("stopped")

    def _waiting(self) -> Iterator[Training]:
        for training in all_trainings(self._home.trainings):
            if training.status()[0] in ("filed", "running"):
                yield training

    def _watch_roster(self) -> None:
        """Admit and lock out as the roster changes, also while a training runs."""
        while not self._over.wait(_LOOK_SECONDS):
            try:
                self._admit()
            except (FedrecError, httpx.HTTPError, RuntimeError, OSError) as error:
                _log.error("the roster could not be brought to Flower, and will be tried again: %s", error)

    def _admit(self) -> None:
        """Bring Flower's list of keys in line with the roster."""
        wanted = {_node_key(entry.node_key): entry.name for entry in self._home.enrolled()}
        known = self._host.nodes()
        for key, name in wanted.items():
            if key not in known:
                self._host.admit(key)
                _log.info("admitted %s", name)
        for key, node_id in known.items():
            if key not in wanted:
                self._host.revoke(node_id)
                _log.info("locked out node %d, which is not on the roster", node_id)

    def _train(self, training: Training) -> None:
        """Run one training to its end, over new Flower runs where one fails."""
        attempt = 0
        try:
            while not self._stop.is_set():
                try:
                    with self._host.open_run() as (grid, context):
                        self._gather(grid, training.plan())
                        training.set_status("running")
                        run = TrainingRun(
                            home=self._home,
                            training=training,
                            stop=self._stop,
                            follow=self.observer.follow,
                            timeout=self._timeout,
                        )
                        run(grid, context)
                    break
                except CohortIncompleteError as error:
                    _log.warning("training %s waits for merchants: %s", training.number, error)
                    training.set_status("running", f"waits for merchants: {error}")
                    self._stop.wait(_RETRY_SECONDS)
                except (httpx.HTTPError, RuntimeError, OSError) as error:
                    attempt += 1
                    if attempt == _RETRIES:
                        raise TrainingError(f"Flower's run failed {_RETRIES} times: {error}") from error
                    _log.warning("the Flower run failed (%s); another one carries on", error)
                    self._stop.wait(_RETRY_SECONDS)
        except FedrecError as error:
            _log.error("training %s failed: %s", training.number, error)
            training.set_status("failed", str(error))
        else:
            if not self._stop.is_set():
                training.set_status("done")
                _log.info("training %s is done", training.number)

    def _gather(self, grid: Grid, plan: TrainingPlan) -> None:
        deadline = time.monotonic() + self._gather_seconds
        while len(list(grid.get_node_ids())) < plan.cohort and time.monotonic() < deadline:
            if self._stop.wait(0.2):
                return


def _node_key(pem: str) -> bytes:
    """Return a key as Flower writes it."""
    try:
        key = load_pem_public_key(pem.encode("ascii"))
        return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise TrainingError(f"an enrolled node key can't be read: {error}") from None
