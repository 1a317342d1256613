"""Fetch a trained model for a merchant's page, and try it on a photo; needs the extra ``recognition``."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fedrec._internal.text import one_line
from fedrec.clients.merchant_home import MerchantHome
from fedrec.clients.training_history import MODELS
from fedrec.errors import ConfigError, FedrecError

if TYPE_CHECKING:
    from fedrec.recognition.service.photo_analyser import PhotoAnalyser

_log = logging.getLogger(__name__)
_NEEDED: Final = ("onnx", "onnxruntime")
_SHOWN_CLASSES: Final = 5


@dataclass(frozen=True)
class Fetching:
    """How the last fetching of a model went.

    Attributes:
        training: the training's id; empty if none was fetched.
        state: ``none``, ``running``, ``done`` or ``failed``.
        detail: what it does, or why it failed.
    """

    training: str = ""
    state: str = "none"
    detail: str = ""


class ModelTrial:
    """Fetches models in a thread of its own, one at a time, and recognises photos. Thread-safe.

    Args:
        home: the merchant's folder.
    """

    def __init__(self, home: MerchantHome) -> None:
        self._home = home
        self._mutex = threading.Lock()
        self._fetching = Fetching()
        self._trying = threading.Lock()
        self._analyser: tuple[Path, PhotoAnalyser] | None = None

    @property
    def missing(self) -> str:
        """The packages that are needed and aren't installed, joined by commas."""
        return ", ".join(name for name in _NEEDED if find_spec(name) is None)

    @property
    def fetching(self) -> Fetching:
        """How the last fetching of a model goes."""
        with self._mutex:
            return self._fetching

    def fetch(self, training_id: str) -> None:
        """Begin to fetch the model of a training.

        Raises:
            ConfigError: another one is being fetched.
        """
        with self._mutex:
            if self._fetching.state == "running":
                raise ConfigError("a model is being fetched already")
            self._fetching = Fetching(training_id, "running")
        threading.Thread(target=self._fetch, args=(training_id,), name="fetch", daemon=True).start()

    def recognise(self, training_id: str, content: bytes) -> list[dict[str, object]]:
        """Name the most probable classes of a photo.

        Args:
            training_id: the training whose model is asked; it was fetched before.
            content: the photo's file.

        Returns:
            Names and probabilities, the most probable first.

        Raises:
            FedrecError: the model or the photo can't be used.
        """
        # One at a time: a photo takes memory, and the daemon may train beside it.
        with self._trying:
            analyser = self._open(self._place(training_id))
            found = analyser.classes(analyser.recognise(analyser.photo(content)), top=_SHOWN_CLASSES)
        return [each.model_dump() for each in found.classes]

    def _place(self, training_id: str) -> Path:
        return self._home.folder / MODELS / training_id[:16]

    def _open(self, place: Path) -> PhotoAnalyser:
        if self._analyser is None or self._analyser[0] != place:
            if not place.is_dir():
                raise ConfigError("the model of that training was not fetched yet")
            from fedrec.recognition.extra import require_packages

            require_packages(*_NEEDED, purpose="a trained model")
            from fedrec.recognition.model import open_model
            from fedrec.recognition.service.photo_analyser import PhotoAnalyser

            self._analyser = (place, PhotoAnalyser(model=open_model(place)))
        return self._analyser[1]

    def _fetch(self, training_id: str) -> None:
        def tell(text: str) -> None:
            with self._mutex:
                self._fetching = Fetching(training_id, "running", text)

        try:
            # Flower, which this imports, reads its environment then.
            from fedrec.clients.model_fetching import fetch_model

            place = self._place(training_id)
            if not place.is_dir():
                fetch_model(self._home, place, training=training_id, step=tell)
            result = Fetching(training_id, "done")
        except (FedrecError, OSError) as error:
            result = Fetching(training_id, "failed", one_line(error))
        # The page must say that it failed, whatever it was.
        except Exception as error:
            _log.warning("a model could not be fetched: %s", type(error).__name__)
            result = Fetching(training_id, "failed", type(error).__name__)
        with self._mutex:
            self._fetching = result
