"""A run's own file: it repeats the run as it is, from any folder, and any flag can vary it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

from fedrec.config import SimulationConfig, load_config
from fedrec.errors import ConfigError, DataError
from fedrec.simulations.option_checks import check_classes, check_options
from fedrec.vision import model_registry

DERIVED: Mapping[str, object] = {
    "merchants": 8, "rounds": 100, "learning_rate": 2.0, "sample_rate": 0.05, "clip": 1.0, "epsilon": 8.0,
    "delta": 1e-4, "min_contributors": 7, "committee": 8, "threshold": 6, "corrupt_members": 1,
    "colluders": 1,
}  # fmt: skip


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """The file of a run on a public data set that left all else to the defaults."""
    config = SimulationConfig(dataset="fashion-mnist", data_root=Path("data"))
    path = tmp_path / "config.toml"
    path.write_text(config.to_toml(derived=DERIVED))
    return path


def test_the_file_repeats_the_run(own: Path) -> None:
    again = load_config(own, {})
    assert {name: getattr(again, name) for name in DERIVED} == DERIVED
    check_options(again, model_registry.get(again.model))


def test_the_file_says_what_was_asked_and_what_followed(own: Path) -> None:
    tables = tomllib.loads(own.read_text("utf-8"))
    assert tables["derived"] == DERIVED
    assert not set(tables["simulate"]) & set(DERIVED)


def test_paths_hold_from_any_folder(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = Path.cwd()
    monkeypatch.chdir(tmp_path)
    assert load_config(own, {}).data_root == here / "data"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"secure_aggregation": "none"}, {"committee": None, "threshold": None, "min_contributors": 7}),
        ({"secure_aggregation": "ckks"}, {"committee": None, "threshold": None}),
        ({"privacy": "off"}, {"epsilon": None, "delta": None, "rounds": 100}),
        ({"privacy": "local"}, {"epsilon": None, "delta": None}),
        ({"merchants": 3}, {"min_contributors": None, "committee": None, "threshold": None, "delta": None}),
        ({"data": Path("photos")}, {"dataset": "synthetic", "data_root": None, "merchants": None}),
        ({"dataset": "synthetic"}, {"data_root": None, "delta": None}),
        ({"model": "resnet18"}, {"rounds": None, "clip": None, "sample_rate": None, "learning_rate": None}),
        ({"drop": 0.2}, {"min_contributors": None, "committee": 8}),
        ({"crash": 0.2}, {"min_contributors": None}),
        ({"committee": 5}, {"threshold": None, "committee": 5}),
        ({"colluders": 2}, {"threshold": None, "min_contributors": None, "corrupt_members": None}),
        ({"epsilon": 2.0}, {"epsilon": 2.0, "delta": 1e-4, "rounds": None, "learning_rate": None}),
        ({"delta": 1e-6}, {"delta": 1e-6, "rounds": None, "sample_rate": None}),
        ({"rounds": 5}, {"delta": 1e-4, "committee": 8, "sample_rate": None, "learning_rate": None}),
        ({"clip": 0.5}, {"clip": 0.5, "rounds": 100, "learning_rate": None}),
    ],
)
def test_a_flag_sets_aside_what_followed_from_another_value(
    own: Path, flags: dict[str, object], expected: dict[str, object]
) -> None:
    found = load_config(own, flags)
    assert {name: getattr(found, name) for name in expected} == expected
    check_options(found, model_registry.get(found.model))


def test_what_a_person_wrote_yields_only_where_a_flag_leaves_it_no_meaning(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(
        "[simulate]\nepsilon = 2.0\ncommittee = 5\nthreshold = 4\nmin_contributors = 6\nmerchants = 8\n"
    )
    assert load_config(path, {"privacy": "off"}).epsilon is None
    assert load_config(path, {"secure_aggregation": "none"}).committee is None
    # A minimum that somebody chose is never dropped: too few merchants for it are an error.
    fewer = load_config(path, {"merchants": 5, "threshold": 4})
    assert fewer.min_contributors == 6
    with pytest.raises(ConfigError, match="6 contributors are required"):
        check_options(fewer, model_registry.get(fewer.model))
    with pytest.raises(ConfigError, match="no meaning with --privacy off"):
        load_config(path, {"privacy": "off", "epsilon": 3.0})


def test_augmentation_of_a_file_can_be_taken_back(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text("[simulate]\naugment = true\n")
    assert load_config(path, {}).augment
    assert not load_config(path, {"augment": False}).augment


@pytest.mark.parametrize("text", ["[derived]\nmodel = 'cnn'\n", "derived = 3\n"])
def test_a_derived_table_of_something_else_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"a table \[derived\] that no run wrote"):
        load_config(tmp_path / "run.toml", {})


@pytest.mark.parametrize("name", ["a\nb", "hat\x1b[2K", "hat\u202etar"])
def test_a_class_whose_name_nobody_sees_is_named(name: str) -> None:
    check_classes(["hat", "mug", "zero\u200djoiner"])
    with pytest.raises(DataError) as caught:
        check_classes(["hat", name])
    assert repr(name) in str(caught.value) and str(caught.value).isprintable()
