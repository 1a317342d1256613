"""Define the command line."""

import typer.core

# Typer escapes brackets in help texts for rich, even where rich is switched off.
typer.core.HAS_RICH = False
