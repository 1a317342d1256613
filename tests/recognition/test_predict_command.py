"""``fedrec predict`` names classes, draws evidence, and goes on after a file that is no photo."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from fedrec.cli.app import app
from fedrec.errors import FedrecError
from tests.support.bundles import write_tiny_bundle

SERVED = """
import sys
from fedrec.cli.app import main
sys.argv = ["fedrec", "predict", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    code = end.code
print(sorted({"torch", "tenseal", "flwr", "opacus"} & set(sys.modules)), file=sys.stderr)
sys.exit(code)
"""


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_tiny_bundle(tmp_path / "m")


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    (folder / "a").mkdir(parents=True)
    Image.new("RGB", (50, 30), (255, 0, 0)).save(folder / "a" / "1.png")
    Image.new("RGB", (50, 30), (0, 0, 255)).save(folder / "1.png")
    (folder / "broken.jpg").write_bytes(b"\\xff\\xd8\\xff no photo")
    return folder


def run(*arguments: object, stdin: bytes = b"") -> str:
    done = CliRunner().invoke(app, ["predict", *map(str, arguments)], input=stdin)
    if isinstance(done.exception, FedrecError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_folder_is_read_and_a_broken_file_is_named(bundle: Path, shop: Path) -> None:
    lines = run(bundle, shop).splitlines()
    assert len(lines) == 3
    assert lines[0].startswith(f"{shop}/1.png: blue 99.9%, ")
    assert lines[1].startswith(f"{shop}/a/1.png: red 99.9%, ")
    assert lines[2].startswith(f"{shop}/broken.jpg: can't be read: ")


def test_json_has_probabilities_errors_and_pictures_with_names_of_their_own(bundle: Path, shop: Path) -> None:
    out = shop.parent / "why"
    lines = [
        json.loads(line) for line in run(bundle, shop, "--json", "--top", 1, "--evidence", out).splitlines()
    ]
    assert [len(line["classes"] or ()) for line in lines] == [1, 1, 0]
    assert lines[2]["error"] and not lines[0]["error"]
    assert [line["evidence"] for line in lines] == [f"{out}/1.png", f"{out}/1-2.png", None]
    assert Image.open(out / "1.png").size == (50, 30)


def test_a_photo_on_standard_input(bundle: Path) -> None:
    photo = io.BytesIO()
    Image.new("RGB", (40, 40), (0, 255, 0)).save(photo, "JPEG")
    assert run(bundle, "-", stdin=photo.getvalue()).startswith("-: green ")


def test_standard_input_stands_beside_files_and_folders(bundle: Path, shop: Path) -> None:
    photo = io.BytesIO()
    Image.new("RGB", (40, 40), (0, 255, 0)).save(photo, "PNG")
    named = [
        line.partition(": ")[0]
        for line in run(bundle, shop / "a", "-", shop / "1.png", stdin=photo.getvalue()).splitlines()
    ]
    assert named == [f"{shop}/a/1.png", "-", f"{shop}/1.png"]
    with pytest.raises(FedrecError, match="once"):
        run(bundle, "-", "-", stdin=photo.getvalue())


@pytest.mark.parametrize("keep", [0, 0.5, 0.9])
def test_a_photo_that_is_cut_off_is_named_with_its_reason(bundle: Path, tmp_path: Path, keep: float) -> None:
    photo = io.BytesIO()
    Image.effect_noise((90, 90), 70).convert("RGB").save(photo, "JPEG")
    content = photo.getvalue()[: int(keep * len(photo.getvalue()))]
    (tmp_path / "cut.jpg").write_bytes(content)
    reason = "it is cut off" if content else "it is empty"
    for place in (tmp_path / "cut.jpg", "-"):
        with pytest.raises(FedrecError, match=rf"{place} can't be read as a photo: {reason}"):
            run(bundle, place, "--json", stdin=content)


def test_a_name_neither_splits_a_line_nor_steers_a_terminal(bundle: Path, shop: Path) -> None:
    (shop / "1.png").rename(shop / "a\n\x1b[31m\u202eb.png")
    assert f"{shop}/a  [31m b.png: blue" in run(bundle, shop)
    assert len(run(bundle, shop).splitlines()) == 3


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(("--class", "hat", "--evidence", "x"), "knows no class 'hat'"), (("--class", "red"), "give both")],
)
def test_options_that_fit_nothing_are_refused(
    bundle: Path, shop: Path, arguments: tuple[str, ...], told: str
) -> None:
    with pytest.raises(FedrecError, match=told):
        run(bundle, shop, *arguments)


def test_a_backbone_alone_has_no_classes_to_name(tmp_path: Path, shop: Path) -> None:
    with pytest.raises(FedrecError, match="backbone alone"):
        run(write_tiny_bundle(tmp_path / "alone", classes=False), shop)


def test_neither_torch_nor_tenseal_nor_flwr_is_loaded(bundle: Path, shop: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SERVED, bundle, shop, "--evidence", shop.parent / "why"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and done.stderr.splitlines()[-1] == "[]"
