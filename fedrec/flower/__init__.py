"""Wrap Flower's private interfaces; only this folder uses them, and each name used has a contract test.

``envelope`` builds Flower messages, ``actors`` wraps its Ray backend, ``fleet`` is a merchant's connection,
``superlink`` the server.
"""

from __future__ import annotations

import os

# Flower reads these at import: without them it opens connections of its own at start.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

from fedrec.flower.actors import RayActors, require_ray
from fedrec.flower.envelope import (
    APP_FAILED,
    DEFAULT_TTL,
    NODE_GONE,
    Run,
    error_reply,
    message_from_bytes,
    message_to_bytes,
    new_message,
    set_task_identity,
)

__all__ = [
    "APP_FAILED",
    "DEFAULT_TTL",
    "NODE_GONE",
    "RayActors",
    "Run",
    "error_reply",
    "message_from_bytes",
    "message_to_bytes",
    "new_message",
    "require_ray",
    "set_task_identity",
]
