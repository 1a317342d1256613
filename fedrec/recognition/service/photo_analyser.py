"""Answer questions about one photo, with a model and, where there is one, a catalogue. It keeps no photo."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from PIL import Image

from fedrec.errors import ConfigError, DataError
from fedrec.recognition.catalogue.filters import Filter, parse_filter
from fedrec.recognition.catalogue.search import MOST_RESULTS, Query
from fedrec.recognition.evidence.heat import evidence_of
from fedrec.recognition.evidence.picture import evidence_picture
from fedrec.recognition.model import Recognition, RecognitionModel
from fedrec.recognition.quality.thresholds import Thresholds, default_thresholds
from fedrec.recognition.quality.verdict import FLAWS, judge
from fedrec.recognition.service import answers
from fedrec.recognition.service.limits import Limits
from fedrec.recognition.service.refusals import RequestError
from fedrec.recognition.service.served_catalogue import ServedCatalogue
from fedrec.vision.decoding import decode

_SIDE: Final = 1024
"""Pixels on the short side that are enough for all parts, the check of blur included."""
_QUALITY: Final = 85
MOST_CLASSES: Final = 20

Seen = Callable[[Image.Image, Recognition], None]
"""Told of each photo that was recognised, for metrics; it keeps no photo."""


@dataclass(frozen=True)
class SearchOptions:
    """How similar products are looked for.

    Attributes:
        top: how many, 1 to 100.
        filters: conditions such as ``price<50``.
        at_least: lowest score; None for any.
        all_photos: whether a product may be there once for each of its photos.
        crop: left, top, width and height of the region that is looked for, in parts of the photo; None for
            the whole photo.
    """

    top: int = 12
    filters: Sequence[str] = ()
    at_least: float | None = None
    all_photos: bool = False
    crop: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class PhotoAnalyser:
    """A model, and a catalogue where there is one, as the service uses them.

    Attributes:
        model: the model.
        catalogue: the catalogue; None without one.
        limits: bounds of a photo.
        thresholds: of the check of quality.
        seen: told of each photo.
    """

    model: RecognitionModel
    catalogue: ServedCatalogue | None = None
    limits: Limits = field(default_factory=Limits)
    thresholds: Thresholds = field(default_factory=default_thresholds)
    seen: Seen = lambda photo, recognition: None

    def photo(self, content: bytes) -> Image.Image:
        """Decode an uploaded photo; ``RequestError`` if it is none, or has too many pixels."""
        try:
            return decode(io.BytesIO(content), least_side=_SIDE, most_pixels=self.limits.pixels)
        except DataError as error:
            raise RequestError("not-a-photo", f"the body can't be read as a photo: {error}") from None

    def recognise(self, photo: Image.Image) -> Recognition:
        """Run the model on a photo; ``RequestError`` if it fails."""
        try:
            found = self.model.recognise([photo])[0]
        except DataError as error:
            raise RequestError("failed", str(error)) from None
        self.seen(photo, found)
        return found

    def classes(self, recognition: Recognition, *, top: int) -> answers.Classes:
        """Name the most probable classes.

        Args:
            recognition: what the model says.
            top: how many.

        Returns:
            The classes.

        Raises:
            RequestError: the model has none.
        """
        self._require_classes()
        return answers.Classes(
            classes=[
                answers.ClassShare(name=self.model.classes[label], probability=share)
                for label, share in recognition.top(min(top, MOST_CLASSES))
            ],
            calibrated=self.model.manifest.calibration.photos is not None,
        )

    def evidence(self, photo: Image.Image, recognition: Recognition, *, name: str | None) -> answers.Evidence:
        """Draw where the evidence for a class lies.

        Args:
            photo: the photo.
            recognition: what the model says of it.
            name: the class; None for the most probable one.

        Returns:
            The picture.

        Raises:
            RequestError: the model has no classes, or none of this name.
        """
        self._require_classes()
        if name is not None and name not in self.model.classes:
            raise RequestError("wrong-value", "the model knows no such class")
        label = recognition.label if name is None else self.model.classes.index(name)
        heat = evidence_of(self.model, photo, label)
        file = io.BytesIO()
        evidence_picture(photo, heat).save(file, "JPEG", quality=_QUALITY)
        data = base64.b64encode(file.getvalue()).decode("ascii")
        return answers.Evidence(
            name=self.model.classes[label], exact=heat.exact, picture=f"data:image/jpeg;base64,{data}"
        )

    def similar(
        self, photo: Image.Image, options: SearchOptions, *, recognition: Recognition | None = None
    ) -> answers.Products:
        """Find similar products.

        Args:
            photo: the photo.
            options: how.
            recognition: what the model says of the whole photo, if that is known.

        Returns:
            The products.

        Raises:
            RequestError: there is no catalogue, or an option can't be used.
            DataError: the catalogue can't be used.
        """
        catalogue = self._require_catalogue()
        if not 1 <= options.top <= MOST_RESULTS:
            raise RequestError("wrong-value", f"top must be 1 to {MOST_RESULTS}")
        try:
            filters: list[Filter] = [parse_filter(text) for text in options.filters]
            if options.crop is not None:
                recognition = self.recognise(photo.crop(_region(photo, options.crop)))
            found = recognition or self.recognise(photo)
            return catalogue.similar(
                Query(
                    found.embedding,
                    top=options.top,
                    filters=filters,
                    at_least=options.at_least,
                    all_photos=options.all_photos,
                )
            )
        except ConfigError as error:
            raise RequestError("wrong-value", str(error).removeprefix("--")) from None

    def copies(self, photo: Image.Image) -> answers.Copies:
        """Find copies in the catalogue; ``RequestError`` without one."""
        return self._require_catalogue().copies(photo)

    def quality(self, photo: Image.Image) -> answers.Quality:
        """Judge a photo as a seller's."""
        verdict = judge(photo, self.thresholds)
        return answers.Quality(
            good=verdict.is_good,
            flaws=[
                answers.FoundFlaw(
                    flaw=each.flaw,
                    hint=FLAWS[each.flaw].hint,
                    problem=FLAWS[each.flaw].problem,
                    advice=FLAWS[each.flaw].advice,
                    value=each.value,
                    limit=each.limit,
                )
                for each in verdict.findings
            ],
        )

    def analyse(self, photo: Image.Image, *, name: str | None) -> answers.Analysis:
        """Tell everything about a photo at once.

        Args:
            photo: the photo.
            name: the class whose evidence is drawn; None for the most probable one.

        Returns:
            The parts that can be told.

        Raises:
            RequestError: the model has no class of this name, or fails.
        """
        found = self.recognise(photo)
        named = bool(self.model.classes)
        catalogue = self.catalogue
        return answers.Analysis(
            classes=self.classes(found, top=5) if named else None,
            evidence=self.evidence(photo, found, name=name) if named else None,
            similar=None if catalogue is None else self.similar(photo, SearchOptions(), recognition=found),
            copies=None if catalogue is None or not catalogue.has_copies else catalogue.copies(photo),
            quality=self.quality(photo),
        )

    def facts(self) -> answers.ModelFacts:
        """Say what is in use."""
        manifest = self.model.manifest
        privacy = manifest.privacy
        return answers.ModelFacts(
            title=self.model.title,
            model=manifest.model,
            training=None if manifest.training is None else manifest.training.training_id,
            classes=list(self.model.classes),
            evidence=manifest.evidence,
            calibrated=manifest.calibration.photos is not None,
            epsilon=None if privacy is None else privacy.epsilon,
            delta=None if privacy is None else privacy.delta,
            warnings=list(manifest.warnings),
            products=None if self.catalogue is None else self.catalogue.products(),
            copies=self.catalogue is not None and self.catalogue.has_copies,
        )

    def _require_classes(self) -> None:
        if not self.model.classes:
            raise RequestError("no-classes", "the model is a backbone alone, which knows no classes")

    def _require_catalogue(self) -> ServedCatalogue:
        if self.catalogue is None:
            raise RequestError("no-catalogue", "the service was started without a catalogue")
        return self.catalogue


def _region(photo: Image.Image, crop: tuple[float, float, float, float]) -> tuple[int, int, int, int]:
    """Return a crop's edges in pixels."""
    left, top, width, height = crop
    if not (min(crop) >= 0 and width > 0 and height > 0 and left + width <= 1.001 and top + height <= 1.001):
        raise RequestError(
            "wrong-value", "crop is left,top,width,height in parts of the photo, such as 0.1,0,0.5,1"
        )
    right, bottom = round((left + width) * photo.width), round((top + height) * photo.height)
    x, y = round(left * photo.width), round(top * photo.height)
    return x, y, max(x + 1, min(right, photo.width)), max(y + 1, min(bottom, photo.height))
