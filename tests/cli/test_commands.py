"""The command line: an error is one line, comes before any work, ends with its code, and leaves nothing."""

from __future__ import annotations

import errno
import os
import re
import runpy
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import pytest
import typer
from PIL import Image

from fedrec import __version__
from fedrec.cli.app import app, main
from fedrec.cli.console import run_reporting_errors
from fedrec.cli.heartbeat import Heartbeat
from fedrec.clients.policy import MerchantPolicy
from fedrec.errors import ConfigError
from fedrec.observability.progress import Stage
from fedrec.protocol.enrolment import Enrolment, JoinFile, read_file
from fedrec.protocol.plan import Peer
from fedrec.protocol.roster_statements import SignedVouch
from fedrec.server.training_file import TrainingFile, add_training, read_training_file
from fedrec.simulations import local_grid, run_setup
from tests.support.cohort import Cohort

CONFIG, DATA, UNREACHABLE, SYSTEM, BROKEN_PIPE = 2, 3, 5, 16, 141


def make_folder(folder: Path, classes: list[str], *, photos: int = 8) -> Path:
    """A folder of class folders with noise for photos."""
    rng = np.random.default_rng(len(classes))
    folder.mkdir(parents=True)
    for name in classes:
        (folder / name).mkdir()
        for index in range(photos):
            pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("photos") / "good", ["mug", "shoe"])


@dataclass(frozen=True)
class Outcome:
    code: int
    stdout: str
    stderr: str

    def one_line(self) -> str:
        """The error, which must be all that was printed."""
        assert self.stdout == ""
        assert self.stderr.count("\n") == 1
        assert self.stderr.startswith("fedrec: ")
        assert "Traceback" not in self.stderr
        return self.stderr


Cli = Callable[..., Outcome]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Cli:
    """Run ``fedrec`` in this process, from an empty folder; no run gets as far as starting workers."""

    def no_workers(*args: object, **options: object) -> None:
        raise AssertionError("worker processes were started")

    def run(*arguments: str | Path) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["fedrec", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        printed = capsys.readouterr()
        return Outcome(int(stopped.value.code or 0), printed.out, printed.err)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(local_grid, "WorkerProcess", no_workers)
    return run


@pytest.fixture
def no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if any data is read or drawn: options that need none must be checked before."""

    def refuse(*given: object, **options: object) -> None:
        raise AssertionError("data was read before the options were checked")

    monkeypatch.setattr(run_setup, "open_source", refuse)


@pytest.mark.usefixtures("no_data")
@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ("--model vgg", CONFIG, "choose one of best, cnn"),
        ("--dataset imagenet", CONFIG, "no data set 'imagenet'; choose one of synthetic"),
        ("--dataset cifar10", CONFIG, "--data-root"),
        ("--data-root here", CONFIG, "name the data set too"),
        ("--data here --dataset cifar10", CONFIG, "give one of them"),
        ("--eval-data absent", DATA, "--eval-data absent"),
        ("--epsilon 0", CONFIG, "--epsilon 0.0"),
        ("--epsilon -1", CONFIG, "--epsilon -1.0"),
        ("--epsilon nan", CONFIG, "--epsilon nan"),
        ("--epsilon inf", CONFIG, "--epsilon inf"),
        ("--epsilon eight", CONFIG, "'--epsilon': 'eight'"),
        ("--delta 0", CONFIG, "--delta 0.0"),
        ("--delta 1", CONFIG, "--delta 1.0"),
        ("--delta 2", CONFIG, "--delta 2.0"),
        ("--sample-rate 0", CONFIG, "--sample-rate 0.0"),
        ("--sample-rate 1.5", CONFIG, "--sample-rate 1.5"),
        ("--clip 0", CONFIG, "--clip 0.0"),
        ("--learning-rate 0", CONFIG, "--learning-rate 0.0"),
        ("--learning-rate 1e38", CONFIG, "--learning-rate 1e+38"),
        ("--clip 1e-300", CONFIG, "--clip 1e-300"),
        ("--clip 1e300", CONFIG, "--clip 1e+300"),
        ("--colluders 2000", CONFIG, "--colluders 2000"),
        ("--min-contributors 2000", CONFIG, "--min-contributors 2000"),
        ("--committee 101", CONFIG, "--committee 101"),
        ("--merchants 1001", CONFIG, "--merchants 1001"),
        ("--rounds 0", CONFIG, "--rounds 0"),
        ("--merchants 0", CONFIG, "--merchants 0"),
        ("--drop 1", CONFIG, "--drop 1.0"),
        ("--seed -1", CONFIG, "--seed -1"),
        (f"--seed {2**63}", CONFIG, "--seed 9223372036854775808"),
        ("--merchants 2", CONFIG, "at least 3 merchants, not 2"),
        ("--merchants 4 --committee 5", CONFIG, "lower --committee"),
        ("--merchants 4 --threshold 5", CONFIG, "--threshold between 1 and 4"),
        ("--merchants 4 --threshold 2", CONFIG, "--threshold must be at least 3"),
        ("--merchants 4 --min-contributors 5", CONFIG, "5 contributors are required"),
        ("--merchants 4 --min-contributors 2", CONFIG, "fewer than 2 honest"),
        ("--merchants 4 --drop 0.5", CONFIG, "lower --drop"),
        ("--colluders 0", CONFIG, "--colluders must be at least 1"),
        ("--colluders 0 --privacy local", CONFIG, "--colluders must be at least 1"),
        ("--colluders 0 --privacy off --secure-aggregation ckks", CONFIG, "--colluders must be at least 1"),
        ("--merchants 4 --colluders 3", CONFIG, "fewer than 2 honest"),
        ("--secure-aggregation rot13", CONFIG, "choose one of"),
        ("--secure-aggregation none --threshold 3", CONFIG, "have no meaning"),
        ("--local-steps 2", CONFIG, "--local-steps above 1 needs"),
        ("--privacy off --epsilon 3", CONFIG, "no meaning with --privacy off"),
        ("--privacy none", CONFIG, "--privacy 'none'"),
        ("--epsilon 1e-6 --delta 1e-5", UNREACHABLE, "allow a larger epsilon, or fewer steps"),
        ("--partition odd", CONFIG, "iid, folder, dirichlet:ALPHA or classes:K"),
        ("--partition dirichlet:0", CONFIG, "a number above 0"),
        ("--device cuda:7", CONFIG, "no such GPU"),
        ("--device tpu", CONFIG, "--device 'tpu'"),
        ("--bogus", CONFIG, "there is no option '--bogus'"),
        ("--epsillon 4", CONFIG, "did you mean '--epsilon'"),
        ("--optimizer sgd:", CONFIG, "--optimizer sgd: names no setting"),
        ("--optimizer adma", CONFIG, "did you mean 'adam' or 'adamw'? choose one of sgd"),
        ("--rounds", CONFIG, "requires an argument"),
        ("surplus", CONFIG, "surplus"),
        ("--config absent.toml", CONFIG, "No such file"),
    ],
)
def test_an_option_that_cannot_be_used_is_named_before_any_work(
    cli: Cli, tmp_path: Path, arguments: str, code: int, says: str
) -> None:
    outcome = cli("simulate", "--out", "run", *arguments.split())
    assert says in outcome.one_line()
    assert outcome.code == code
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_data")
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[simulate\n", "is not TOML"),
        ("[simulate]\nepsilonn = 3\n", "'epsilonn', which is not an option"),
        ("[simulate]\nepsilon = 'x'\n", "run.toml: --epsilon 'x'"),
        ("[simulate]\nepsilon = nan\n", "--epsilon nan"),
        ("[simulate]\nrounds = 2.5\n", "--rounds 2.5"),
        ("[simulate]\nlocal_steps = 2\n", "--local-steps above 1"),
        ("epsilon = 1\n", "holds 'epsilon': all options stand below the line [simulate]"),
        ("[simulat]\nepsilon = 1\n", "holds 'simulat': all options stand below"),
        ("simulate = 3\n", "sets 'simulate' to a value"),
        ("\xff", "run.toml is not in UTF-8 (at line 1): save it as UTF-8"),
    ],
)
def test_a_bad_configuration_file_is_one_line(cli: Cli, tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "run.toml").write_text(text, encoding="latin-1")
    outcome = cli("simulate", "--config", "run.toml")
    assert says in outcome.one_line()
    assert outcome.code == CONFIG


@pytest.mark.usefixtures("no_data")
def test_flags_override_the_file_and_are_checked_with_it(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("[simulate]\nmerchants = 2\nrounds = 0\n")
    assert "--rounds 0" in cli("simulate", "--config", "run.toml").one_line()
    assert "not 2" in cli("simulate", "--config", "run.toml", "--rounds", "1").one_line()
    both = cli("simulate", "--config", "run.toml", "--rounds", "1", "--merchants", "4", "--committee", "5")
    assert "a committee of 5 is more than the 4" in both.one_line()


@pytest.mark.usefixtures("no_data")
def test_what_the_message_for_two_merchants_proposes_is_accepted(cli: Cli) -> None:
    line = cli("simulate", "--merchants", "2").one_line()
    assert "--privacy local with --secure-aggregation none" in line
    with pytest.raises(AssertionError, match="data was read"):
        cli("simulate", "--merchants", "2", "--privacy", "local", "--secure-aggregation", "none")


@pytest.mark.usefixtures("no_data")
def test_nothing_is_overwritten(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "kept.txt").write_text("kept")
    outcome = cli("simulate", "--out", "full")
    assert "full is not empty" in outcome.one_line()
    assert outcome.code == CONFIG
    outcome = cli("simulate", "--out", "full/kept.txt")
    assert "--out full/kept.txt" in outcome.one_line()
    assert outcome.code == CONFIG
    assert (tmp_path / "full" / "kept.txt").read_text() == "kept"


def test_an_out_folder_that_cannot_be_made_is_one_line(cli: Cli, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    outcome = cli("simulate", "--data", photos, "--merchants", "3", "--rounds", "1", "--out", "file/run")
    assert "--out file/run" in outcome.one_line()
    assert outcome.code == CONFIG


@pytest.mark.usefixtures("no_data")
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that nobody can write to")
def test_an_out_folder_that_nobody_can_write_to_is_found_before_the_work(cli: Cli) -> None:
    outcome = cli("simulate", "--out", "/proc/run")
    assert "--out /proc/run can't be used" in outcome.one_line()
    assert outcome.code == CONFIG


@pytest.mark.parametrize(
    ("classes", "says"),
    [(None, "does not exist"), ([], "holds no pictures"), (["mug"], "one class only (mug)")],
)
def test_data_that_cannot_be_used(cli: Cli, tmp_path: Path, classes: list[str] | None, says: str) -> None:
    if classes is not None:
        make_folder(tmp_path / "photos", classes)
    outcome = cli("simulate", "--data", "photos", "--out", "run")
    assert says in outcome.one_line()
    assert outcome.code == DATA
    assert not (tmp_path / "run").exists()


def test_a_file_for_a_data_folder(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "photos").write_text("")
    outcome = cli("simulate", "--data", "photos")
    assert "is not a folder" in outcome.one_line()
    assert outcome.code == DATA


def test_only_broken_pictures(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "photos" / "mug").mkdir(parents=True)
    (tmp_path / "photos" / "mug" / "1.png").write_bytes(b"not a picture")
    outcome = cli("simulate", "--data", "photos")
    assert "mug/1.png" in outcome.one_line()
    assert outcome.code == DATA


def test_more_merchants_than_photos(cli: Cli, photos: Path) -> None:
    outcome = cli("simulate", "--data", photos, "--merchants", "100")
    assert outcome.code in {CONFIG, DATA}
    assert "100" in outcome.one_line()


def test_merchant_folders_with_a_name_that_no_plan_can_hold(cli: Cli, tmp_path: Path) -> None:
    for name in ("north", "south", "-east"):
        make_folder(tmp_path / "photos" / name, ["mug", "shoe", name])
    outcome = cli("simulate", "--data", "photos", "--partition", "folder", "--out", "run")
    assert "merchant folder '-east'" in outcome.one_line()
    assert outcome.code == DATA
    assert not (tmp_path / "run").exists()


def test_a_class_whose_name_no_plan_can_hold(cli: Cli, tmp_path: Path) -> None:
    make_folder(tmp_path / "photos", ["mug", "s" * 201])
    outcome = cli("simulate", "--data", "photos", "--merchants", "3", "--out", "run")
    assert "a name of 201 characters" in outcome.one_line()
    assert outcome.code == DATA
    assert not (tmp_path / "run").exists()


def test_a_training_file_that_no_plan_can_hold_is_one_line(tmp_path: Path) -> None:
    options = TrainingFile(classes=("mug", "s" * 201), image_size=8)
    roster = tuple(Peer(name=f"m{index}", signing_key=f"{index:064x}") for index in range(4))
    with pytest.raises(ConfigError, match="classes must be of 200 characters or fewer"):
        add_training(tmp_path, options, server_key="0" * 64, roster=roster, sizes=(100,) * 4)
    assert list(tmp_path.iterdir()) == []


def test_a_budget_whose_noise_no_plan_can_hold(cli: Cli, tmp_path: Path) -> None:
    make_folder(tmp_path / "photos", ["mug", "shoe"], photos=30)
    options = ("--rounds", "1", "--sample-rate", "1", "--epsilon", "1e-7", "--delta", "1e-9")
    outcome = cli("simulate", "--data", "photos", "--merchants", "3", "--out", "run", *options)
    assert outcome.one_line()
    assert outcome.code in {CONFIG, UNREACHABLE}
    assert not (tmp_path / "run").exists()


def test_a_budget_that_the_data_makes_unreachable_leaves_no_folder(cli: Cli, tmp_path: Path) -> None:
    # By default delta follows from the smallest merchant, so that only the data can tell.
    make_folder(tmp_path / "photos", ["mug", "shoe"], photos=30)
    (tmp_path / "run.toml").write_text(
        "[simulate]\nmerchants = 3\nrounds = 100000\nsample_rate = 1.0\nepsilon = 1e-4\n"
    )
    outcome = cli("simulate", "--config", "run.toml", "--data", "photos", "--out", "run")
    assert "psilon" in outcome.one_line()
    assert outcome.code == UNREACHABLE
    assert not (tmp_path / "run").exists()


def test_no_arguments_show_the_help(cli: Cli) -> None:
    outcome = cli()
    assert outcome.code == CONFIG
    assert outcome.stderr.startswith("Usage: fedrec")
    assert "simulate" in outcome.stderr


@pytest.mark.parametrize("name", ["FORCE_COLOR", "TTY_COMPATIBLE"])
def test_an_error_is_one_plain_line_where_the_environment_asks_for_colours(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """As many build servers do; the progress bar drew over a line of their logs again and again."""
    monkeypatch.setenv(name, "1")
    assert "there is no model 'vgg'" in cli("simulate", "--out", "run", "--model", "vgg").one_line()


def test_an_unknown_command(cli: Cli) -> None:
    outcome = cli("simulat")
    assert "there is no command 'simulat'" in outcome.one_line()
    assert outcome.code == CONFIG


def test_the_version_is_the_packages(cli: Cli) -> None:
    assert cli("--version") == Outcome(0, f"fedrec {__version__}\n", "")


def test_the_program_itself_ends_with_the_code_and_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from fedrec.cli.app import main; main()", "simulate", "--data", "absent"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert "absent does not exist" in Outcome(done.returncode, done.stdout, done.stderr).one_line()
    assert done.returncode == DATA
    assert list(tmp_path.iterdir()) == []


def run_program(*arguments: str | Path, stdout: int) -> tuple[int, str]:
    """Run the program with its output going to a descriptor; returns the code and what it said on stderr."""
    code = "from fedrec.cli.app import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=200,
    )
    return done.returncode, done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("command", ["--version", "data inspect PHOTOS"])
def test_output_to_a_full_disk_is_one_line(command: str, photos: Path) -> None:
    with Path("/dev/full").open("w") as full:
        code, said = run_program(*command.replace("PHOTOS", str(photos)).split(), stdout=full.fileno())
    assert (code, said.count("\n")) == (SYSTEM, 1)
    assert said.startswith("fedrec: No space left on device")


@pytest.mark.parametrize("command", ["--version", "data inspect PHOTOS", "data inspect PHOTOS --json"])
def test_a_closed_pipe_is_no_error(command: str, photos: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        outcome = run_program(*command.replace("PHOTOS", str(photos)).split(), stdout=writer)
    finally:
        os.close(writer)
    assert outcome == (BROKEN_PIPE, "")


def test_what_the_system_refuses_is_one_line_that_names_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        raise PermissionError(errno.EACCES, "Permission denied", "somewhere/ledger.sqlite")

    assert run_reporting_errors(fail) == SYSTEM
    said = capsys.readouterr().err
    assert said.startswith("fedrec: somewhere/ledger.sqlite: Permission denied") and said.count("\n") == 1


def test_a_database_without_room_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fill() -> int:
        with closing(sqlite3.connect(tmp_path / "store.sqlite")) as database:
            database.execute("PRAGMA max_page_count = 2")
            database.execute("CREATE TABLE kept (bytes BLOB)")
            database.execute("INSERT INTO kept VALUES (zeroblob(100000))")
        return 0

    assert run_reporting_errors(fill) == SYSTEM
    said = capsys.readouterr().err
    assert said.startswith("fedrec: a database can't be read or written: ") and said.count("\n") == 1


def test_ctrl_c_in_a_command_ends_with_its_code(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*given: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run_setup, "open_source", interrupted)
    outcome = cli("simulate")
    assert outcome.code == 130
    assert "stopped while the run was prepared: no round was begun" in outcome.one_line()


def test_sigterm_while_a_run_is_prepared_ends_it_with_a_line_and_a_code(tmp_path: Path) -> None:
    """It ended without a word; reading the data is held up here until the signal has come."""
    program = """
import os, signal, time
from fedrec.cli.app import main
from fedrec.simulations import run_setup

def read(*given, **options):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)

run_setup.open_source = read
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", program, "simulate"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr.startswith("fedrec: stopped while the run was prepared")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_stage_that_takes_long_has_lines_without_a_terminal() -> None:
    lines: list[str] = []
    with Heartbeat(lines.append, seconds=0.04) as heartbeat:
        heartbeat.tell(Stage("merchants' folders", 3, 500))
        deadline = time.monotonic() + 20
        while len(lines) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        heartbeat.tell(Stage("training", 1, 2, plain="round 1/2"))
    assert lines[0].startswith("merchants' folders: 3 of 500, ")
    assert lines[0].endswith(" so far")
    assert "round 1/2" in lines


def test_a_short_stage_prints_no_extra_lines() -> None:
    lines: list[str] = []
    with Heartbeat(lines.append) as heartbeat:
        heartbeat.tell(Stage("reading the data", 0, 1))
    assert not lines


def test_an_error_of_usage_points_to_the_help_of_its_own_command(cli: Cli) -> None:
    for arguments, path in (
        (("simulate", "--nonsense"), "fedrec simulate"),
        (("server", "enroll"), "fedrec server enroll"),
        (("server", "enrol"), "fedrec server"),
        (("simulat",), "fedrec"),
    ):
        outcome = cli(*arguments)
        assert outcome.code == CONFIG
        assert f"(see '{path} --help')" in outcome.one_line()


@pytest.mark.parametrize("group", ["server", "client", "data", "audit"])
def test_help_of_a_group_has_whole_sentences(cli: Cli, group: str) -> None:
    outcome = cli(group, "--help")
    assert outcome.code == 0
    listed = outcome.stdout.partition("Commands:")[2]
    assert listed.strip()
    assert "..." not in listed
    if group == "server":
        # The end of the longest one.
        assert "restart the server to use it" in " ".join(listed.split())


def test_an_unknown_training_points_to_the_list(cli: Cli, tmp_path: Path) -> None:
    assert cli("server", "init", "--address", "localhost:8443", "--home", "home").code == 0
    outcome = cli("server", "cancel", "9", "--home", "home")
    assert outcome.code == CONFIG
    assert "there is no training 9" in outcome.one_line()
    assert "'fedrec server status'" in outcome.stderr


def all_commands(
    command: click.Command, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command of the program, by its words."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from all_commands(found, (*path, name))


def test_the_help_of_every_command_is_for_its_user_and_not_for_programmers() -> None:
    helps = {
        path: command.get_help(click.Context(command, info_name=" ".join(path)))
        for path, command in all_commands(typer.main.get_command(app))
    }
    assert len(helps) > 60
    twice = [path for path, text in helps.items() if len(re.findall(r"\n(?:\w+ )?[Aa]rguments:", text)) > 1]
    assert twice == [], "some Clicks list the arguments themselves, too"
    sections = [path for path, text in helps.items() if re.search(r"(Args|Raises|Returns|Yields):", text)]
    assert not sections
    bare = [path for path, text in helps.items() if re.search(r"\n  \S+ +\[required\]\n", text)]
    assert not bare, "an argument without a word of what it is"
    assert "The operator's join file." in helps["client", "join"]
    # What stands before a section is all there.
    assert "compare the fingerprint" in " ".join(helps["client", "vouch"].lower().split())


def test_the_package_itself_can_be_run(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["fedrec", "--version"])
        runpy.run_module("fedrec", run_name="__main__")
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"fedrec {__version__}\n"


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        (
            "training.toml",
            "[training]\nepsilom = 4\nclasses = ['a', 'b']",
            "'epsilom': did you mean 'epsilon'?",
        ),
        ("training.toml", "[trainings]\nepsilon = 4", "holds 'trainings': all options stand below"),
        ("training.toml", "epsilon = 4", "holds 'epsilon': all options stand below"),
        ("training.toml", "", "holds nothing: all options stand below"),
        ("simulate.toml", "[simulate]\nepsilonn = 4", "did you mean 'epsilon'?"),
        ("simulate.toml", "[simulate]\nmodel = 'bst'", "did you mean 'best'?"),
        ("policy.toml", "lifetime_epsilom = 4", "'lifetime_epsilom': did you mean 'lifetime_epsilon'"),
    ],
)
def test_a_misspelt_key_or_name_suggests_the_right_one(
    cli: Cli, tmp_path: Path, file: str, text: str, says: str
) -> None:
    (tmp_path / file).write_text(text)
    if file == "simulate.toml":
        assert says in cli("simulate", "--config", str(tmp_path / file)).one_line()
        return
    read = read_training_file if file == "training.toml" else MerchantPolicy.load
    with pytest.raises(ConfigError, match=re.escape(says)) as raised:
        read(tmp_path / file)
    assert "\n" not in str(raised.value)


def test_a_file_that_was_taken_for_another_is_named(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path, size=3)
    join = JoinFile(
        address="127.0.0.1:1",
        authority="-----BEGIN X-----\n",
        server_key="ab" * 32,
        roster=cohort.plan().roster,
    )
    (tmp_path / "join.json").write_bytes(join.canonical_bytes())
    with pytest.raises(ConfigError, match="is a join file; this wants an enrolment file, enrolment"):
        read_file(tmp_path / "join.json", Enrolment)
    with pytest.raises(ConfigError, match="is a folder: name the file in it, join"):
        read_file(tmp_path, JoinFile)
    (tmp_path / "products.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ConfigError, match="is not a vouch file of this version"):
        read_file(tmp_path / "products.csv", SignedVouch)
