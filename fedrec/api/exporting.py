"""Model bundles from Python: export a run's model, a user's own too, and open a bundle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from fedrec.api.results import Result
from fedrec.api.user_model import user_model_spec
from fedrec.recognition.export.bundles import make_bundle, write_bundle
from fedrec.recognition.export.sources import trained_source
from fedrec.recognition.model import open_model

if TYPE_CHECKING:
    from fedrec.recognition.model import RecognitionModel


def export_model(
    run: Result | str | Path, out: str | Path, *, model: Callable[[], nn.Module] | None = None
) -> RecognitionModel:
    """Export a finished run's model as a bundle, and open it: ``fedrec.export_model(result, "model")``.

    Args:
        run: a result, a run directory, or a training's folder on the server.
        out: the bundle's new folder.
        model: the factory that a user's own model was trained with; a result knows its own.

    Returns:
        The opened bundle, which recognises photos without torch.

    Raises:
        ConfigError: the run isn't finished, ``out`` exists, or torch can't export the model.
        MissingExtraError: a package of the extra ``recognition`` isn't installed.
    """
    factory = run.factory if isinstance(run, Result) and model is None else model
    folder = run.folder if isinstance(run, Result) else Path(run)
    source = trained_source(folder, spec=None if factory is None else user_model_spec(factory))
    write_bundle(make_bundle(source), Path(out))
    return open_model(Path(out))
