"""The plan of a training: everything that its parties must agree on."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, FailFast, Field, StringConstraints, model_validator

from fedrec.errors import ProtocolError
from fedrec.protocol import modes
from fedrec.protocol.modes import Mode, ModeSpec
from fedrec.protocol.schema import (
    MAX_COMMITTEE,
    MAX_PEERS,
    Fraction,
    Hash,
    Name,
    RoundNumber,
    Strict,
    sha256_hex,
)
from fedrec.protocol.trust import TrustModel

MAX_CLASSES = 10_000
MAX_CLASS_NAME = 200
MAX_DIMENSION = 200_000_000
MAX_LEARNING_RATE = 1e6
MIN_CLIP, MAX_CLIP = 1e-6, 1e6
"""Far beyond any use; further out, float arithmetic would no longer keep the bound that a clip stands for."""
_CONTROLS = ("Cc", "Cs", "Zl", "Zp")
_TURNS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
Unit = Literal["record", "product"]
"""What differential privacy hides: one photo, or one product with all its photos."""
Clipping = Literal["fixed", "automatic"]


def _harmless(text: str) -> str:
    """Refuse signs that move a cursor, end a line or turn a text's direction; joiners are letters' own."""
    if any(unicodedata.category(sign) in _CONTROLS or sign in _TURNS for sign in text):
        raise ValueError("has a control sign")
    return text


class Peer(Strict):
    """A merchant on the roster: its name and its Ed25519 public key."""

    name: Name
    signing_key: Hash


class ServerSetting(Strict):
    """One number that a server optimizer is set by."""

    name: Name
    value: float


class ServerUpdate(Strict):
    """How the server moves the model along an opened sum; no merchant's privacy depends on it.

    ``averaging`` is the decay of the moving average whose parameters the training results in, 0 for none.
    """

    optimizer: Name
    learning_rate: Annotated[float, Field(gt=0, le=MAX_LEARNING_RATE)]
    settings: Annotated[tuple[ServerSetting, ...], FailFast(), Field(max_length=16)] = ()
    averaging: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @property
    def text(self) -> str:
        """All of it in one line, for reports and terminals."""
        settings = "".join(f"{setting.name} {setting.value:g}, " for setting in self.settings)
        return (
            f"{self.optimizer}, learning rate {self.learning_rate:g}, {settings}averaging {self.averaging:g}"
        )

    @property
    def values(self) -> dict[str, float]:
        """The settings by name."""
        return {setting.name: setting.value for setting in self.settings}


class TrainingPlan(Strict):
    """Everything that a training's parties must agree on; ``training_id`` is the hash of all of it.

    Grid, sensitivity, noise share and ring parameters are not in it: every merchant derives them for
    itself from what is, so that no plan can understate them.

    ``model_code`` is the hash of an installed model's code, None for the package's own models. The code
    itself never travels: a merchant that trains the model has installed the same.

    Of the roster, ``colluders`` are taken to side with the server: their noise isn't counted. Of the
    committee's seats, ``corrupt_members`` are withstood, and ``seat_risk`` is the chance that its draw seats
    more colluders than that; both are 0 where no committee opens sums. The committee stands in the order of
    the draw. ``trust`` is what the scheme says of itself: every merchant holds it against its own.
    """

    version: Literal[1] = 1
    server_key: Hash
    nonce: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$", max_length=32)]
    model: Name
    model_code: Hash | None = None
    initial_model_hash: Hash
    classes: Annotated[
        tuple[Annotated[str, StringConstraints(max_length=MAX_CLASS_NAME), AfterValidator(_harmless)], ...],
        FailFast(),
        Field(min_length=2, max_length=MAX_CLASSES),
    ]
    channels: Literal[1, 3]
    image_size: Annotated[int, Field(ge=8, le=1024)]
    dimension: Annotated[int, Field(ge=1, le=MAX_DIMENSION)]
    views: Annotated[int, Field(ge=1, le=16)]
    unit: Unit = "record"
    mode: Mode
    rounds: RoundNumber
    local_steps: Annotated[int, Field(ge=1, le=1000)]
    local_learning_rate: Annotated[float, Field(gt=0, le=MAX_LEARNING_RATE)]
    server_update: ServerUpdate = ServerUpdate(optimizer="sgd", learning_rate=1.0)
    sample_rate: Fraction
    clip: Annotated[float, Field(ge=MIN_CLIP, le=MAX_CLIP)]
    clipping: Clipping = "fixed"
    delta: Annotated[float, Field(gt=0, lt=1)]
    noise_multiplier: Annotated[float, Field(gt=0, le=1e6)] | None
    records_total: Annotated[int, Field(ge=1, le=10**12)]
    records_largest: Annotated[int, Field(ge=1, le=10**9)]
    roster: Annotated[tuple[Peer, ...], FailFast(), Field(min_length=1, max_length=MAX_PEERS)]
    committee: Annotated[tuple[Name, ...], FailFast(), Field(max_length=MAX_COMMITTEE)]
    threshold: Annotated[int, Field(ge=0, le=MAX_PEERS)]
    min_contributors: Annotated[int, Field(ge=1, le=MAX_PEERS)]
    colluders: Annotated[int, Field(ge=0, le=MAX_PEERS)]
    corrupt_members: Annotated[int, Field(ge=0, le=MAX_COMMITTEE)]
    seat_risk: Annotated[float, Field(ge=0, le=1)]
    scheme: Name
    trust: TrustModel

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [peer.name for peer in self.roster]
        if len(set(names)) != len(names) or len({peer.signing_key for peer in self.roster}) != len(names):
            raise ValueError("the roster names a merchant or a key twice")
        if len(set(self.committee)) != len(self.committee) or not set(self.committee) <= set(names):
            raise ValueError("the committee is not a set of merchants of the roster")
        if (self.noise_multiplier is not None) != self.privacy_mode.private:
            raise ValueError("a noise multiplier is given exactly where the mode is private")
        if self.local_steps != 1 and not self.privacy_mode.several_steps:
            raise ValueError(f"'{self.mode}' takes one step per round")
        if self.min_contributors > len(names):
            raise ValueError("more contributors are required than the roster has")
        return self

    @property
    def training_id(self) -> str:
        """The SHA-256 of the canonical plan, 64 hexadecimal digits."""
        return sha256_hex(self.canonical_bytes())

    @property
    def privacy_mode(self) -> ModeSpec:
        """What the plan's mode says of noise and uploads."""
        return modes.get(self.mode)

    @property
    def cohort(self) -> int:
        """The number of merchants on the roster."""
        return len(self.roster)

    @property
    def sends_moves(self) -> bool:
        """Whether an upload is how far a merchant moved the model in steps of its own, no single gradient."""
        return self.privacy_mode.sends_moves or self.local_steps > 1

    @property
    def input_bytes(self) -> int:
        """What the largest merchant's inputs take as float32 pictures (n, views, channels, size, size)."""
        return 4 * self.records_largest * self.views * self.channels * self.image_size**2

    def key_of(self, name: str) -> bytes:
        """Return the Ed25519 public key of a merchant; ``ProtocolError`` when it's not on the roster."""
        for peer in self.roster:
            if peer.name == name:
                return bytes.fromhex(peer.signing_key)
        raise ProtocolError(f"'{name}' is not on the roster of this training")


def roster_fingerprint(roster: Sequence[Peer]) -> str:
    """Return the SHA-256 that people compare out of band: of all names and keys, in the order of names."""
    entries = sorted([peer.name, peer.signing_key] for peer in roster)
    return sha256_hex(json.dumps(["fedrec/roster/1", entries], separators=(",", ":")).encode())
