"""What the service costs beside bare prediction, and what hostile uploads do to it.

Run ``python benchmarks/recognition_service.py --model BUNDLE --photos DIR [--catalogue DIR] [--uploads N]``.
Three figures: CPU seconds and memory until the service answers; CPU time of a request to ``/predict`` over
that of the same prediction in a loop, in turn; and memory after hostile uploads, with how each was answered.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import psutil
from PIL import Image

from fedrec.recognition.model import open_model
from fedrec.recognition.photo_files import photo_files
from fedrec.vision.decoding import decode

_MEBI = 1 << 20
_SIDE = 1024


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


def hostile_uploads() -> list[Callable[[np.random.Generator], bytes]]:
    """Kinds of uploads that are no usable photo."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8))

    def encoded(kind: str) -> bytes:
        file = io.BytesIO()
        noise.save(file, kind)
        return file.getvalue()

    files = [encoded(kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP")]
    bomb = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(bomb, "PNG")
    large = io.BytesIO()
    Image.new("RGB", (5_600, 5_600)).save(large, "PNG")

    def cut(rng: np.random.Generator) -> bytes:
        whole = files[int(rng.integers(len(files)))]
        return whole[: int(rng.integers(1, len(whole)))]

    def flipped(rng: np.random.Generator) -> bytes:
        whole = bytearray(files[int(rng.integers(len(files)))])
        for place in rng.integers(0, len(whole), 20):
            whole[place] = int(rng.integers(256))
        return bytes(whole)

    return [
        cut,
        flipped,
        lambda rng: rng.bytes(int(rng.integers(1, 5000))),
        lambda rng: bomb.getvalue() if rng.random() < 0.1 else b"%PDF-1.7",
        lambda rng: large.getvalue() if rng.random() < 0.01 else b"\x89PNG\r\n\x1a\n",
        lambda rng: b"../../etc/passwd",
    ]


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
        headers = {"Content-Type": "image/jpeg"}
        for number, content in enumerate(contents):
            before = cpu_seconds(here)
            model.recognise([decode(io.BytesIO(content), least_side=_SIDE)])
            bare += (cpu_seconds(here) - before) * (number > 4)
            before = cpu_seconds(process)
            client.post("/predict", content=content, headers=headers).raise_for_status()
            served += (cpu_seconds(process) - before) * (number > 4)
        found["cpu_of_a_request_over_a_prediction"] = round(served / bare, 3)
        rng, kinds = np.random.default_rng(1), hostile_uploads()
        answers: Counter[int] = Counter()
        most = 0.0
        for number in range(asked.uploads):
            upload = kinds[number % len(kinds)](rng)
            answers[client.post("/look", content=upload, headers=headers).status_code] += 1
            if number % 20 == 0:
                most = max(most, process.memory_info().rss / _MEBI)
        healthy = client.get("/health").status_code == httpx.codes.OK
        found["hostile"] = {"answers": dict(answers), "most_mib": round(most), "healthy_after": healthy}
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
