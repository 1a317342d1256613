"""Long lines are broken between words on a terminal, and nowhere else."""

from __future__ import annotations

import os
import sys

import pytest
from rich.cells import cell_len

from fedrec.cli.wrapping import say, wrapped

FINGERPRINT = " ".join(f"{number:04x}" for number in range(16))


@pytest.mark.parametrize("width", [40, 80, 91, 120])
@pytest.mark.parametrize(
    ("line", "indent"),
    [
        (f"fingerprint {FINGERPRINT}", 0),
        (f"roster      {'美美小店, ' * 30}", 12),
        (f"ok    photos: {'45 photos, 0 copies; ' * 9}", 6),
        (f"WRONG server: {'it does not answer ' * 9}", 6),
        (f"  rating    {'whatever anybody concludes ' * 9}", 12),
        (f"training 1: {'6 charges of cnn  ' * 12}", 0),
    ],
)
def test_no_word_is_broken_and_none_is_lost(line: str, indent: int, width: int) -> None:
    parts = list(wrapped(line.rstrip(), width=width))
    assert all(cell_len(part) <= width for part in parts)
    assert " ".join(parts).split() == line.split()
    assert len(parts) == 1 or all(part.startswith(" " * indent) for part in parts[1:])


def test_a_path_stays_in_one_piece() -> None:
    path = "/very" * 30
    assert path in list(wrapped(f"copied to {path} and read", width=80))


def test_a_program_that_reads_gets_whole_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"server      127.0.0.1\nfingerprint {FINGERPRINT}"
    say(text)
    assert capsys.readouterr().out == f"{text}\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((80, 24)))
    say(text)
    server, first, second = capsys.readouterr().out.splitlines()
    assert server == "server      127.0.0.1" and second.startswith(" " * len("fingerprint "))
    assert f"{first} {second.strip()}" == f"fingerprint {FINGERPRINT}"
