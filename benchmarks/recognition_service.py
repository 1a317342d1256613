"""What the service costs beside bare prediction, and what hostile uploads do to it.

Run ``python benchmarks/recognition_service.py --model BUNDLE --photos DIR [--catalogue DIR] [--uploads N]``.
CPU seconds and memory until the service answers; CPU time of a request to ``/predict`` over that of the same
prediction in a loop, in turn; answers to 50 requests at once, and to requests and uploads that mean harm
(``recognition_uploads.py``), with the most memory and the most CPU time of one.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import psutil
from recognition_uploads import REQUESTS, UPLOADS, answered

from fedrec.recognition.model import open_model
from fedrec.recognition.photo_files import photo_files
from fedrec.vision.decoding import decode

_MEBI = 1 << 20
_SIDE = 1024
AT_ONCE = 50
JPEG = {"Content-Type": "image/jpeg"}


def cpu_seconds(process: psutil.Process) -> float:
    """Return the CPU time of a process so far."""
    used = process.cpu_times()
    return float(used.user + used.system)


@contextmanager
def service(
    model: Path, catalogue: Path | None
) -> Iterator[tuple[psutil.Process, httpx.Client, dict[str, float]]]:
    """Run the service; yield its process, a client, and what its start cost."""
    command = [sys.executable, "-m", "fedrec.cli", "serve", str(model), "--listen", "0"]
    command += [] if catalogue is None else ["--catalogue", str(catalogue)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            if process.stdout is None:
                raise SystemExit("the service prints nothing")
            address = process.stdout.readline().split(" ")[0]
            with httpx.Client(base_url=address, timeout=120) as client:
                while client.get("/health").status_code != httpx.codes.OK:
                    time.sleep(0.01)
                seen = psutil.Process(process.pid)
                yield seen, client, {"cpu_s": cpu_seconds(seen), "mib": seen.memory_info().rss / _MEBI}
        finally:
            process.terminate()


def at_once(address: str, content: bytes) -> Counter[int]:
    """Send one photo in many requests at the same time; return the statuses."""
    with ThreadPoolExecutor(AT_ONCE) as threads:
        sent = [
            threads.submit(httpx.post, f"{address}/look", content=content, headers=JPEG, timeout=600)
            for _ in range(AT_ONCE)
        ]
        return Counter(each.result().status_code for each in sent)


def hostile(
    client: httpx.Client, process: psutil.Process, *, uploads: int
) -> tuple[dict[str, dict[int, int]], dict[str, float]]:
    """Send uploads of all kinds in turn; return how each was answered, and the most memory and CPU time."""
    rng, kinds = np.random.default_rng(1), list(UPLOADS.items())
    answers: dict[str, Counter[int]] = {name: Counter() for name in UPLOADS}
    most = worst = 0.0
    for number in range(uploads):
        name, make = kinds[number % len(kinds)]
        upload, before = make(rng), cpu_seconds(process)
        answers[name][client.post("/look", content=upload, headers=JPEG).status_code] += 1
        worst = max(worst, cpu_seconds(process) - before)
        most = max(most, process.memory_info().rss / _MEBI)
    return {name: dict(found) for name, found in answers.items()}, {"most_mib": most, "worst_cpu_s": worst}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="bundle")
    parser.add_argument("--photos", type=Path, required=True, help="folder of photos")
    parser.add_argument("--catalogue", type=Path, help="catalogue")
    parser.add_argument("--uploads", type=int, default=10_000, help="hostile uploads")
    asked = parser.parse_args()
    found: dict[str, object] = {}
    contents = [path.read_bytes() for path in photo_files([asked.photos])[:60]]
    model = open_model(asked.model)
    with service(asked.model, asked.catalogue) as (process, client, start):
        found["start"] = {name: round(value, 2) for name, value in start.items()}
        here = psutil.Process()
        bare = served = 0.0
        opened = {each.path for each in process.open_files()}
        for number, content in enumerate(contents):
            before = cpu_seconds(here)
            model.recognise([decode(io.BytesIO(content), least_side=_SIDE)])
            bare += (cpu_seconds(here) - before) * (number > 4)
            before = cpu_seconds(process)
            client.post("/predict", content=content, headers=JPEG).raise_for_status()
            served += (cpu_seconds(process) - before) * (number > 4)
        found["cpu_of_a_request_over_a_prediction"] = round(served / bare, 3)
        found["at_once"] = at_once(str(client.base_url).rstrip("/"), contents[0])
        address = ("127.0.0.1", client.base_url.port or 0)
        found["requests"] = {name: answered(address, content) for name, content in REQUESTS.items()}
        found["hostile"], found["bounds"] = hostile(client, process, uploads=asked.uploads)
        found["healthy_after"] = client.get("/health").status_code == httpx.codes.OK
        found["kept_files"] = [each.path for each in process.open_files() if each.path not in opened]
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
