"""The server's process: the SuperLink, and the trainings one after another."""

from __future__ import annotations

import logging
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import httpx
from flwr.serverapp import Grid

from fedrec._internal.host_names import LOOPBACK
from fedrec._internal.text import counted, listed, one_line
from fedrec.config import MOST_LOST_ROUNDS, PATIENCE
from fedrec.errors import FedrecError, TrainingError
from fedrec.flower.guard import FleetRequest
from fedrec.flower.superlink import SuperLinkHost
from fedrec.observability.deduplicated_log import DeduplicatedLog
from fedrec.observability.named_nodes import named_nodes
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.roster_fingerprints import roster_fingerprint
from fedrec.server.attendance import CohortIncompleteError
from fedrec.server.certificates import make_server_certificates
from fedrec.server.memory_release import give_memory_back
from fedrec.server.model_bundles import BundleOffers, export_bundle
from fedrec.server.node_keys import flower_key
from fedrec.server.open_files import allow_open_files
from fedrec.server.presence import Presence
from fedrec.server.retries import Names, Retries
from fedrec.server.round_records import any_opened
from fedrec.server.server_home import ServerHome
from fedrec.server.status_endpoint import ServerObserver
from fedrec.server.training_run import TrainingRun
from fedrec.server.trainings import Training, all_trainings
from fedrec.server.window.campaign_files import delete_cancelled

_log = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
_PUBLISH_SECONDS, _PUBLISH_PART = 10.0, 0.05
"""Longest pause between two writes of the server's status, and which part of the time writing it may take."""
_GATHER_SECONDS = 120.0
_GATHER_LOOK_SECONDS, _TELL_SECONDS_EACH = 0.5, 0.02
"""Pause between two looks at who is there; and, for each that isn't, between two changes of what is told."""
_RETRIES = 5
_RETRY_SECONDS = 5.0
_LONG_SECONDS = 600.0


class Service:
    """Run the server until it is stopped; with ``once``, until no training is left to run.

    Merchants that are enrolled or revoked while it runs are admitted or locked out within a second.

    Args:
        home: the server's folder.
        once: whether to end when no training is left.
        timeout: in seconds, how long a phase waits for as many replies as it needs.
        gather_seconds: how long a training waits for its whole cohort before it starts with those connected.
        most_lost: how many more rounds than one in eleven may be lost before a training stops.
        patience: the multiple of :class:`GracePeriod`.
    """

    def __init__(
        self,
        home: ServerHome,
        *,
        once: bool = False,
        timeout: float = 3600.0,
        gather_seconds: float = _GATHER_SECONDS,
        most_lost: int = MOST_LOST_ROUNDS,
        patience: float = PATIENCE,
    ) -> None:
        self._home = home
        self._once = once
        self._timeout = timeout
        self._gather_seconds = gather_seconds
        self._most_lost = most_lost
        self._patience = patience
        self._stop, self._over = threading.Event(), threading.Event()
        self._gathered: set[str] = set()
        self._retries = Retries()
        self._names: dict[bytes, str] = {}
        self._enrolled: frozenset[str] = frozenset()
        self._deduplicated = DeduplicatedLog(_log)
        self._presence = Presence(away_seconds=lambda: self._host.silence_seconds())
        self.observer = ServerObserver(home, self._presence)
        settings = home.settings()
        self._scratch = tempfile.TemporaryDirectory(prefix="fedrec-server-")
        self._host = SuperLinkHost(
            certificates=home.checked_certificates(),
            # The server's own certificate may be valid for a public name only, not for loopback.
            private=make_server_certificates(Path(self._scratch.name), hosts=(LOOPBACK,)),
            host=settings.listen,
            port=settings.port,
            on_refusal=self._turned_away,
            downloads=BundleOffers(home),
            on_seen=self._saw,
        )

    def stop(self) -> None:
        """Ask the service to end after the current round."""
        self._stop.set()

    def _turned_away(self, address: str, path: str) -> None:
        self._deduplicated.write(f"refused {address}", f"refused {path} from {address}")
        self.observer.turned_away(address, path)

    def _saw(self, request: FleetRequest) -> None:
        name = self._names.get(request.key)
        if name is not None:
            self._presence.seen(name, leaves=request.leaves, round_trip=request.round_trip)

    def run(self) -> None:
        """Serve; raise ``ServiceError`` if the port is taken."""
        give_memory_back()
        allow_open_files()
        delete_cancelled(all_trainings(self._home.trainings))
        try:
            # Before the port is open: nobody on the roster is turned away.
            self._admit()
            self._host.start()
            _log.info("listening on port %d", self._host.port)
            _log.info("on the roster: %s", listed(sorted(self._enrolled)) or "nobody")
            watch = threading.Thread(target=self._watch_roster, name="fedrec-roster", daemon=True)
            watch.start()
            try:
                with named_nodes(logging.getLogger("flwr"), self._known_nodes):
                    self._run_trainings()
            finally:
                self._over.set()
                watch.join()
                self._host.stop()
                self._publish(running=False)
                self._deduplicated.end()
                _log.info("stopped")
        finally:
            self._scratch.cleanup()

    def _run_trainings(self) -> None:
        while not self._stop.is_set():
            waiting = list(self._waiting())
            if not waiting and self._once:
                return
            for training in waiting:
                there = self._presence.names()
                if not self._retries.due(training.number, names=there):
                    continue
                # A training that lacks merchants lets the next one go first.
                if self._train(training, there) or self._stop.is_set():
                    break
            else:
                self._stop.wait(_LOOK_SECONDS)

    def _waiting(self) -> Iterator[Training]:
        for training in all_trainings(self._home.trainings):
            topic = f"status of {training.number}"
            try:
                waits = training.status()[0] in ("filed", "running")
            except FedrecError as error:
                # The others are run all the same.
                text = f"training {training.number} is passed over: {error}"
                self._deduplicated.write(topic, text, level=logging.ERROR)
                continue
            self._deduplicated.end(topic)
            if waits:
                yield training

    def _watch_roster(self) -> None:
        """Admit and lock out merchants as the roster changes, and tell who comes and goes."""
        publish_at = 0.0
        while not self._over.wait(_LOOK_SECONDS):
            self._tell_changes()
            began = time.monotonic()
            if began >= publish_at:
                self._publish()
                took = time.monotonic() - began
                publish_at = began + min(_PUBLISH_SECONDS, took / _PUBLISH_PART)
            self._attempt(
                self._admit,
                "roster",
                "Flower's list of nodes could not be updated from the roster",
                level=logging.ERROR,
            )

    def _attempt(
        self, action: Callable[[], None], topic: str, failure: str, *, level: int = logging.WARNING
    ) -> None:
        """Do something that is done again in a second; if it fails, log ``failure`` on a topic."""
        try:
            action()
            self._deduplicated.end(topic)
        # Whatever goes wrong: without this thread, a merchant that is revoked would stay admitted.
        except Exception as error:
            what = str(error) if isinstance(error, FedrecError | OSError) else repr(error)
            self._deduplicated.write(topic, f"{failure}; it is tried again: {one_line(what)}", level=level)
            _log.debug("the exception:", exc_info=True)

    def _tell_changes(self) -> None:
        """Log who has connected, and who has gone, since the last look."""
        came, gone = self._presence.changes()
        here = f"{self._presence.connected()} of {len(self._enrolled)}"
        for name in came:
            _log.info("%s is connected (%s are)", name, here)
        for name in gone:
            _log.info("%s has disconnected (%s are connected)", name, here)

    def _publish(self, *, running: bool = True) -> None:
        self._attempt(
            partial(self.observer.publish, running=running),
            "live",
            "what 'fedrec server status' shows could not be written",
        )

    def _admit(self) -> None:
        """Update Flower's list of node keys to the roster."""
        wanted = {flower_key(entry.node_key): entry.name for entry in self._home.enrolled()}
        known = self._host.nodes()
        self._names |= wanted
        self._enrolled = frozenset(wanted.values())
        for key, node_id in known.items():
            if key not in wanted:
                self._host.revoke(node_id)
                _log.info("locked out %s: this node key is not on the roster", self._names[key])
        for key, name in wanted.items():
            if key not in known:
                self._host.admit(key)
                _log.debug("the node key of %s is let in from now on", name)

    def _train(self, training: Training, there: Names) -> bool:
        """Run one training to its end, over new Flower runs if one fails; return whether it could begin."""
        try:
            run = TrainingRun(
                home=self._home,
                training=training,
                stop=self._stop,
                names=self._nodes,
                follow=self.observer.follow,
                timeout=self._timeout,
                most_lost=self._most_lost,
                patience=self._patience,
                # How often it waited is told before the rounds, not once another merchant is waited for.
                began=partial(self._deduplicated.end, training.number),
            )
            attempt, reached = 0, run.reserved
            while not self._stop.is_set() and not training.is_cancelled():
                if run.reserved > reached:
                    attempt, reached = 0, run.reserved
                began = time.monotonic()
                try:
                    with self._host.open_run() as (grid, context):
                        self._gather(grid, training)
                        # A cancelled training that has begun still tells its merchants that it is over.
                        if self._stop.is_set() or (training.is_cancelled() and run.reserved == 0):
                            break
                        run(grid, context)
                    break
                except CohortIncompleteError as error:
                    if not self._wait(training, error, begun=run.reserved > 0, there=there):
                        return False
                except (httpx.HTTPError, RuntimeError, OSError) as error:
                    # A campaign's only run lasts for days: failures far apart don't add up.
                    attempt = 1 if time.monotonic() - began > _LONG_SECONDS else attempt + 1
                    if attempt == _RETRIES:
                        raise TrainingError(f"Flower's run failed {_RETRIES} times: {error}") from error
                    _log.warning("the Flower run failed (%s); another one carries on", error)
                    self._stop.wait(_RETRY_SECONDS)
        except FedrecError as error:
            _log.error("training %s failed: %s", training.number, error)
            training.set_status("failed", str(error))
        else:
            self._ended(training)
        return True

    def _ended(self, training: Training) -> None:
        self._deduplicated.end(training.number)
        self._retries.succeeded(training.number)
        if training.is_cancelled():
            delete_cancelled([training])
            _log.info("training %s was cancelled", training.number)
        elif self._stop.is_set():
            return
        elif (problem := _without_result(training)) is not None:
            training.set_status("failed", problem)
            _log.error("training %s failed: %s", training.number, problem)
        else:
            training.set_status("done")
            _log.info("training %s is done", training.number)
            warning = export_bundle(training)
            if warning is not None:
                training.set_status("done", warning)

    def _wait(self, training: Training, error: CohortIncompleteError, *, begun: bool, there: Names) -> bool:
        """Record that merchants are missing.

        A training that has begun isn't passed over: its merchants would close it when they join another.

        Args:
            training: the training.
            error: says who is missing, or refuses.
            begun: whether a round was ever begun.
            there: who was connected before.

        Returns:
            Whether this training is tried again at once.
        """
        self._deduplicated.write(training.number, f"training {training.number} waits for merchants: {error}")
        reason = f"waits for merchants: {error}"
        plan = training.plan()
        if roster_fingerprint(plan.roster, plan.witnesses) != self._home.fingerprint():
            reason += "; the roster has changed since it was planned: cancel it, and plan it anew"
        if not begun:
            seconds = self._retries.failed(training.number, names=there)
            reason += f"; they are asked again after {seconds:.0f} s, or sooner if somebody else connects"
        training.set_status("running" if begun else "filed", reason)
        if begun:
            self._stop.wait(_RETRY_SECONDS)
        return begun

    def _gather(self, grid: Grid, training: Training) -> None:
        """Wait for the whole cohort, the first time that this process tries a training."""
        plan, deadline = training.plan(), time.monotonic() + self._gather_seconds
        # The merchants of a campaign with a window needn't be there together.
        if training.number in self._gathered or plan.upload_window is not None:
            return
        status = training.status()[0]
        said: list[str] = []
        tell_at = 0.0
        while (absent := self._absent(plan, set(grid.get_node_ids()))) and time.monotonic() < deadline:
            if absent != said and time.monotonic() >= tell_at:
                said = absent
                # Each time a file is synced; many merchants come one after another.
                tell_at = time.monotonic() + len(absent) * _TELL_SECONDS_EACH
                reason = (
                    f"waits up to {self._gather_seconds:.0f} s for its whole cohort; not there: "
                    f"{listed(absent)}"
                )
                _log.info("training %s %s", training.number, reason)
                training.set_status(status, reason)
            if self._stop.wait(_GATHER_LOOK_SECONDS) or training.is_cancelled():
                # Remove the reason to wait; a cancelled training keeps its own status.
                training.set_status(status)
                return
        self._gathered.add(training.number)

    def _nodes(self) -> dict[int, str]:
        """Return which enrolled merchant is at which node, by the key that it shows to Flower."""
        keys = {flower_key(entry.node_key): entry.name for entry in self._home.enrolled()}
        return {node: keys[key] for key, node in self._host.nodes().items() if key in keys}

    def _known_nodes(self) -> dict[int, str]:
        """Return who was ever at which node, without a look at the roster's file."""
        return {node: self._names[key] for key, node in self._host.nodes().items() if key in self._names}

    def _absent(self, plan: TrainingPlan, there: set[int]) -> list[str]:
        known = {self._names.get(key): node for key, node in self._host.nodes().items()}
        expected = plan.roster + plan.seated_witnesses
        return sorted(peer.name for peer in expected if known.get(peer.name) not in there)


def _without_result(training: Training) -> str | None:
    """Return why a training that has ended has no model; None if it has one."""
    lines = training.rounds()
    if any_opened(lines):
        return None
    last = lines[-1].reason if lines else "the server ended while it was under way"
    return (
        f"no sum of its {counted(training.plan().rounds, 'round')} was opened, so that it has no model; the "
        f"last round: {last}. What was charged stays charged: fix the cause, and plan another training"
    )
