"""Fixtures that several folders of tests share."""

from __future__ import annotations

import gc
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs
import pytest
from hypothesis import settings

from tests.support.environment import forget_proxies

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fedrec.protocol.tls import Certificates

# Collecting imports some hundred modules whose objects live to the end. Searching them for cycles again and
# again takes as long as the imports themselves.
gc.disable()

# Here, so that the programs which tests start have none either.
forget_proxies(os.environ)

# The same examples in every run, which may take any time: a change is refused for what it broke alone.
# `pytest --hypothesis-profile=random` draws new ones.
settings.register_profile("random", settings.get_profile("ci"), derandomize=False)
settings.load_profile("ci")

_MEMORY = Path("/dev/shm")
_ROOM_BYTES = 2**31
_LONGEST_FILES = (
    "simulations/test_resume.py",
    "federation/test_deployment.py",
    "simulations/attacks/test_empirical_audit.py",
    "simulations/test_simulate.py",
    "cli/test_start_up.py",
    "simulations/test_unfinished_runs.py",
    "federation/test_hostile_parties.py",
    "simulations/test_sweep.py",
    "vision/backbones/test_weights_backbones.py",
    "api/test_front_door.py",
    "clients/test_crash.py",
    "package/test_layout.py",
    "recognition/export/test_exported_models.py",
    "clients/test_attendance.py",
    "simulations/attacks/test_inversion.py",
    "simulations/test_one_round_campaign.py",
    "simulations/test_forecast.py",
)
"""Run first: a long file that begins last keeps one worker busy while the others have nothing to do."""


def pytest_configure() -> None:
    """Put the tests' folders in memory, where the system has room for them.

    Ledgers and stores write through to the disk at every step, and the tests would wait for it.
    """
    root = "PYTEST_DEBUG_TEMPROOT"
    if root not in os.environ and _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK):
        # Some tests run programs out of their folders.
        runs = not os.statvfs(_MEMORY).f_flag & os.ST_NOEXEC
        if runs and shutil.disk_usage(_MEMORY).free >= _ROOM_BYTES:
            os.environ[root] = str(_MEMORY)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take longest before the others; within a file the order stays."""
    here = Path(__file__).parent
    places = {here / name: place for place, name in enumerate(_LONGEST_FILES)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


def pytest_collection_finish() -> None:
    """Leave what was imported out of later searches for cycles."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep what tests cache out of the cache of who runs them, which a test would read, and delete from."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(platformdirs, "user_cache_path", lambda name: folder / name)
        yield folder


@pytest.fixture
def few_synthetic_photos(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the built-in data set draw some dozens of photos instead of thousands, which take seconds."""
    from fedrec.vision import dataset_registry

    monkeypatch.setattr(dataset_registry, "SYNTHETIC_PER_MERCHANT", 60)
    monkeypatch.setattr(dataset_registry, "SYNTHETIC_EVALUATION", 40)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority and a server certificate on loopback, made once a process."""
    from tests.support.daemons import make_certificates

    return make_certificates(tmp_path_factory.mktemp("certificates"))
