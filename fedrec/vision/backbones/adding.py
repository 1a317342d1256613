"""Add a network from a file: its content is checked first, then tried, and a copy of it is kept."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fedrec._internal.files import write_secret
from fedrec._internal.text import listed, one_line
from fedrec.errors import ConfigError
from fedrec.protocol.schema import sha256_hex
from fedrec.vision.backbones import backbone_files
from fedrec.vision.backbones.backbone_files import LARGEST_FILE, Layer, Pictures, Preparation
from fedrec.vision.backbones.onnx_files.graph_check import check_graph, require_extra
from fedrec.vision.backbones.trial import Trial, try_network

DEFAULT_PART: Final = 3
"""One in so many of a network's blocks, the last ones, is adapted by default."""


@dataclass(frozen=True)
class CheckedFile:
    """What is known of a network's file before anything of it is run.

    Attributes:
        data: its content.
        outputs: names of its outputs that can be features.
        size: side of its pictures in pixels; None where the file leaves it open.
        summary: what it holds, in a few words.
        attentions: attention layers that fine-tuning can adapt.
        tokens: count and width of the tokens that enter its blocks, if it can be split between them.
    """

    data: bytes
    outputs: tuple[str, ...]
    size: int | None
    summary: str
    attentions: int = 0
    tokens: tuple[int, int] | None = None

    @property
    def sha256(self) -> str:
        """SHA-256 of its content, hexadecimal."""
        return sha256_hex(self.data)


def read_file(
    path: Path, *, architecture: str | None = None, size: int | None = None, sha256: str | None = None
) -> CheckedFile:
    """Read a network's file and check it, without running anything of it.

    Args:
        path: the file.
        architecture: the architecture of a safetensors file, which is then made for pictures of ``size``;
            None for an ONNX file.
        size: side of the pictures in pixels; an architecture needs it.
        sha256: what the file's SHA-256 must be; None for any.

    Returns:
        What was found.

    Raises:
        ConfigError: the file can't be read, has another hash, takes pictures of another size or isn't
            allowed; the message says why.
        MissingExtraError: a package isn't installed.
    """
    if architecture is None:
        require_extra()
    shown = one_line(path)
    if architecture is None and path.suffix == ".safetensors":
        raise ConfigError(f"{shown} holds weights alone: name the network that they are of by --architecture")
    try:
        if not path.is_file():
            raise ConfigError(f"there is no file {shown}")
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise ConfigError(f"{shown} can't be read: {error.strerror}") from None
    if sha256 not in (None, sha256_hex(data)):
        raise ConfigError(f"{shown} has the SHA-256 {sha256_hex(data)}, not the one given by --sha256")
    try:
        found = _checked_graph(data) if architecture is None else _checked_weights(data, architecture, size)
    except ConfigError as error:
        raise ConfigError(f"{shown} can't be a backbone: {error}") from None
    if size is not None and found.size not in (None, size):
        raise ConfigError(f"--size: the network takes pictures of {found.size} pixels, not {size}")
    return found


def _checked_graph(data: bytes) -> CheckedFile:
    graph = check_graph(data)
    summary = f"{graph.nodes:,} nodes, operators of version {graph.opset}"
    return CheckedFile(data, graph.outputs, graph.input_size, summary)


def _checked_weights(data: bytes, architecture: str, size: int | None) -> CheckedFile:
    from fedrec.vision.backbones.weights_files.architecture import LAYER, check_weights

    if len(data) > LARGEST_FILE:
        raise ConfigError(f"it is larger than {LARGEST_FILE:,} bytes")
    if size is None:
        raise ConfigError("an architecture needs --size, the side of its pictures")
    described = check_weights(data, architecture, size=size)
    return CheckedFile(data, (LAYER,), size, described.summary, described.attentions, described.tokens)


def chosen_layers(outputs: Sequence[str], wanted: Sequence[str]) -> tuple[str, ...]:
    """Return the outputs to use.

    Args:
        outputs: the network's outputs.
        wanted: names of outputs; none for the only one.

    Returns:
        Their names, each once.

    Raises:
        ConfigError: there is no such output, or none is named and there are several.
    """
    if not wanted and len(outputs) == 1:
        return tuple(outputs)
    shown = listed([one_line(name, most=60) for name in outputs])
    if not wanted:
        raise ConfigError(f"the network has several outputs: name the ones to use by --layer, of {shown}")
    unknown = [name for name in wanted if name not in outputs]
    if unknown or len(set(wanted)) < len(wanted):
        raise ConfigError(f"--layer: choose different outputs of {shown}, not {listed(list(wanted))}")
    return tuple(wanted)


def chosen_blocks(found: CheckedFile, wanted: int | None) -> int | None:
    """Return how many of a network's last blocks fine-tuning adapts.

    Args:
        found: the network's file.
        wanted: the number that was asked for; None for the default, a third of the blocks.

    Returns:
        The number; None for a network that can't be split between its blocks, all of which are adapted.

    Raises:
        ConfigError: the network has no such blocks.
    """
    if found.tokens is None:
        if wanted is not None:
            raise ConfigError(
                "--adapted-blocks: this network isn't a plain vision transformer, whose last blocks can be "
                "told apart: leave the option out"
            )
        return None
    if wanted is not None and wanted > found.attentions:
        raise ConfigError(f"--adapted-blocks: the network has {found.attentions} blocks, not {wanted}")
    return wanted or max(1, found.attentions // DEFAULT_PART)


def add_backbone(
    path: Path,
    pictures: Pictures,
    *,
    layers: Sequence[str] = (),
    sha256: str | None = None,
    code: str | None = None,
) -> Preparation:
    """Check a network's file, try it, and copy it to the user's data folder.

    Args:
        path: an ONNX file, or a safetensors file of the architecture that ``pictures`` names.
        pictures: its name, and how photos become its pictures.
        layers: names of the outputs to use; none for the only one.
        sha256: what the file's SHA-256 must be; None for any.
        code: what the backbone's hash must be, as a plan names it; None for any.

    Returns:
        The preparation that was kept.

    Raises:
        ConfigError: the name is taken, a hash is another, or the file can't be read, isn't allowed or can't
            be computed.
        MissingExtraError: a package isn't installed.
    """
    backbone_files.check_new(pictures.name)
    found = read_file(path, architecture=pictures.architecture, size=pictures.size, sha256=sha256)
    chosen = chosen_layers(found.outputs, layers)
    adapted = chosen_blocks(found, pictures.adapted_blocks)
    scratch = backbone_files.new_folder()
    try:
        copy = scratch / pictures.file_name
        write_secret(copy, found.data)
        lengths = try_file(
            Trial(
                path=copy,
                sha256=found.sha256,
                layers=chosen,
                size=pictures.size,
                mean=pictures.mean,
                std=pictures.std,
                architecture=pictures.architecture,
                frozen_blocks=None if adapted is None else found.attentions - adapted,
            )
        )
        preparation = Preparation(
            **pictures.model_copy(update={"adapted_blocks": adapted}).model_dump(),
            file_sha256=found.sha256,
            file_bytes=len(found.data),
            layers=tuple(Layer(name=name, length=length) for name, length in lengths.items()),
            attentions=found.attentions,
            tokens=found.tokens,
        )
        if code not in (None, preparation.code):
            raise ConfigError(
                f"--code: with these options this file has the hash {preparation.code}: file, name, size, "
                "mean, std, layers and views must all be those of the plan"
            )
        backbone_files.keep(scratch, preparation)
        return preparation
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def try_file(trial: Trial) -> Mapping[str, int]:
    """Try a checked file as :func:`try_network` does; a ``ConfigError`` says that it can't be a backbone."""
    try:
        return try_network(trial)
    except ConfigError as error:
        raise ConfigError(f"the file can't be a backbone: {error}") from None
