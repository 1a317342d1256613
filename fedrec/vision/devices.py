"""Which device to compute on."""

from __future__ import annotations

import torch

from fedrec.errors import ConfigError


def pick_device(name: str) -> torch.device:
    """Return the device to train on; ``auto`` takes a GPU if there is one.

    Raises ``ConfigError`` for a name that is none, or when a GPU is asked for and absent.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"--device {name} is no device to train on; choose auto, cpu or cuda[:i]")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"--device {name}: there is no such GPU here; choose auto or cpu")
    return device
