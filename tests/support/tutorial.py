"""Go through the tutorial as its reader does, and take its pictures.

``python -m tests.support.tutorial docs/pictures`` makes all pictures anew.
"""

from __future__ import annotations

import re
import sys
import sysconfig
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from fedrec.simulations.federation import HeldPort
from tests.support.daemons import eventually
from tests.support.layout import DOCS, ROOT
from tests.support.screenshots import browser_page, take, terminal
from tests.support.shown_commands import Shell, shown_commands, shown_files

PAGES = sorted((DOCS / "tutorial").glob("*.md"))
SIZES = {1: (1160, 800), 2: (1000, 760), 3: (1000, 220), 4: (1000, 1080), 5: (1000, 760)}
"""Width and height of each step's picture."""
REPORT_SIZE = (1160, 1120)
"""Those of README's picture of a report."""
_LASTING = ("fedrec server start", "fedrec client start", "fedrec serve ")
_ASKING = "fedrec client join"


@dataclass
class Reader:
    """Somebody who types what the pages show, in a folder; use it as a context, which ends the programs.

    The ports of the pages are other ones here, since the machine may use them.
    """

    folder: Path
    printed: dict[str, str] = field(default_factory=dict)
    held: dict[str, HeldPort] = field(
        default_factory=lambda: {port: HeldPort() for port in ("8443", "9464", "8080")}
    )
    _programs: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._programs.close()
        for held in self.held.values():
            held.close()

    @property
    def ports(self) -> dict[str, str]:
        """The ports here by those of the pages."""
        return {shown: str(held.number) for shown, held in self.held.items()}

    @property
    def shell(self) -> Shell:
        return Shell(self.folder, Path(sysconfig.get_path("scripts")))

    def follow(self, page: Path) -> None:
        """Write the files that a page shows, and run its commands."""
        for name, text in shown_files(page).items():
            (self.folder / name).write_text(text)
        for command in [line for lines in shown_commands(page).values() for line in lines]:
            if command.startswith(_LASTING):
                self._start(command)
            else:
                self._wait_for_the_training()
                typed = "y\n" if command.startswith(_ASKING) else ""
                self.printed[command] = self.shell.run(self._here(command), typed=typed)

    def _here(self, command: str) -> str:
        # All at once: a port here may hold the digits of one of the pages.
        command = re.sub("|".join(self.ports), lambda found: self.ports[found[0]], command)
        if command == "make simulate":
            # `make` would install into .venv; what it runs then is in the Makefile.
            (recipe,) = re.findall(r"^simulate: .*\n\t\$\(BIN\)/(.+)$", (ROOT / "Makefile").read_text(), re.M)
            return str(recipe)
        return f"{command} --listen {self.ports['8080']}" if command.startswith("fedrec serve ") else command

    def _start(self, command: str) -> None:
        log = self.folder / f"{len(list(self.folder.glob('*.log')))}.log"
        self._programs.enter_context(self.shell.running(self._here(command), log=log))
        if not command.startswith("fedrec client"):
            eventually(lambda: re.search(r"listening|http://", log.read_text("utf-8")), seconds=90)

    def _wait_for_the_training(self) -> None:
        """Wait until the merchants have done their work, once the server has been started."""
        state = self.folder / "platform" / "trainings" / "0001" / "state.json"
        if list(self.folder.glob("*.log")):
            eventually(lambda: '"done"' in state.read_text("utf-8"), seconds=600)
            eventually(state.with_name("bundle").is_dir, seconds=200)

    def picture(self, page: Path, out: Path) -> None:
        """Take the picture of a page, after :meth:`follow`."""
        number = int(page.name[0])
        size = SIZES[number]
        if number == 3:
            command = next(line for line in self.printed if line.startswith(_ASKING))
            printed = re.sub(r"(\[y/N\]: )", r"\1y\n", self.printed[command])
            terminal(command, printed.replace(self.ports["8443"], "8443"), out, size=size)
            return
        with browser_page(size) as browser:
            if number == 1:
                browser.goto(next(self.folder.glob("runs/*/report.html")).as_uri())
            elif number == 2:
                browser.goto((self.folder / "budgets" / "comparison.html").as_uri())
            elif number == 4:
                browser.goto(f"http://127.0.0.1:{self.ports['9464']}/")
                browser.wait_for_load_state("networkidle")
            else:
                browser.goto(f"http://127.0.0.1:{self.ports['8080']}/")
                browser.set_input_files("#file", self.folder / "photos" / "test" / "mug" / "000005.png")
                browser.wait_for_selector("#result:not([hidden])")
                browser.wait_for_load_state("networkidle")
                browser.evaluate("document.getElementById('seen').scrollIntoView()")
            take(browser, out)


def report_picture(report: Path, out: Path) -> None:
    """Take the picture of the first page, README, from the report of a run."""
    with browser_page(REPORT_SIZE) as browser:
        browser.goto(report.resolve().as_uri())
        take(browser, out)


def main(out: Path) -> None:
    """Go through all pages, and write their pictures, and that of the first page."""
    with TemporaryDirectory() as folder, Reader(Path(folder)) as reader:
        for page in PAGES:
            print(page.name, flush=True)
            reader.follow(page)
            reader.picture(page, out / f"tutorial-{page.name[0]}.png")
        report_picture(next(reader.folder.glob("runs/*/report.html")), out / "report.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
