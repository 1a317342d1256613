"""Commands that only read must answer at once: they import nothing that trains, composes or serves."""

from __future__ import annotations

import signal
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest

import fedrec.__main__ as entry

HEAVY = (
    "torch",
    "torchvision",
    "opacus",
    "flwr",
    "dp_accounting",
    "matplotlib",
    "sklearn",
    "onnx",
    "onnxruntime",
)
SCRIPT = """
import sys
from fedrec.cli.app import main
sys.argv[0] = "fedrec"
try:
    main()
except SystemExit as end:
    code = end.code
print(sorted({name.partition(".")[0] for name in sys.modules} & set(HEAVY)), file=sys.stderr)
sys.exit(code)
"""


def modules_of(*arguments: object) -> tuple[int, str]:
    """Run a command in a process of its own; its code, and which of the heavy packages it imported."""
    done = subprocess.run(
        [sys.executable, "-c", f"HEAVY = {HEAVY!r}\n{SCRIPT}", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr.splitlines()[-1]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A server's folder, a merchant's with one photo, and an empty catalogue, which this process makes."""
    from fedrec.clients.merchant_home import MerchantHome
    from fedrec.recognition.catalogue.catalogue import Catalogue, UsedModel
    from fedrec.server.server_home import ServerHome

    root = tmp_path_factory.mktemp("start-up")
    ServerHome.create(root / "server", address="127.0.0.1:9443", listen=None)
    MerchantHome.create(root / "client", name="m0", data=root, units=10)
    Catalogue.create(root / "catalogue", UsedModel("e", 8, None, None, "none"))
    return root


@pytest.mark.parametrize(
    "arguments",
    [
        "--version",
        "--help",
        "simulate --help",
        "server status --home SERVER",
        "client budget --home CLIENT",
        "client status --home CLIENT",
        "client page --help",
        "backbone list",
        "catalogue quality --help",
        "catalogue --help",
        "catalogue import --help",
        "catalogue list CATALOGUE",
        "catalogue info CATALOGUE",
        "model --help",
        "predict --help",
        "audit --help",
        "audit verify --help",
    ],
)
def test_a_light_command_imports_nothing_heavy(folders: Path, arguments: str) -> None:
    places = arguments
    for name in ("SERVER", "CLIENT", "CATALOGUE"):
        places = places.replace(name, str(folders / name.lower()))
    assert modules_of(*places.split()) == (0, "[]")


@pytest.mark.parametrize(
    "module",
    [
        "vision.backbones.fixed_views",
        "recognition.copies.finder",
        "recognition.copies.pictures",
        "recognition.catalogue.models",
        "recognition.catalogue.opening",
        "recognition.catalogue.publishing",
        "recognition.drift.watch",
    ],
)
def test_photos_are_prepared_and_compared_without_torch(module: str) -> None:
    code = f"import fedrec.{module}, sys; sys.exit(bool({{'torch', 'tenseal', 'flwr'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_import_check_detects_what_a_heavy_command_imports() -> None:
    code, heavy = modules_of("simulate", "--epsilon", "0")
    assert code == 2 and "torch" in heavy


def test_every_command_in_the_list_can_be_imported_and_shows_its_help() -> None:
    from typer.testing import CliRunner

    from fedrec.cli.app import app

    listed = {"": ["simulate", "server", "client", "data", "model", "predict", "serve"]}
    listed[""] += ["catalogue", "backbone", "audit"]
    listed["catalogue"] = ["quality", "import", "search", "list", "info", "add", "remove", "reindex"]
    listed["catalogue"] += ["publish", "merge"]
    listed["model"] = ["export"]
    listed["backbone"] = ["add", "list", "remove", "check"]
    listed["audit"] = ["report", "verify", "empirical", "inversion", "membership"]
    for group, names in listed.items():
        shown = CliRunner().invoke(app, [*group.split(), "--help"])
        for name in names:
            assert f"  {name}  " in shown.output
            helped = CliRunner().invoke(app, [*group.split(), name, "--help"])
            assert helped.exit_code == 0 and f"{group} {name} [OPTIONS]".strip() in helped.output
            assert "\\[" not in helped.output


@pytest.mark.parametrize(
    ("wrong", "right"), [("simulat", "simulate"), ("audit inversio", "inversion"), ("client chekc", "check")]
)
def test_a_misspelt_command_suggests_the_right_one(wrong: str, right: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fedrec.cli", *wrong.split()], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and f"did you mean '{right}'?" in done.stderr


@pytest.mark.parametrize("ignored", [False, True])
def test_ctrl_c_while_the_program_is_loaded_shows_no_traceback(
    monkeypatch: pytest.MonkeyPatch, ignored: bool
) -> None:
    """It ends the process then; once it is loaded, the command says 'stopped'."""
    seen: list[object] = []

    class Loading(types.ModuleType):
        @property
        def main(self) -> Callable[[], None]:
            seen.append(signal.getsignal(signal.SIGINT))
            return lambda: seen.append(signal.getsignal(signal.SIGINT))

    monkeypatch.setitem(sys.modules, "fedrec.cli.app", Loading("fedrec.cli.app"))
    before = signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.default_int_handler)
    try:
        entry.main()
    finally:
        signal.signal(signal.SIGINT, before)
    expected = [signal.SIG_IGN] * 2 if ignored else [signal.SIG_DFL, signal.default_int_handler]
    assert seen == expected
