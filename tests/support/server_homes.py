"""A server's folder with enrolled merchants, and trainings in it as a server would leave them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from fedrec.privacy.identity import SigningIdentity
from fedrec.protocol.enrolment import Enrolment, Statement
from fedrec.server.server_home import ServerHome
from fedrec.server.training_file import TrainingFile, add_training
from fedrec.server.trainings import Training
from tests.support.daemons import public_pem

NAMES = ("anna", "bert", "cleo")


def enrolled_home(folder: Path, *, names: tuple[str, ...] = NAMES, size: int = 100) -> ServerHome:
    made = ServerHome.create(folder, address="127.0.0.1:8443", listen=None)
    for name in names:
        identity = SigningIdentity.generate()
        statement = Statement(
            name=name,
            signing_key=identity.public.hex(),
            node_key=public_pem(ec.generate_private_key(ec.SECP384R1())).decode("ascii"),
            unit="record",
            size=size,
        )
        signature = identity.sign(statement.canonical_bytes(), context=b"fedrec/enrolment/1").hex()
        made.enroll(Enrolment(statement=statement, signature=signature))
    return made


def filed(home: ServerHome, **options: object) -> Training:
    """File a training of a small network; ``options`` are those of a training file."""
    given = {"model": "cnn", "rounds": 5, "sample_rate": 0.1, "delta": 1e-4} | options
    return add_training(
        home.trainings,
        TrainingFile.model_validate({"classes": ["a", "b"], "image_size": 16} | given),
        server_key=home.identity().public.hex(),
        roster=home.roster(),
        sizes=home.sizes("record"),
    )


def write_rounds(training: Training, *lines: dict[str, Any]) -> None:
    (training.folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def round_line(
    number: int, *, contributors: int, opened: bool = True, accuracy: float = 0.5
) -> dict[str, Any]:
    """The line that a server keeps of a round."""
    spent = {"seconds": 3.0, "seconds_train": 1.5, "seconds_unmask": 0.5, "bytes_up": 1000, "bytes_down": 10}
    counts = {"contributors": contributors, "dropouts": 3 - contributors, "upload_bytes": 400}
    reason = None if opened else "too few"
    told: dict[str, Any] = {
        "accuracy": accuracy,
        "f1_macro": 0.4,
        "epsilon": 1.0,
        "merchants": list(NAMES)[:contributors],
        "noise_kept": None,
    }
    return {"round": number, "opened": opened, "reason": reason, **told, **spent, **counts}
