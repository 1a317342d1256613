"""How well copies of product photos are found, and how seldom other photos are called copies.

Run ``python benchmarks/recognition_copies.py --photos DIR [--quick] [--json FILE]``; ``--photos`` holds
``clothing-small``. Copies: photos of its validation split, each edited in 36 ways, are looked for among 1,000
photos that hold the originals. Strangers: each photo of the validation split is looked for among the training
split's photos, many of which show other garments on the same seller's floor. No threshold was set on a photo
of the validation split, or with these edits.
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

from fedrec.recognition.copies.collection import PhotoFiles
from fedrec.recognition.copies.finder import Finder
from fedrec.recognition.copies.pictures import comparison
from fedrec.recognition.copies.prints import make_print
from fedrec.recognition.embedding import Embedder
from fedrec.recognition.model import open_model
from fedrec.recognition.zero_training import backbone_bundle
from fedrec.vision.near_duplicates import NEAR_BITS, perceptual_hashes

STORED = 1000
EDITS = {**COPIES, **OTHERS}


def dhash(photo: Image.Image) -> np.ndarray:
    """The hash that the inspection of a data folder reports near-duplicates by."""
    found = perceptual_hashes(np.asarray(photo)[None])[0]
    return np.frombuffer(found, dtype=np.uint64)


def recall(finder: Finder, photos: Sequence[Image.Image], *, name: str) -> tuple[list[Row], float]:
    """Edit and look for the photos 0, 1, ... of a finder; returns a row per edit, and the mean CPU time."""
    rng, seconds = np.random.default_rng(0), []
    hits: dict[str, list[bool]] = {}
    for number, photo in enumerate(photos):
        others = [photos[int(other)] for other in rng.integers(0, len(photos), 3)]
        for edit, change in EDITS.items():
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


def cpu_ms_of_first_questions(finder: Finder, photos: Sequence[Image.Image]) -> float:
    """The mean CPU time of a question while no print of a stored photo is in memory."""
    started = time.process_time()
    for photo in photos:
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
    started = time.process_time()
    alone = Finder(PhotoFiles(files))
    ready = 1000 * (time.process_time() - started) / len(files)
    both = Finder(PhotoFiles(files), embedder=model)
    vectors = Finder(PhotoFiles(files), embedder=model, search=both.vectors, read_all=False)
    first = cpu_ms_of_first_questions(vectors, [photo_of(file) for file in originals[-few:]])
    rows: list[Row] = []
    ratios = {"dhash: 14 edits": recall_of_dhash(photos[:few], COPIES)}
    for name, finder, count in (("all", both, edited), ("no model", alone, few), ("vectors", vectors, few)):
        found, cpu = recall(finder, photos[:count], name=name)
        rows += found
        ratios |= {
            f"{name}: 14 edits": mean(found, COPIES),
            f"{name}: other edits": mean(found, OTHERS),
            f"{name}: cpu_ms_per_query": cpu,
        }
    ratios["vectors: cpu_ms_per_first_query"] = first
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
