"""Write a bundle's model card (Mitchell et al. 2019, "Model Cards for Model Reporting") from its manifest."""

from __future__ import annotations

from importlib.resources import files
from typing import Final

from jinja2 import Environment, StrictUndefined

from fedrec._internal.text import one_line
from fedrec.recognition.bundle.manifest import GRAPH, Manifest

_LONGEST: Final = 2000
_SPECIAL: Final = str.maketrans({sign: f"\\{sign}" for sign in "\\`*_[]<>|#~&"})


def _plain(value: object) -> object:
    """Escape what Markdown and HTML would read as markup."""
    return one_line(value, most=_LONGEST).translate(_SPECIAL) if isinstance(value, str) else value


def card(manifest: Manifest) -> str:
    """Return the model card, as Markdown with the head that model hubs read."""
    # Whatever stands in the card comes from class names and names of runs, which are free text.
    environment = Environment(undefined=StrictUndefined, finalize=_plain, autoescape=False)  # noqa: S701
    template = files("fedrec.recognition.bundle").joinpath("card.md").read_text("utf-8")
    text = environment.from_string(template.replace("\\\n", "")).render(manifest=manifest, graph=GRAPH)
    return f"{text}\n"
