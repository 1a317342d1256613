"""The option of a merchant's commands that names its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

Home = Annotated[Path, typer.Option(help="The merchant's folder.")]
DEFAULT_HOME: Final = Path("fedrec-client")
