"""How well copies of product photos are found, and how seldom other photos are called copies.

Run ``python benchmarks/recognition_copies.py --photos DIR [--quick] [--json FILE]``; ``--photos`` holds
``clothing-small``. Copies: photos of its validation split, each edited in 36 ways, are looked for among 1,000
photos that hold the originals, and fewer of them in 33 further ways. "Vectors" is what a service does: it
reads no photo before a question, and has the prints that a catalogue keeps. Strangers: each photo of the
validation split is looked for among the training split's photos; many show other garments on one seller's
floor. No threshold was set on a photo of the validation split, or with these edits.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from measure import Options, Row, finish
from PIL import Image
from recognition_edits import COPIES, OTHERS, Edit
from recognition_more_edits import MORE

from fedrec.recognition.copies.collection import AllVectors, PhotoFiles
from fedrec.recognition.copies.finder import Finder
from fedrec.recognition.copies.kept_prints import packed, unpacked
from fedrec.recognition.copies.pictures import comparison
from fedrec.recognition.copies.prints import Print, luminance_of, make_print, reduced
from fedrec.recognition.embedding import Embedder
from fedrec.recognition.model import open_model
from fedrec.recognition.zero_training import backbone_bundle
from fedrec.vision.near_duplicates import NEAR_BITS, perceptual_hashes

STORED = 1000
EDITS = {**COPIES, **OTHERS}


class Made:
    """The prints of photos, made once for several finders."""

    def __init__(self, photos: PhotoFiles) -> None:
        self.prints = [make_print(photos.photo(number)) for number in range(len(photos.names))]

    def print_of(self, number: int) -> Print | None:
        """Return a photo's print."""
        return self.prints[number]

    def hashes(self) -> np.ndarray:
        """Return the photos' hashes."""
        return np.stack([np.zeros(4, np.uint64) if p is None else p.hashes.words[0] for p in self.prints])


class Packed:
    """The prints that a catalogue keeps of photos."""

    def __init__(self, photos: PhotoFiles, made: Made) -> None:
        self._photos, self.hashes = photos, made.hashes
        self._content = [None if one is None else packed(one) for one in made.prints]
        self.bytes = float(np.mean([len(one) for one in self._content if one is not None]))

    def print_of(self, number: int) -> Print | None:
        """Return a photo's print."""
        return unpacked(self._content[number], pixels=lambda: luminance_of(self._photos.photo(number)))


def dhash(photo: Image.Image) -> np.ndarray:
    """The hash that the inspection of a data folder reports near-duplicates by."""
    found = perceptual_hashes(np.asarray(photo)[None])[0]
    return np.frombuffer(found, dtype=np.uint64)


def recall(
    finder: Finder, photos: Sequence[Image.Image], *, name: str, edits: Mapping[str, Edit]
) -> tuple[list[Row], float]:
    """Edit and look for the photos 0, 1, ... of a finder; returns a row per edit, and the mean CPU time."""
    rng, seconds = np.random.default_rng(0), []
    hits: dict[str, list[bool]] = {}
    for number, photo in enumerate(photos):
        others = [photos[int(other)] for other in rng.integers(0, len(photos), 3)]
        for edit, change in edits.items():
            edited = change(photo, others, rng)
            started = time.process_time()
            found = finder.find(edited)
            seconds.append(time.process_time() - started)
            hits.setdefault(edit, []).append(any(one.number == number for one in found))
    rows: list[Row] = [{"edit": edit, f"found: {name}": float(np.mean(one))} for edit, one in hits.items()]
    return rows, 1000 * float(np.mean(seconds))


def recall_of_dhash(photos: Sequence[Image.Image], edits: Mapping[str, Edit]) -> float:
    """The share of edited photos that the hash of the inspection tells near."""
    rng, hits = np.random.default_rng(0), []
    for photo in photos:
        others = [photos[int(other)] for other in rng.integers(0, len(photos), 3)]
        for change in edits.values():
            edited = dhash(change(photo, others, rng))
            hits.append(np.bitwise_count(edited ^ dhash(photo)).sum() <= NEAR_BITS)
    return float(np.mean(hits))


def strangers(finder: Finder, stored: PhotoFiles, files: Sequence[Path], *, out: Path | None) -> float:
    """The share of photos that match a stored one, none of which was made from it; draws those pairs."""
    flagged = 0
    for file in files:
        photo = photo_of(file)
        found = finder.find(photo)
        flagged += bool(found)
        for one in found:
            other = Path(stored.names[one.number])
            print(f"flagged: {file.name} {other.name} {one.match.test} {one.match.score:.2f}")
            if out is not None:
                out.mkdir(parents=True, exist_ok=True)
                drawn = comparison(photo, stored.photo(one.number), one.match.matrix)
                drawn.save(out / f"{file.stem}-{other.stem}.jpg")
    return flagged / len(files)


def photo_of(file: Path) -> Image.Image:
    """Open a photo."""
    return Image.open(file).convert("RGB")


def cpu_ms_of_first_questions(finders: Sequence[Finder], photos: Sequence[Image.Image]) -> float:
    """The mean CPU time of the first question that each finder is asked."""
    started = time.process_time()
    for finder, photo in zip(finders, photos, strict=True):
        finder.find(photo)
    return 1000 * (time.process_time() - started) / len(photos)


def mean(rows: Sequence[Row], edits: Mapping[str, Edit]) -> float:
    """The mean recall of some edits."""
    return float(np.mean([value for row in rows for value in list(row.values())[1:] if row["edit"] in edits]))


def main() -> None:
    """Measure, and print tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, required=True, help="holds clothing-small")
    parser.add_argument("--quick", action="store_true", help="fewer photos")
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    parser.add_argument("--pictures", type=Path, help="folder for pictures of flagged strangers")
    asked = parser.parse_args()
    cv2.setNumThreads(1)
    root = asked.photos / "clothing-small"
    validation, training = (sorted((root / part).glob("*/*")) for part in ("validation", "train"))
    order = np.random.default_rng(1).permutation(len(validation))
    originals = [validation[int(place)] for place in order]
    files = [*originals, *training[:: max(1, len(training) // (STORED - len(originals)))]][:STORED]
    edited, few = (8, 4) if asked.quick else (100, 40)
    photos = [photo_of(file) for file in originals[:edited]]
    model: Embedder = open_model(backbone_bundle())
    stored = PhotoFiles(files)
    started = time.process_time()
    made = Made(stored)
    alone = Finder(stored, kept=made)
    ready = 1000 * (time.process_time() - started) / len(files)
    search = AllVectors(np.concatenate([model.embed([reduced(stored.photo(n))]) for n in range(len(files))]))
    both = Finder(stored, embedder=model, search=search, kept=made)
    kept = Packed(stored, made)

    def fresh() -> Finder:
        return Finder(stored, embedder=model, search=search, read_all=False, kept=kept)

    vectors = fresh()
    others = [file for file in training if file not in set(files)][-few:]
    first, of_strangers = (
        cpu_ms_of_first_questions([fresh() for _ in some], [photo_of(file) for file in some])
        for some in (originals[-few:], others)
    )
    rows: list[Row] = []
    ratios = {"dhash: 14 edits": recall_of_dhash(photos[:few], COPIES)}
    for name, finder, count in (("all", both, edited), ("no model", alone, few), ("vectors", vectors, few)):
        found, cpu = recall(finder, photos[:count], name=name, edits=EDITS)
        rows += found
        ratios |= {
            f"{name}: 14 edits": mean(found, COPIES),
            f"{name}: other edits": mean(found, OTHERS),
            f"{name}: cpu_ms_per_query": cpu,
        }
    for name, finder in (("all", both), ("vectors", vectors)):
        found, _ = recall(finder, photos[:few], name=name, edits=MORE)
        rows += found
        ratios[f"{name}: further edits"] = mean(found, MORE)
    ratios["vectors: cpu_ms_per_first_query"] = first
    ratios["vectors: cpu_ms_per_first_query_without_match"] = of_strangers
    ratios["bytes_per_kept_print"] = kept.bytes
    ratios["cpu_ms_per_stored_photo"] = ready
    started = time.process_time()
    for photo in photos[:few]:
        make_print(photo)
    ratios["cpu_ms_per_print"] = 1000 * (time.process_time() - started) / few
    stored = PhotoFiles(training[::8] if asked.quick else training)
    against = Finder(stored, embedder=model)
    ratios["strangers_flagged"] = strangers(
        against, stored, validation[:: 8 if asked.quick else 1], out=asked.pictures
    )
    finish("recognition_copies", Options(quick=asked.quick, json=asked.json), rows=rows, ratios=ratios)


if __name__ == "__main__":
    main()
