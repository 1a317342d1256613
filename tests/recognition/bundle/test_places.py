"""A bundle is found where it is, or made in the folder of the training that it is of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedrec.errors import ConfigError, DataError
from fedrec.recognition.bundle.places import BUNDLE, bundle_folder
from fedrec.recognition.model import open_model
from tests.support.bundles import write_tiny_bundle


def test_a_bundle_is_its_own_place(tmp_path: Path) -> None:
    assert bundle_folder(write_tiny_bundle(tmp_path / "m")) == tmp_path / "m"


def test_a_run_has_its_bundle_inside_and_it_is_not_made_twice(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "plan.json").write_text("{}")
    write_tiny_bundle(run / BUNDLE)
    assert bundle_folder(run) == run / BUNDLE
    assert open_model(run).classes


def test_an_unfinished_run_and_an_empty_folder_are_named(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "plan.json").write_text(json.dumps({"version": 1}))
    with pytest.raises(ConfigError, match="run"):
        open_model(tmp_path / "run")
    with pytest.raises(DataError, match="no model bundle"):
        open_model(tmp_path)
