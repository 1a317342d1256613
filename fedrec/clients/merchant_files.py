"""Define the files of a merchant's folder: settings, connection record, node key and enrolment file."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Annotated

import tomli_w
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import AfterValidator, BaseModel, ConfigDict

from fedrec._internal.party_names import RULE, name_problem
from fedrec.errors import ConfigError, ConnectionFault
from fedrec.privacy.accounting.entry_contents import Count
from fedrec.privacy.identity import SigningIdentity
from fedrec.protocol.enrolment import ENROLMENT_CONTEXT, Enrolment, Statement
from fedrec.protocol.roster_statements import SignedRotation
from fedrec.protocol.schema import PartyName
from fedrec.vision.folders import Layout
from fedrec.vision.listing.legacy_text import checked_encoding
from fedrec.vision.listing.photo_places import PhotoPlace


def _known_encoding(name: str | None) -> str | None:
    try:
        return None if name is None else checked_encoding(name, option="names_encoding")
    except ConfigError as error:
        raise ValueError(str(error)) from None


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("must be a whole path, from the root on: this program may run in any folder")
    return path


class ClientSettings(BaseModel):
    """The content of ``client.toml``: the merchant's name, and its photos: where and how they lie.

    A training reads names by ``names_encoding`` alone. Without it, names that are not in UTF-8 have numbers.
    In layout "product" the classes are in ``class_folders``, whatever the folders look like.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: PartyName
    data: Annotated[Path, AfterValidator(_absolute)]
    layout: Layout = "class"
    names_encoding: Annotated[str | None, AfterValidator(_known_encoding)] = None
    class_folders: tuple[str, ...] = (".",)

    @property
    def place(self) -> PhotoPlace:
        """The folder of photos, or the CSV file that names them."""
        # Without products, folders are no units, and where the classes are may follow from them.
        fixed = self.class_folders if self.layout == "product" else None
        return PhotoPlace(self.data, self.names_encoding, fixed)


def settings_toml(name: str, place: PhotoPlace, layout: Layout) -> bytes:
    """Write a new ``client.toml``.

    Args:
        name: the merchant's name.
        place: its photos.
        layout: the layout of their folder.

    Returns:
        The file's content.
    """
    values: dict[str, object] = {"name": name, "data": str(place.path.resolve()), "layout": layout}
    if place.names_encoding is not None:
        values["names_encoding"] = place.names_encoding
    if place.class_folders is not None:
        values["class_folders"] = list(place.class_folders)
    return tomli_w.dumps(values).encode()


class Connection(BaseModel):
    """State of the daemon's connection at the time ``at`` (UTC), with the reason if there was none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    connected: bool
    at: str
    reason: str
    fault: ConnectionFault | None = None


def checked_name(name: str) -> str:
    """Return a party's name in NFC; raise ``ConfigError`` if it isn't valid."""
    name = unicodedata.normalize("NFC", name)
    problem = name_problem(name)
    if problem is not None:
        raise ConfigError(f"--name {name!r} {problem}: {RULE}")
    return name


def make_enrolment(
    name: str,
    identity: SigningIdentity,
    node: ec.EllipticCurvePrivateKey,
    count: Count,
    *,
    rotations: tuple[SignedRotation, ...] = (),
) -> Enrolment:
    """Make the signed enrolment of a merchant, for the operator.

    Args:
        name: the merchant's name.
        identity: its signing identity.
        node: its node key, of which the enrolment contains the public half.
        count: the noised count of its units.
        rotations: its last exchanges of the identity key.

    Returns:
        The enrolment.
    """
    statement = Statement(
        name=name,
        signing_key=identity.public.hex(),
        node_key=_public_pem(node),
        unit="product" if count.unit == "product" else "record",
        size=count.size,
    )
    signature = identity.sign(statement.canonical_bytes(), context=ENROLMENT_CONTEXT).hex()
    return Enrolment(statement=statement, signature=signature, rotations=rotations)


def make_witness_enrolment(
    name: str,
    identity: SigningIdentity,
    node: ec.EllipticCurvePrivateKey,
    *,
    rotations: tuple[SignedRotation, ...] = (),
) -> Enrolment:
    """Make the signed enrolment of a witness, for the operator.

    Args:
        name: the witness's name.
        identity: its signing identity.
        node: its node key, of which the enrolment contains the public half.
        rotations: its last exchanges of the identity key.

    Returns:
        The enrolment.
    """
    statement = Statement(
        name=name, signing_key=identity.public.hex(), node_key=_public_pem(node), role="witness"
    )
    signature = identity.sign(statement.canonical_bytes(), context=ENROLMENT_CONTEXT).hex()
    return Enrolment(statement=statement, signature=signature, rotations=rotations)


def _public_pem(node: ec.EllipticCurvePrivateKey) -> str:
    public = node.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return public.decode("ascii")


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Encode a node key as unencrypted PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def read_node_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Read a node key.

    Returns:
        The private key.

    Raises:
        ConfigError: the file can't be read, or has no elliptic-curve key in PEM.
    """
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        what = error.strerror if isinstance(error, OSError) else "it is not a private key in PEM"
        raise ConfigError(f"{path} can't be used: {what}; create another with 'rotate --node-key'") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{path} is not an elliptic-curve key; create another with 'rotate --node-key'")
    return key
