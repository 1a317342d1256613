"""The command line."""

import typer.core

# Typer escapes the brackets of its help for rich's boxes, also where those are switched off.
typer.core.HAS_RICH = False
