"""How much memory a process may use, by the files that Linux tells it with."""

from pathlib import Path

import psutil
import pytest

from fedrec._internal.machine_memory import memory_limit

GIB = 1 << 30


def system(root: Path, groups: str, limits: dict[str, str]) -> Path:
    """Write what a process is told of its control groups below a root of its own."""
    for place, text in {"proc/self/cgroup": groups, **limits}.items():
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_text(text)
    return root


@pytest.mark.parametrize(
    ("groups", "limits", "expected"),
    [
        ("0::/\n", {"sys/fs/cgroup/memory.max": f"{GIB}\n"}, GIB),
        ("0::/\n", {"sys/fs/cgroup/memory.max": "max\n"}, None),
        # A systemd service: its slice's limit holds for it, too.
        (
            "0::/system.slice/fedrec.service\n",
            {
                "sys/fs/cgroup/system.slice/fedrec.service/memory.max": f"{3 * GIB}\n",
                "sys/fs/cgroup/system.slice/memory.max": f"{2 * GIB}\n",
            },
            2 * GIB,
        ),
        # A container of version 1, that is told the host's name of its group.
        (
            "5:cpu,cpuacct:/docker/0af3\n4:memory:/docker/0af3\n0::/\n",
            {"sys/fs/cgroup/memory/memory.limit_in_bytes": f"{GIB}\n"},
            GIB,
        ),
        ("4:memory:/\n", {"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}, None),
        ("0::/../outside\n", {"sys/outside/memory.max": "1\n"}, None),
        ("0::/\n", {"sys/fs/cgroup/memory.max": "many\n"}, None),
        ("nonsense\n", {}, None),
    ],
)
def test_the_smallest_limit_that_holds_for_the_process_counts(
    tmp_path: Path, groups: str, limits: dict[str, str], expected: int | None
) -> None:
    total = psutil.virtual_memory().total
    assert memory_limit(root=system(tmp_path, groups, limits)) == (expected or total)


def test_without_control_groups_it_is_the_machine_s_memory(tmp_path: Path) -> None:
    assert memory_limit(root=tmp_path) == psutil.virtual_memory().total
