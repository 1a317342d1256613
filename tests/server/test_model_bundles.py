"""A training that is done stays done, whatever becomes of its bundle."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from fedrec.errors import ConfigError, MissingExtraError
from fedrec.server.model_bundles import export_bundle
from fedrec.server.trainings import Training


@pytest.fixture
def training(tmp_path: Path) -> Training:
    made = Training(tmp_path / "0001")
    made.folder.mkdir()
    made.set_status("done")
    return made


@pytest.mark.parametrize(
    "error",
    [MissingExtraError("install the extra"), ConfigError("it differs"), RuntimeError("torch\nfailed")],
    ids=lambda error: type(error).__name__,
)
def test_an_export_that_fails_says_how_to_make_the_bundle_later(
    training: Training, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(source: Path, folder: Path) -> None:
        raise error

    with caplog.at_level(logging.INFO):
        warning = export_bundle(training, make=fails)
    assert warning is not None and "\n" not in warning
    assert f"'fedrec model export {training.folder} --out {training.folder / 'bundle'}'" in warning
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert str(error).split("\n")[0] in caplog.text and training.status()[0] == "done"


def test_a_bundle_is_made_once_in_the_trainings_folder(training: Training) -> None:
    made: list[tuple[Path, Path]] = []

    def makes(source: Path, folder: Path) -> None:
        made.append((source, folder))
        folder.mkdir()

    assert export_bundle(training, make=makes) is None
    assert export_bundle(training, make=makes) is None
    assert made == [(training.folder, training.folder / "bundle")]
