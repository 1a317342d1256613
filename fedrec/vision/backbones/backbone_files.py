"""Networks that the user added from files: copies in the user's data folder, each with its preparation.

They belong to the user of the machine, like installed packages: all merchants, servers and simulations of
that user share them, and a merchant's policy says which of them it trains with.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Final, Literal

import platformdirs
from pydantic import Field, StringConstraints, ValidationError

from fedrec._internal.files import Stamp, stamp_of, sync_folder, write_secret
from fedrec._internal.validation_messages import first_problem
from fedrec.errors import ConfigError
from fedrec.protocol.schema import Hash, Strict, sha256_hex
from fedrec.vision.backbones.view_names import FixedView

HEAD: Final = "-head"
"""What follows a backbone's name in the name of the linear head on it."""
LORA: Final = "-lora"
"""What follows a backbone's name in the name of the model that fine-tunes it."""
_PREPARATION_FILE: Final = "backbone.json"
_LARGEST_PREPARATION: Final = 1 << 16
LARGEST_FILE: Final = (2 << 30) - 1
"""Bytes of a network's file; protobuf has no larger messages, and files are read in one piece."""

BackboneName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,58}$", max_length=59)]
"""So that the names of models on it are ones that a plan can hold."""
Architecture = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]{1,100}$", max_length=100)]
"""The name of one of timm's architectures: neither a path nor the name of a model on a hub."""
Colour = Annotated[float, Field(ge=-1000, le=1000)]
Spread = Annotated[float, Field(ge=1e-3, le=1000)]


class Layer(Strict):
    """An output of a network, and the length of its feature vector."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    length: Annotated[int, Field(ge=1, le=65_536)]


class Pictures(Strict):
    """What the user says of a backbone: its name, and how photos become the network's pictures.

    ``size`` is their side in pixels; ``mean`` is subtracted from the colours of pixels in 0 to 1, and the
    rest divided by ``std``. Features are averaged over ``views``. ``architecture`` names the network whose
    weights a safetensors file holds; None for an ONNX file. ``rank`` is that of fine-tuning's low-rank
    changes; None for the default. ``adapted_blocks`` is the number of blocks that fine-tuning changes, the
    last ones of the network; None for the default.
    """

    name: BackboneName
    size: Annotated[int, Field(ge=8, le=1024)]
    mean: tuple[Colour, Colour, Colour]
    std: tuple[Spread, Spread, Spread]
    views: Annotated[tuple[FixedView, ...], Field(min_length=1, max_length=4)] = ("wide",)
    architecture: Architecture | None = None
    rank: Annotated[int, Field(ge=1, le=256)] | None = None
    adapted_blocks: Annotated[int, Field(ge=1, le=1000)] | None = None

    @property
    def file_name(self) -> str:
        """Name of the copy of the file in the backbone's folder."""
        return "network.onnx" if self.architecture is None else "network.safetensors"


class Preparation(Pictures):
    """What defines a backbone: the hash of its file, its outputs that are used, and its pictures.

    ``attentions`` is the number of its attention layers that fine-tuning can adapt. ``tokens`` are count and
    width of the tokens that enter its blocks, and ``adapted_blocks`` is set, if it can be split between them.
    """

    kind: Literal["fedrec/backbone/1"] = "fedrec/backbone/1"
    file_sha256: Hash
    file_bytes: Annotated[int, Field(ge=1)]
    layers: Annotated[tuple[Layer, ...], Field(min_length=1, max_length=16)]
    attentions: Annotated[int, Field(ge=0)] = 0
    tokens: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = None

    @property
    def frozen_blocks(self) -> int | None:
        """Leading blocks whose tokens are computed once and cached; None where all blocks are adapted."""
        if self.tokens is None or self.adapted_blocks is None:
            return None
        return self.attentions - self.adapted_blocks or None

    @property
    def code(self) -> str:
        """The SHA-256 of all fields, which plans and policies name; it covers the file by its hash."""
        return sha256_hex(self.canonical_bytes())

    @property
    def model(self) -> str:
        """The name of the linear head on its features."""
        return f"{self.name}{HEAD}"

    @property
    def models(self) -> tuple[str, ...]:
        """The names of the models on it: the linear head, and fine-tuning where it has attention layers."""
        return (self.model, f"{self.name}{LORA}") if self.attentions else (self.model,)


def folder() -> Path:
    """Return the folder of all added backbones inside the user's data folder; it may not exist yet."""
    return platformdirs.user_data_path("fedrec") / "backbones"


def network_file(pictures: Pictures) -> Path:
    """Return the path of an added backbone's file."""
    return folder() / pictures.name / pictures.file_name


def names() -> tuple[str, ...]:
    """Return the names of the added backbones, sorted."""
    return tuple(sorted(path.parent.name for path in folder().glob(f"[!.]*/{_PREPARATION_FILE}")))


def read(name: str) -> Preparation | None:
    """Read an added backbone's preparation.

    Args:
        name: the backbone's name; anything else is no backbone.

    Returns:
        The preparation; None if there is no such backbone.

    Raises:
        ConfigError: its file is damaged.
    """
    if name not in names():
        return None
    path = folder() / name / _PREPARATION_FILE
    try:
        with path.open("rb") as file:
            found = Preparation.model_validate_json(file.read(_LARGEST_PREPARATION))
    except FileNotFoundError:
        return None
    except (OSError, ValidationError):
        found = None
    if found is None or found.name != name:
        raise ConfigError(f"{path} is damaged: run 'fedrec backbone remove {name}', and add it again")
    return found


def pictures_of(**values: object) -> Pictures:
    """Check what the user says of a backbone; a one-line ``ConfigError`` names the wrong option."""
    try:
        return Pictures.model_validate(values)
    except ValidationError as error:
        problem = first_problem(error)
        option = str(problem.where[0]).replace("_", "-")
        raise ConfigError(f"--{option} {problem.text}") from None


def new_folder() -> Path:
    """Make an empty folder, readable by its owner alone, in which a backbone is put together."""
    folder().mkdir(mode=0o700, parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=".adding-", dir=folder()))


def keep(scratch: Path, preparation: Preparation) -> None:
    """Make a folder with a network's file an added backbone.

    Args:
        scratch: what :func:`new_folder` returned, with the file.
        preparation: its preparation.

    Raises:
        ConfigError: there is one of that name.
        OSError: the disk fails.
    """
    write_secret(scratch / _PREPARATION_FILE, preparation.canonical_bytes())
    sync_folder(scratch)
    check_new(preparation.name)
    scratch.rename(folder() / preparation.name)
    sync_folder(folder())


def check_new(name: str) -> None:
    """Raise ``ConfigError`` if a backbone of that name was added."""
    if (folder() / name).exists():
        raise ConfigError(f"there is a backbone '{name}': choose another name, or remove it first")


def remove(name: str) -> None:
    """Delete an added backbone; its features stay in the cache.

    Args:
        name: the backbone's name.

    Raises:
        ConfigError: there is no such backbone.
    """
    if name not in names():
        raise ConfigError(f"there is no backbone '{name}'; added are: {', '.join(names()) or 'none'}")
    shutil.rmtree(folder() / name)


def check_file(preparation: Preparation) -> Path:
    """Check that a backbone's file is there and is the one that was added.

    Args:
        preparation: the backbone's.

    Returns:
        The file.

    Raises:
        ConfigError: the file is missing or has changed.
    """
    path = network_file(preparation)
    try:
        found = _hash_of(path, stamp_of(path.stat()))
    except OSError:
        found = None
    if found != preparation.file_sha256:
        raise ConfigError(
            f"{path} is missing or damaged: run 'fedrec backbone remove {preparation.name}', and add it again"
        )
    return path


@lru_cache(maxsize=8)
def _hash_of(path: Path, stamp: Stamp) -> str:
    """Hash a file; its stamp stands in the key of the cache."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
