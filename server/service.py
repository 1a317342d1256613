"""The server's process: the SuperLink, and the trainings on file, one after another."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict

import httpx
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from flwr.app import Context
from flwr.serverapp import Grid
from safetensors.numpy import save

from fedrec.errors import FedrecError, TrainingError
from fedrec.files import write_atomically
from fedrec.flower.superlink import Certificates, SuperLinkHost
from fedrec.privacy.derive import derive
from fedrec.privacy.dp.clipping import load_parameter_vector
from fedrec.protocol import TrainingPlan
from fedrec.server.app import build_server_app
from fedrec.server.checkpoint import Checkpoint
from fedrec.server.coordinator import CohortIncompleteError, Coordinator, RoundRecord
from fedrec.server.evaluation import EvaluationData, accuracy
from fedrec.server.home import ServerHome
from fedrec.server.observe import ServerObserver
from fedrec.server.optimizer import ServerOptimizer
from fedrec.server.receipts import ReceiptBook
from fedrec.server.trainings import Training, all_trainings, initial_model, starting_parameters
from fedrec.vision.datasets import open_folder
from fedrec.vision.inputs import InputShape, model_inputs, to_inputs
from fedrec.vision.models import registry

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
                        self._run(training, grid, context)
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

    def _run(self, training: Training, grid: Grid, context: Context) -> None:
        plan, settings = training.plan(), training.settings()
        spec = registry.get(plan.model)
        shape = InputShape(channels=plan.channels, size=plan.image_size)
        model = initial_model(spec, classes=len(plan.classes), shape=shape, seed=training.initial_seed())
        optimizer = ServerOptimizer.start(
            starting_parameters(model),
            learning_rate=settings.learning_rate,
            momentum=settings.momentum,
            ema_decay=settings.ema,
        )
        evaluation = _evaluation(training, plan, spec, shape)

        def on_round(record: RoundRecord) -> None:
            shown = None if evaluation is None else accuracy(model, optimizer.model, evaluation)
            with (training.folder / "rounds.jsonl").open("a") as file:
                file.write(json.dumps(asdict(record) | {"accuracy": shown}) + "\n")
            _log.info(
                "training %s, round %d of %d: %s, %d contributors%s",
                training.number,
                record.round,
                plan.rounds,
                "opened" if record.opened else f"lost ({record.reason})",
                record.contributors,
                "" if shown is None else f", accuracy {shown:.1%}",
            )
            if self._stop.is_set():
                raise _StoppedError

        coordinator = Coordinator(
            grid=grid,
            plan=plan,
            optimizer=optimizer,
            checkpoint=Checkpoint(training.folder / "server", training_id=plan.training_id),
            receipts=ReceiptBook(self._home.receipts, identity=self._home.identity()),
            on_round=on_round,
            timeout=self._timeout,
        )
        self.observer.follow(training, coordinator)
        try:
            build_server_app(lambda grid, context: coordinator)(grid, context)
        except _StoppedError:
            return
        load_parameter_vector(model, optimizer.model)
        tensors = {name: parameter.detach().cpu().numpy() for name, parameter in model.named_parameters()}
        write_atomically(training.folder / "model.safetensors", save(tensors))
        report = {
            "schema": "fedrec.training/1",
            "training_id": plan.training_id,
            "scheme": plan.scheme,
            "trust_limit": derive(plan).scheme.trust_limit,
            "refusals": coordinator.refusals,
            "rounds": training.rounds(),
        }
        write_atomically(training.folder / "report.json", json.dumps(report, indent=2).encode())


class _StoppedError(Exception):
    """The service was asked to stop; the checkpoint holds the round that has just ended."""


def _node_key(pem: str) -> bytes:
    """Return a key as Flower writes it."""
    try:
        key = load_pem_public_key(pem.encode("ascii"))
        return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise TrainingError(f"an enrolled node key can't be read: {error}") from None


def _evaluation(
    training: Training, plan: TrainingPlan, spec: registry.ModelSpec, shape: InputShape
) -> EvaluationData | None:
    """Load the operator's own public photos, if it has any."""
    folder = training.eval_data()
    if folder is None:
        return None
    images = open_folder(folder, classes=plan.classes).train
    inputs = model_inputs(images, spec, shape, views=1, progress=lambda done, total: None)
    return EvaluationData(inputs=to_inputs(inputs, plan.model)[:, 0], labels=images.labels)
