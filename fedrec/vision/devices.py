"""Choice of the computing device."""

from __future__ import annotations

import torch

from fedrec.errors import ConfigError


def pick_device(name: str) -> torch.device:
    """Return the device to train on.

    Args:
        name: "auto" (a GPU if there is one), "cpu" or "cuda[:i]".

    Returns:
        The device.

    Raises:
        ConfigError: the name is unknown, or the GPU is absent.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"--device {name} is unknown: give auto, cpu or cuda[:i]")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"--device {name}: there is no such GPU here: give auto or cpu")
    return device
