"""No telemetry: a whole training in a network namespace without a way out, and no attempt to leave it.

strace writes down every address that the processes connect or send to. What isn't tried can't get out where
there is a network, either.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_TRAIN = """
import sys
from pathlib import Path
from fedrec.simulations.federation import Federation
from fedrec.vision.synthetic import generate, write

folder = Path(sys.argv[1])
names = ("merchant-00", "merchant-01", "merchant-02")
write(generate(merchants=3, per_merchant=20, size=16, seed=3, validation=5, test=5), folder / "photos")
federation = Federation(folder)
federation.enrol({name: folder / "photos/train" / name for name in names}, epsilon=200.0, delta=1e-2)
federation.plan('''[training]
model = "cnn"
rounds = 1
sample_rate = 0.5
epsilon = 60
delta = 1e-3
classes = ["bottle", "chair", "handbag", "hat", "lamp", "mug", "shoe", "t-shirt", "trousers", "watch"]
''')
trace = ["strace", "--daemonize", "--follow-forks", "--quiet=all", "--trace=connect,sendto,sendmsg,sendmmsg"]
python = [sys.executable, "-m", "fedrec.cli"]
try:
    federation.spawn(
        "server", *trace, "--output", str(folder / "server.trace"), *python,
        "server", "start", "--home", str(federation.server), "--gather", "60", "--observe", "0",
    )
    for name in names:
        federation.spawn(
            name, *trace, "--output", str(folder / f"{name}.trace"), *python, "client", "start", "--home",
            str(federation.home(name)), "--device", "cpu", "--threads", "1", "--observe", "0",
        )
    federation.wait(seconds=200)
finally:
    federation.stop()
print(federation.address)
"""
_ADDRESS = re.compile(r'sin6?_port=htons\((\d+)\).*?(?:inet_addr\("|inet_pton\(AF_INET6, ")([^"]+)"')


@pytest.mark.slow
def test_a_training_connects_to_the_server_alone(tmp_path: Path) -> None:
    for tool in ("unshare", "ip", "strace"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    alone = ["unshare", "--map-root-user", "--net"]
    if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not make a network namespace")
    script = tmp_path / "train.py"
    script.write_text(_TRAIN)
    folder = tmp_path / "federation"
    folder.mkdir()
    # Only loopback exists in there: whatever is meant for elsewhere fails, and is written down.
    command = 'ip link set lo up && exec "$@"'
    done = subprocess.run(
        [*alone, "sh", "-c", command, "sh", sys.executable, str(script), str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    port = int(done.stdout.strip().rpartition(":")[2])
    reached: dict[str, set[tuple[str, int]]] = {}
    for trace in folder.glob("*.trace"):
        found = {(address, int(number)) for number, address in _ADDRESS.findall(trace.read_text("utf-8"))}
        reached[trace.stem] = found
    assert len(reached) == 4
    # The server speaks to its own private listener, on a port of the system's choice.
    assert {address for address, _ in reached["server"]} <= {"127.0.0.1"}
    assert 53 not in {number for found in reached.values() for _, number in found}
    for name, found in reached.items():
        if name != "server":
            assert found == {("127.0.0.1", port)}, f"{name} tried to reach {found}"
