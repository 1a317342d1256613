"""Files that somebody else made: a pipe, a device or a folder in a file's place is one line, at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fedrec._internal.json_files import read_document
from fedrec._internal.toml_files import read_toml
from fedrec.api.trained_model import load_model
from fedrec.errors import ConfigError, DataError
from fedrec.privacy.audit.verify import UnusableError, verify
from fedrec.protocol.enrolment import Enrolment, JoinFile, read_file
from fedrec.protocol.roster_statements import SignedVouch
from fedrec.recognition.drift.reference import read_reference
from fedrec.recognition.export.sources import trained_source
from fedrec.recognition.model import open_model
from fedrec.simulations.audit_evidence import evidence_of_run

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")


@pytest.fixture(autouse=True)
def ends_soon() -> Iterator[None]:
    """Interrupt a reader that waits for whoever writes to the pipe, which is nobody."""

    def give_up(number: int, frame: object) -> None:
        raise TimeoutError("the reader waits")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


FILES: dict[str, Callable[[Path], object]] = {
    "toml": read_toml,
    "document": lambda path: read_document(path, schema="any"),
    "enrolment": lambda path: read_file(path, Enrolment),
    "join": lambda path: read_file(path, JoinFile),
    "vouch": lambda path: read_file(path, SignedVouch),
    "bundle of an audit": verify,
    "reference": read_reference,
}


@pytest.mark.parametrize("read", FILES.values(), ids=FILES.keys())
@pytest.mark.parametrize("kind", ["pipe", "link to a pipe", "device", "folder"])
def test_no_regular_file_is_one_line(tmp_path: Path, read: Callable[[Path], object], kind: str) -> None:
    path = tmp_path / "given"
    if kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        os.mkfifo(tmp_path / "pipe")
        path.symlink_to(tmp_path / "pipe")
    with pytest.raises((ConfigError, DataError, UnusableError)) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert kind == "folder" or "no regular file" in str(caught.value)


@pytest.mark.parametrize(
    ("read", "names"),
    [
        (open_model, ["model.json"]),
        (trained_source, ["plan.json"]),
        (load_model, ["plan.json"]),
        (evidence_of_run, ["plan.json"]),
    ],
    ids=["bundle", "export", "api", "audit"],
)
def test_a_pipe_in_a_folder_from_elsewhere_is_one_line(
    tmp_path: Path, read: Callable[[Path], object], names: list[str]
) -> None:
    for name in names:
        os.mkfifo(tmp_path / name)
    with pytest.raises((ConfigError, DataError), match="no regular file"):
        read(tmp_path)
