"""What every benchmark shares: CPU seconds, peak memory, the machine, and the shape of the results."""

from __future__ import annotations

import argparse
import ctypes
import gc
import itertools
import json
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

Row = Mapping[str, Any]
_COMMANDS_A_PROCESS = 20
"""Fewer take less time than the start of another process."""
PACKAGES = ("fedrec", "torch", "opacus", "tenseal", "flwr", "numpy")


@dataclass(frozen=True)
class Options:
    """``--quick`` ends within a minute; ``--json`` names the file for the results."""

    quick: bool
    json: Path | None


def parse(description: str) -> Options:
    """Read a benchmark's command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="end within a minute, on smaller sizes")
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    found = parser.parse_args()
    return Options(quick=found.quick, json=found.json)


def cpu_seconds(work: Callable[[], object], *, repeats: int) -> float:
    """Return the median CPU seconds of this process over several runs, after one that isn't counted."""
    work()
    times = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return statistics.median(times)


def peak_bytes(process: int | str = "self") -> int:
    """Return a process's largest resident set so far, or since its peak was started anew."""
    return 1024 * _status_kib("VmHWM", process)


def resident_bytes(process: int | str = "self") -> int:
    """Return a process's resident set as it is now."""
    return 1024 * _status_kib("VmRSS", process)


def processor_seconds(process: int) -> float:
    """Return the CPU seconds of another process so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _status_kib(field: str, process: int | str = "self") -> int:
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise RuntimeError(f"this kernel does not tell {field}")


def _measure_peak(work: Callable[[], object], answer: Any, warm: bool) -> None:
    if warm:
        work()
    gc.collect()
    # What the parent has freed but the allocator kept would otherwise serve the work unseen.
    ctypes.CDLL(None).malloc_trim(0)
    before = resident_bytes()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    work()
    answer.send(max(0, peak_bytes() - before))


def peak_memory_bytes(work: Callable[[], object], *, warm: bool = False) -> int:
    """Return how far the resident memory of a forked child rises above its start while it works.

    With ``warm`` the child has done the work once before: the code that it pages in and the engines that it
    starts, which don't grow with the work, are then in its start.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_measure_peak, args=(work, sender, warm))
    child.start()
    sender.close()
    try:
        peak = int(receiver.recv())
    except EOFError:
        raise RuntimeError("the measured work failed; see its message above") from None
    finally:
        child.join()
    return peak


def fedrec_here(*arguments: object) -> str:
    """Run a fedrec command in this process, as enrolling a hundred merchants takes; returns its output."""
    from fedrec.cli.app import app

    done = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    if done.exit_code:
        raise RuntimeError(f"fedrec {' '.join(map(str, arguments))}: {done.output}")
    return done.output


def fedrec_in_processes(commands: Sequence[Sequence[object]]) -> None:
    """Run fedrec commands that don't depend on each other in a few processes, as they wait for the disk."""
    workers = min(8, len(commands) // _COMMANDS_A_PROCESS)
    if workers < 2:
        for command in commands:
            fedrec_here(*command)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        for _ in pool.map(_run, commands, chunksize=4):
            pass


def _run(command: Sequence[object]) -> None:
    fedrec_here(*command)


def machine() -> dict[str, Any]:
    """Describe what the figures were taken on."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line
        ]
        model = names[0] if names else model
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def finish(name: str, options: Options, *, rows: Sequence[Row], ratios: Mapping[str, float]) -> None:
    """Print the rows and the ratios, and write the JSON if a file was named.

    Rows that follow each other with the same columns share a table.
    """
    for columns, alike in itertools.groupby(rows, key=_columns):
        _print_table(columns, list(alike))
    print()
    for key, value in ratios.items():
        print(f"{key:<48} {value:8.3f}")
    if options.json is not None:
        results = {"benchmark": name, "machine": machine(), "rows": list(rows), "ratios": dict(ratios)}
        options.json.write_text(json.dumps(results, indent=2) + "\n")


def _columns(row: Row) -> tuple[str, ...]:
    return tuple(row)


def _print_table(columns: Sequence[str], rows: Sequence[Row]) -> None:
    cells = [[_cell(row[column]) for column in columns] for row in rows]
    widths = [max(len(column), *(len(line[i]) for line in cells)) for i, column in enumerate(columns)]
    print()
    for line in (columns, *cells):
        print("  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
