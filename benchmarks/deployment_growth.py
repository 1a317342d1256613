"""Draw what a deployment costs as it grows, from the results of ``deployment.py`` for several sizes.

Run ``python benchmarks/deployment.py --merchants N --processes 4 --rounds 3 --json N.json`` for each size,
then ``python benchmarks/deployment_growth.py --pictures FOLDER 10.json 30.json ...``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from deployment import CPU
from growth import picture
from measure import Options, finish

PICTURES = (
    ("deployment-growth-cpu.svg", CPU, "CPU ms of merchants and server, a merchant and round"),
    ("deployment-growth-memory.svg", "server_peak_mb", "peak memory of the server, MB"),
)


def main() -> None:
    """Draw the pictures and print the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, nargs="+", help="files that deployment.py --json wrote")
    parser.add_argument("--pictures", type=Path, required=True, help="draw into this folder")
    given = parser.parse_args()
    rows = sorted(
        (row for path in given.results for row in json.loads(path.read_text())["rows"]),
        key=lambda row: row["merchants"],
    )
    for name, key, unit in PICTURES:
        (given.pictures / name).write_text(picture(rows, key, unit=unit) + "\n")
    finish(
        "deployment_growth",
        Options(quick=False, json=None),
        rows=[{key: row[key] for key in ("merchants", CPU, "server_peak_mb")} for row in rows],
        ratios={"cpu_of_the_largest_against_the_smallest": rows[-1][CPU] / rows[0][CPU]},
    )


if __name__ == "__main__":
    main()
