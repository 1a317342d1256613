"""Which device to compute on."""

from __future__ import annotations

import pytest
import torch

from fedrec.errors import ConfigError
from fedrec.vision.devices import pick_device


def test_a_name_that_is_no_available_device_is_refused() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("gpu", "", "meta", "mps:0", "cuda:x", "cuda:4096"):
        with pytest.raises(ConfigError, match="give auto"):
            pick_device(name)
