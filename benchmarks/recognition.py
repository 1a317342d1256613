"""How well flaws of product photos are found.

Run ``python benchmarks/recognition.py --photos DIR [--quick] [--json FILE]``; ``--photos`` holds
``clothing-small``. Photos of its validation split, as they are, changed into other good ones, and each with
one flaw (``recognition_photos.py``). No threshold was set on them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from measure import Options, cpu_seconds, finish
from PIL import Image
from recognition_photos import GOOD, SPOILS

from fedrec.recognition.quality.thresholds import default_thresholds
from fedrec.recognition.quality.verdict import judge


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, required=True, help="holds clothing-small")
    parser.add_argument("--quick", action="store_true", help="every eighth photo")
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    asked = parser.parse_args()
    files = sorted((asked.photos / "clothing-small" / "validation").glob("*/*"))[:: 8 if asked.quick else 1]
    photos = [Image.open(file).convert("RGB") for file in files]
    limits, rng = default_thresholds(), np.random.default_rng(0)
    each = 1000 * cpu_seconds(lambda: judge(photos[0], limits), repeats=9)
    rows: list[dict[str, object]] = []
    ratios: dict[str, float] = {"cpu_ms": each}
    for name, change in GOOD.items():
        found = [judge(change(photo, rng), limits) for photo in photos]
        hints = float(np.mean([verdict.is_good and bool(verdict.findings) for verdict in found]))
        flagged = float(np.mean([not verdict.is_good for verdict in found]))
        rows.append({"good photos": name, "flagged": flagged, "hints": hints})
        ratios[f"flagged: {name}"] = flagged
    for name, (flaw, spoil) in SPOILS.items():
        found = [judge(spoil(photo, rng), limits) for photo in photos]
        named = float(np.mean([flaw in {each.flaw for each in verdict.findings} for verdict in found]))
        flagged = float(np.mean([not verdict.is_good for verdict in found]))
        rows.append({"bad photos": name, "flaw": flaw, "named": named, "flagged": flagged})
        ratios[f"named: {name}"] = named
    finish("recognition", Options(quick=asked.quick, json=asked.json), rows=rows, ratios=ratios)


if __name__ == "__main__":
    main()
