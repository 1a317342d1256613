"""Implement ``fedrec model``: what becomes of a trained model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import typer

from fedrec.cli.lazy_group import PLAIN, LazyGroup


class _Commands(LazyGroup):
    lazily: ClassVar[Mapping[str, tuple[str, str]]] = {
        "export": (
            "fedrec.cli.model_export:export",
            "Make a bundle of a finished training's model, or of a backbone alone.",
        ),
        "reference": (
            "fedrec.cli.model_watch:reference",
            "Note what photos usually look like to a model, for 'fedrec model watch'.",
        ),
        "watch": (
            "fedrec.cli.model_watch:watch",
            "Raise an alarm when photos are blurred, dark, of one class or foreign.",
        ),
        "compress": (
            "fedrec.cli.model_compress:compress",
            "Make a smaller and faster bundle that agrees with the original, or none.",
        ),
    }


app = typer.Typer(
    help="Make bundles of trained models, and work with them.",
    no_args_is_help=True,
    cls=_Commands,
    **PLAIN,
)


@app.callback()
def _group() -> None:
    """Make bundles of trained models, and work with them."""
