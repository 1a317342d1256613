"""Names of any bytes are printed to terminals and pipes of any encoding."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
import rich.console
import typer

from fedrec.cli import app
from fedrec.cli.console import sane_environment
from fedrec.cli.streams import accept_any_text
from fedrec.errors import DataError
from tests.support.pictures import picture


def _run(monkeypatch: pytest.MonkeyPatch, encoding: str, *arguments: str) -> tuple[int, bytes, bytes]:
    """Run a command whose output goes to strict streams of one encoding."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    monkeypatch.setattr(sys, "argv", ["fedrec", *arguments])
    with pytest.raises(SystemExit) as stopped:
        app.main()
    sys.stdout.flush()
    sys.stderr.flush()
    assert isinstance(stopped.value.code, int)
    out, err = (stream.buffer.getvalue() for stream in streams)
    return stopped.value.code, out, err


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8", "gbk", "shift_jis"])
def test_a_summary_of_photos_of_any_names_is_printed(
    encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("mug", "h\u00fcte", "\u5e3d\u5b50", "\U0001f455"):
        picture(tmp_path / folder / "x.png", len(os.fsencode(folder)))
        (tmp_path / folder / os.fsdecode(b"\xff\xfe.jpg")).write_text("no photo")
    for arguments in (["data", "inspect"], ["catalogue", "quality"]):
        code, out, err = _run(monkeypatch, encoding, *arguments, str(tmp_path))
        shown = out.decode(encoding)
        assert code == 0 and b"Traceback" not in err
        for folder in ("h\u00fcte", "\u5e3d\u5b50", "\U0001f455"):
            assert folder.encode(encoding, "backslashreplace").decode(encoding) in shown


def test_prints_of_rich_and_of_click_are_escaped_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    accept_any_text()
    typer.echo("caf\u00e9 \udcff")
    rich.console.Console(highlight=False).print("caf\u00e9 \udcff")
    sys.stdout.flush()
    assert raw.getvalue() == 2 * b"caf\\xe9 \\udcff\n"


def test_a_name_that_no_file_can_keep_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = tmp_path / os.fsdecode(b"ph\xff")
    for label in ("hat", "mug"):
        for shade in (1, 2, 3):
            picture(photos / label / f"{shade}.png", shade)
    home = tmp_path / "home"
    code, _, err = _run(
        monkeypatch, "utf-8", "client", "init", "--name", "m", "--data", str(photos), "--home", str(home)
    )
    assert (code, err.count(b"\n")) == (DataError.exit_code, 1)
    assert rb"/ph\udcff" in err and b"rename it" in err
    assert not home.exists()


def test_a_terminal_of_no_columns_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for nothing in ("0", "00", ""):
        monkeypatch.setenv("COLUMNS", nothing)
        assert "COLUMNS" not in sane_environment()
    monkeypatch.setenv("COLUMNS", "40")
    assert sane_environment()["COLUMNS"] == "40" and "PATH" in sane_environment()


def test_streams_that_were_closed_are_the_null_device_and_no_file_of_the_program(tmp_path: Path) -> None:
    """With its standard streams closed, a program's next file would be its standard output."""
    script = (
        "import os, sys\n"
        "from fedrec.cli.streams import replace_closed_streams\n"
        "replace_closed_streams()\n"
        "file = open(sys.argv[1], 'w')\n"
        "print('printed'); sys.stderr.write('told'); os.write(1, b'raw')\n"
        "file.write(str(file.fileno() > 2) + repr(sys.stdin.read()))\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "file")]
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command], check=False, cwd=Path.cwd(), timeout=60
    )
    assert done.returncode == 0 and (tmp_path / "file").read_text() == "True''"
