"""What a newcomer installs: wheel, source distribution, editable checkout; and what an editor sees of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from fedrec.privacy.accounting.code_hash import code_hash
from tests.support.language_server import language_server
from tests.support.layout import ROOT

SCRIPTS = Path(sysconfig.get_path("scripts"))
LINKS = {path.name for path in ROOT.iterdir() if path.is_symlink()}
DEPENDENCIES = sysconfig.get_path("purelib")

PROBE = """
import importlib, json, pkgutil, sys
import fedrec
from fedrec.privacy.accounting.code_hash import code_hash
found = [module.name for module in pkgutil.walk_packages(fedrec.__path__, "fedrec.")]
files = [importlib.import_module(name).__file__ for name in found if "__main__" not in name]
print(json.dumps({"files": files, "code": code_hash()}))
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.install,
    pytest.mark.skipif(
        shutil.which("git") is None or not (ROOT / ".git").exists(), reason="this is no git checkout"
    ),
]


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command to its end, without this Python's own settings, and return what it printed."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=clean, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


def tracked() -> list[str]:
    """Return the checkout's files as git lists them, those not yet added included."""
    listed = run("git", "ls-files", "-co", "--exclude-standard", "--deduplicate", "--", ".", cwd=ROOT)
    return [name for name in listed.splitlines() if os.path.lexists(ROOT / name)]


def modules() -> set[str]:
    """Return the package's files with Python that can be imported, the root and programs left out."""
    found = {name for name in tracked() if name.startswith("fedrec/") and name.endswith(".py")}
    return {name for name in found if not name.endswith("__main__.py")} - {"fedrec/__init__.py"}


def every_import() -> str:
    """Return a script that imports every module of the package."""
    names = (name.removesuffix(".py").removesuffix("/__init__") for name in sorted(modules()))
    return "".join(f"import {name.replace('/', '.')}\n" for name in names)


@dataclass(frozen=True)
class Built:
    """What was built of a checkout without links, and of one with them."""

    checkout: Path
    sdist: Path
    wheel: Path
    wheel_of_sdist: Path
    wheel_beside_links: Path
    editable: Path


def copy_checkout(folder: Path, *, links: bool) -> Path:
    """Copy the checkout; without links, each is a file that holds its target, as git writes it there."""
    for name in tracked():
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not source.is_symlink():
            target.write_bytes(source.read_bytes())
        elif links:
            target.symlink_to(source.readlink())
        else:
            target.write_text(str(source.readlink()))
    return folder


def build(checkout: Path, out: Path, *kinds: str) -> Path:
    """Build a checkout without a network; return the folder."""
    run(sys.executable, "-m", "build", "--no-isolation", *kinds, "--outdir", out, cwd=checkout)
    return out


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    root = tmp_path_factory.mktemp("built")
    checkout = copy_checkout(root / "checkout", links=False)
    linked = copy_checkout(root / "linked", links=True)
    both = build(linked, root / "both")
    hook = "import sys, setuptools.build_meta as backend; backend.build_editable(sys.argv[1])"
    (editable := root / "editable").mkdir()
    run(sys.executable, "-c", hook, editable, cwd=checkout)
    return Built(
        checkout=checkout,
        sdist=next(both.glob("*.tar.gz")),
        wheel=next(build(checkout, root / "wheel", "--wheel").glob("*.whl")),
        wheel_of_sdist=next(both.glob("*.whl")),
        wheel_beside_links=next(build(linked, root / "beside", "--wheel").glob("*.whl")),
        editable=next(editable.glob("*.whl")),
    )


def environment_with(wheel: Path, folder: Path) -> Path:
    """Make a virtual environment with a wheel in it; return its Python.

    The other packages are those of the running Python: their folder is added by a ``.pth`` file. The package
    itself lies there as a ``.pth`` file too, and Python doesn't read one in a folder added by another.
    """
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    python = folder / "bin" / "python"
    pip: list[str | Path] = [sys.executable, "-m", "pip", "--python", python]
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=folder.parent)
    (purelib(python) / "dependencies.pth").write_text(f"{DEPENDENCIES}\n")
    return python


def purelib(python: Path) -> Path:
    """Return where a Python keeps what is installed into it."""
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return Path(run(python, "-c", code, cwd=python.parent).strip()).resolve()


def test_a_source_distribution_holds_each_file_once(built: Built) -> None:
    with tarfile.open(built.sdist) as sdist:
        names = [name.partition("/")[2] for name in sdist.getnames()]
    assert {name for name in tracked() if name.startswith("fedrec/")} <= set(names)
    top = {name.partition("/")[0] for name in names if "/" in name}
    assert top <= {"fedrec", "fedrec.egg-info", "tests"} and not set(names) & LINKS


@pytest.mark.parametrize("kind", ["wheel", "wheel_of_sdist", "wheel_beside_links"])
def test_a_wheel_holds_the_package_and_nothing_else(built: Built, kind: str) -> None:
    with zipfile.ZipFile(getattr(built, kind)) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == {name for name in tracked() if name.startswith("fedrec/")}
    assert {
        "fedrec/py.typed",
        "fedrec/report/templates/document.html",
        "fedrec/report/templates/style.css",
        "fedrec/report/templates/document.typ",
    } <= names


@pytest.mark.parametrize("kind", ["wheel", "wheel_of_sdist", "editable"])
def test_an_installed_package_works_from_an_empty_folder(built: Built, kind: str, tmp_path: Path) -> None:
    python = environment_with(getattr(built, kind), tmp_path / "venv")
    (empty := tmp_path / "empty").mkdir()
    found = json.loads(run(python, "-c", PROBE, cwd=empty))
    home = built.checkout.resolve() if kind == "editable" else purelib(python)
    assert {Path(file).resolve().relative_to(home).as_posix() for file in found["files"]} == modules()
    assert found["code"] == code_hash()
    program = python.with_name("fedrec")
    assert run(program, "--version", cwd=empty).startswith("fedrec ")
    if kind == "wheel":
        out = empty / "run"
        small = "--merchants 3 --per-merchant 30 --validation 10 --test 10 --size 16"
        run(program, "data", "synth", *small.split(), "photos", cwd=empty)
        run(program, "simulate", "--data", "photos", "--rounds", "1", "--out", out, cwd=empty)
        report = json.loads((out / "report.json").read_text("utf-8"))
        script = empty / "script.py"
        script.write_text(
            "import fedrec\n"
            "result = fedrec.simulate('cnn', data='photos', merchants=3, rounds=1, device='cpu', workers=1)\n"
            "print(result.folder, fedrec.load_model(result.folder).classes)\n"
        )
        assert run(python, script, cwd=empty).startswith("runs/")
        assert report["rounds"][0]["opened"] is True and (out / "report.html").is_file()


def test_an_editable_install_is_a_plain_path(built: Built) -> None:
    """Editors and type checkers follow a path entry; they run no finder."""
    with zipfile.ZipFile(built.editable) as wheel:
        outside = [name for name in wheel.namelist() if ".dist-info/" not in name]
        assert len(outside) == 1 and outside[0].endswith(".pth")
        assert wheel.read(outside[0]).decode().strip() == str(built.checkout)


def test_pyright_resolves_every_import_from_an_empty_folder(tmp_path: Path) -> None:
    """Give it nothing but the Python that ``make install`` made, as an editor has it."""
    command: list[str | Path] = [SCRIPTS / "basedpyright", "--pythonpath", sys.executable, "--outputjson"]
    (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "standard"}')
    probe = tmp_path / "probe.py"
    probe.write_text(every_import())
    summary = json.loads(run(*command, cwd=tmp_path))["summary"]
    assert summary["filesAnalyzed"] == 1 and summary["errorCount"] == 0
    # A probe that could not fail would prove nothing.
    probe.write_text(every_import() + "import fedrec.no_such_module\n")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    wrong = [found["rule"] for found in json.loads(done.stdout)["generalDiagnostics"]]
    assert wrong == ["reportMissingImports"]


@pytest.mark.parametrize("inside", [True, False])
def test_an_editor_lands_in_the_file_that_one_edits(inside: bool, tmp_path: Path) -> None:
    """Go to a definition, from the open checkout and from somebody's own script: no link, no copy."""
    files = {
        "Coordinator": "fedrec/server/coordinator.py",
        "Merchant": "fedrec/clients/merchant.py",
        "TrainingPlan": "fedrec/protocol/plan.py",
        "SigningIdentity": "fedrec/privacy/identity.py",
    }
    script = ROOT / "tests" / "support" / "cohort.py"
    if not inside:
        script = tmp_path / "script.py"
        modules = {name: file.removesuffix(".py").replace("/", ".") for name, file in files.items()}
        script.write_text("".join(f"from {module} import {name}\n" for name, module in modules.items()))
    program = SCRIPTS / "basedpyright-langserver"
    folder = ROOT if inside else tmp_path
    with language_server(program, folder=folder, python=Path(sys.executable)) as editor:
        landed = {name: editor.definition(script, name=name) for name in files}
    assert landed == {name: ROOT / file for name, file in files.items()}
