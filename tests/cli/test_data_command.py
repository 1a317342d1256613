from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from fedrec.cli.app import main


def fedrec(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["fedrec", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0)


def test_synthetic_photos_are_counted_and_copies_and_broken_files_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "photos"
    numbers = ("--merchants", "2", "--per-merchant", "15", "--validation", "10", "--test", "0")
    assert fedrec(monkeypatch, "data", "synth", str(folder), *numbers) == 0
    assert "40 photos" in capsys.readouterr().out
    chosen = sorted((folder / "train" / "merchant-01").rglob("*.png"))
    with Image.open(chosen[0]) as picture:
        picture.save(chosen[0].with_name("copy.png"))
    chosen[1].write_bytes(b"no picture")

    assert fedrec(monkeypatch, "data", "inspect", str(folder), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    train, validation = found["splits"]
    assert (train["photos"], validation["photos"]) == (29, 10)
    assert train["merchants"] == {"merchant-00": 15, "merchant-01": 14}
    assert sum(train["classes"].values()) == 29
    assert found["duplicates_dropped"] == 1
    assert [Path(skip["name"]).name for skip in found["skipped"]] == [chosen[1].name]

    assert fedrec(monkeypatch, "data", "inspect", str(folder)) == 0
    shown = capsys.readouterr().out
    assert "merchant merchant-01" in shown and f"skipped train/merchant-01/{chosen[1].parent.name}" in shown


def test_synthetic_photos_overwrite_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").touch()
    assert fedrec(monkeypatch, "data", "synth", str(tmp_path)) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_an_unknown_data_set_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fedrec(monkeypatch, "data", "download", "imagenet", "--data-root", str(tmp_path)) == 2
    assert "choose one of cifar10, fashion-mnist" in capsys.readouterr().err
