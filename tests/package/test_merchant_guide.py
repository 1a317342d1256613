"""The shop owner's guide: the Chinese page alone leads from a wheel to a training, by five commands."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from measure import fedrec_here

from fedrec.clients.merchant_home import MerchantHome
from fedrec.privacy.accounting.ledger_entries import charges
from fedrec.privacy.accounting.ledger_reader import read_entries
from fedrec.privacy.identity import verify
from fedrec.simulations.federation import Federation
from fedrec.vision.synthetic import generate, write
from tests.package.test_installation import build, copy_checkout
from tests.support.daemons import eventually
from tests.support.layout import DOCS, ROOT
from tests.support.shown_commands import Shell, new_environment, shown_commands

GUIDE = DOCS / "zh" / "merchant.md"
FIVE, LOOK, MODEL = "五条命令", "查看、暂停、停止", "您参与训练的模型"
OTHERS = ("bottega", "studio")
ROUNDS = 3
PLAN = f"""
[training]
model = "cnn-tanh"
rounds = {ROUNDS}
epsilon = 4.0
delta = 1e-5
classes = ["bottle", "chair", "handbag", "hat", "lamp", "mug", "shoe", "t-shirt", "trousers", "watch"]
"""


def test_both_guides_show_the_same_commands_and_five_lead_to_a_training() -> None:
    chinese, english = (shown_commands(page) for page in (GUIDE, DOCS / "merchant.md"))
    assert list(chinese.values()) == list(english.values())
    assert len(chinese[FIVE]) == 5
    assert [command.split()[2] for command in chinese[FIVE][1:]] == ["init", "join", "check", "start"]


def test_the_chinese_readme_shows_no_command_that_the_english_one_has_not() -> None:
    def shown(page: Path) -> set[str]:
        lines = re.findall(r"^    (\S.*)$", page.read_text("utf-8"), re.MULTILINE)
        return {line.partition("  #")[0].strip() for line in lines}

    assert len(shown(DOCS / "zh" / "README.md")) > 15
    assert shown(DOCS / "zh" / "README.md") <= shown(ROOT / "README.md")


@dataclass
class Platform:
    """The operator and two other merchants, who wait for the shop owner."""

    federation: Federation
    photos: Path

    def enroll(self, enrolment: Path) -> str:
        """Enrol a merchant; returns the fingerprint that the operator tells by telephone."""
        told = self.federation.run("server", "enroll", enrolment, "--home", self.federation.server)
        found = re.search(r"fingerprint ([0-9a-f ]+)", told)
        assert found is not None
        return found[1].strip()

    def start(self, fingerprint: str) -> None:
        """Let the others join, and file and start a training."""
        made = self.federation
        for name in OTHERS:
            home = made.home(name)
            made.run(
                "client", "join", made.server / "join.json", "--home", home, "--fingerprint", fingerprint
            )
        made.plan(PLAN)
        made.start_server()
        for name in OTHERS:
            made.start_merchant(name)
        eventually(lambda: "listening" in made.log("server"), seconds=90)


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    photos = tmp_path / "data"
    write(generate(merchants=3, per_merchant=60, size=32, seed=5, validation=1, test=1), photos)
    (folder := tmp_path / "elsewhere").mkdir()
    made = Platform(Federation(folder, run=fedrec_here), photos / "train")
    federation = made.federation
    fedrec_here("server", "init", "--address", federation.address, "--home", federation.server)
    for number, name in enumerate(OTHERS, 1):
        data = made.photos / f"merchant-0{number}"
        fedrec_here("client", "init", "--name", name, "--data", data, "--home", federation.home(name))
        made.enroll(federation.home(name) / "enrolment.json")
    try:
        yield made
    finally:
        federation.stop()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None or not (ROOT / ".git").exists(), reason="no bash, or no git")
def test_a_shop_owner_trains_by_the_chinese_guide_alone(platform: Platform, tmp_path: Path) -> None:
    (desk := tmp_path / "desk").mkdir()
    wheel = next(build(copy_checkout(tmp_path / "checkout", links=False), desk, "--wheel").glob("*.whl"))
    shutil.copytree(platform.photos / "merchant-00", desk / "photos")
    next((desk / "photos" / "mug").iterdir()).rename(desk / "photos" / "mug" / "0815.png")
    shell = Shell(desk, new_environment(tmp_path / "environment"))
    guide = shown_commands(GUIDE)
    install, init, join, check, start = guide[FIVE]

    assert wheel.name in install
    shell.run(install)
    shown = shell.run("python3 -c 'import fedrec; print(fedrec.__file__)'")
    assert Path(shown.strip()).is_relative_to(tmp_path / "environment" / "lib")
    shell.run(init)
    fingerprint = platform.enroll(desk / "fedrec-client" / "enrolment.json")
    platform.start(fingerprint)
    shutil.copy(platform.federation.server / "join.json", desk)
    assert "not confirmed, so nothing was joined" in shell.run(join, typed="n\n", fails=2)
    assert fingerprint in shell.run(join, typed="y\n")
    assert re.findall(r"^WRONG", shell.run(check), re.MULTILINE) == []
    log = tmp_path / "start.log"
    with shell.running(start, log=log):
        platform.federation.wait(seconds=200)
        assert re.search(r"connected to.*answering query.join.*answering train", log.read_text(), re.DOTALL)
        for command in guide[LOOK]:
            shell.run(command)
        eventually((platform.federation.training() / "bundle").is_dir, seconds=90)
        for command in guide[MODEL]:
            shell.run(command)
    joined_and_charged(desk / "fedrec-client", platform.federation.training())


def joined_and_charged(home: Path, training: Path) -> None:
    """Check by the server's rounds and by the shop's own ledger that it took part in each round."""
    lines = (training / "rounds.jsonl").read_text("utf-8").splitlines()
    assert [sorted(json.loads(line)["merchants"]) for line in lines] == [["atelier", *OTHERS]] * ROUNDS
    shop = MerchantHome.open(home)
    outcome, entries = read_entries(shop.ledger, public=shop.identity().public, verify=verify)
    assert outcome.ok
    assert [entry.charge.round_number for entry in charges(entries)] == list(range(1, ROUNDS + 1))
