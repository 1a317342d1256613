"""Fetch the model bundle of a training that this merchant took part in, from its server, by hash."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fedrec._internal.files import sync_folder
from fedrec._internal.text import listed
from fedrec.clients.merchant_home import MerchantHome
from fedrec.clients.store_view import read_store, readable_plan
from fedrec.errors import ConfigError, ProtocolError, RefusedError
from fedrec.flower.model_link import ModelLink
from fedrec.privacy.identity import verify
from fedrec.protocol.bundle_offer import (
    BUNDLE_CONTEXT,
    MOST_OFFER_BYTES,
    BundleOffer,
    SignedBundleOffer,
    part_path,
)
from fedrec.protocol.plan import TrainingPlan
from fedrec.protocol.reading import read_json
from fedrec.protocol.schema import sha256_hex
from fedrec.recognition.bundle.card import card
from fedrec.recognition.bundle.manifest import (
    CARD,
    GRAPH,
    LARGEST_MANIFEST,
    MANIFEST,
    Manifest,
    read_manifest,
)
from fedrec.recognition.extra import require_packages
from fedrec.recognition.model import open_model

MOST_BYTES: Final = 256 << 20
"""Largest bundle that is fetched unless the merchant says otherwise."""
_SHOWN_DIGITS = 16


def fetch_model(
    home: MerchantHome,
    out: Path,
    *,
    training: str | None = None,
    most_bytes: int = MOST_BYTES,
    step: Callable[[str], None] = lambda text: None,
) -> Manifest:
    """Fetch a bundle, check it, and write it to a new folder.

    The server signs the sizes and hashes of manifest and graph. Nothing is read that is larger than signed,
    nothing is used before its hash is checked, and the model card is written anew from the manifest.

    Args:
        home: the merchant's folder.
        out: the new folder.
        training: the beginning of a training's id; None for the last one that was closed here.
        most_bytes: the merchant's own limit on the bundle's size.
        step: told what is done next.

    Returns:
        The bundle's manifest.

    Raises:
        ConfigError: the merchant took part in no such training, or the folder exists.
        RefusedError: the bundle is larger than the merchant allows.
        ProtocolError: what the server sent isn't signed by it, or isn't of this training.
        ConnectionLostError: the server can't be reached, or its answer can't be read.
        NotAdmittedError: the server doesn't admit this merchant's key.
        DataError: the bundle can't be used.
        MissingExtraError: onnx or onnxruntime isn't installed.
    """
    require_packages("onnx", "onnxruntime", purpose="a model bundle")
    if out.exists():
        raise ConfigError(f"{out} exists already: name a new folder with --out")
    plan, join = _chosen(home, training), home.joined()
    with ModelLink(address=join.address, ca=home.authority, key=home.node_key()) as link:
        fetching = _Fetching(link, plan, most_bytes=most_bytes)
        offer = fetching.offer(server_key=join.server_key)
        out.parent.mkdir(parents=True, exist_ok=True)
        making = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        try:
            making.chmod(0o755)
            step(f"fetching {offer.graph.bytes / 1e6:.1f} MB from {join.address}")
            manifest = fetching.manifest(offer, making / MANIFEST)
            fetching.graph(offer, making / GRAPH)
            (making / CARD).write_text(card(manifest), "utf-8")
            step("checking the model")
            open_model(making)
            making.rename(out)
            sync_folder(out.parent)
        finally:
            shutil.rmtree(making, ignore_errors=True)
    return manifest


def _chosen(home: MerchantHome, beginning: str | None) -> TrainingPlan:
    """Return the plan of one training that this merchant joined."""
    stored = read_store(home.store)
    plans = [plan for raw in stored.plans if (plan := readable_plan(raw)) is not None]
    if not plans:
        raise ConfigError("this merchant has joined no training: there is no model for it")
    if beginning is None:
        still_open = None if stored.open_plan is None else sha256_hex(stored.open_plan)
        closed = [plan for plan in plans if plan.training_id != still_open]
        return (closed or plans)[-1]
    found = [plan for plan in plans if plan.training_id.startswith(beginning)]
    if len(found) != 1:
        shown = listed([plan.training_id[:_SHOWN_DIGITS] for plan in plans])
        raise ConfigError(
            f"--training {beginning} is not the beginning of one training; joined were: {shown}"
        )
    return found[0]


@dataclass(frozen=True)
class _Fetching:
    """Fetches the parts of one training's bundle.

    Attributes:
        link: the connection.
        plan: the training's plan, as the merchant joined it.
        most_bytes: the merchant's limit.
    """

    link: ModelLink
    plan: TrainingPlan
    most_bytes: int

    def offer(self, *, server_key: str) -> BundleOffer:
        raw = self.link.small(part_path(self._id, "offer"), most=MOST_OFFER_BYTES)
        if raw is None:
            raise ConfigError(
                f"the server has no model of training {self._id[:_SHOWN_DIGITS]} for this merchant: it isn't "
                "done, or its bundle was not made; ask the operator"
            )
        signed = read_json(raw, SignedBundleOffer)
        offer = signed.statement
        signature = bytes.fromhex(signed.signature)
        if not verify(bytes.fromhex(server_key), offer.canonical_bytes(), signature, context=BUNDLE_CONTEXT):
            raise ProtocolError("the model that was offered is not signed by the server of the join file")
        if offer.training_id != self._id:
            raise ProtocolError("the server offers the model of another training")
        if offer.manifest.bytes > LARGEST_MANIFEST:
            raise ProtocolError(f"the model's {MANIFEST} is larger than {LARGEST_MANIFEST:,} bytes")
        if (size := offer.manifest.bytes + offer.graph.bytes) > self.most_bytes:
            raise RefusedError(
                f"the model has {size / 1e6:,.0f} MB, and {self.most_bytes / 1e6:,.0f} are allowed: "
                "see --most-mb"
            )
        return offer

    def manifest(self, offer: BundleOffer, path: Path) -> Manifest:
        told = offer.manifest
        with path.open("wb") as file:
            self.link.fetch(part_path(self._id, "manifest"), file, size=told.bytes, sha256=told.sha256)
        manifest = read_manifest(path.read_bytes(), where=f"the server's {MANIFEST}")
        if (manifest.graph.sha256, manifest.graph.bytes) != (offer.graph.sha256, offer.graph.bytes):
            raise ProtocolError("the model's manifest names another graph than the server has signed")
        if manifest.training is None or manifest.training.training_id != self._id:
            raise ProtocolError("the model's manifest is of another training")
        if not self._fits_plan(manifest):
            raise ProtocolError("the model's manifest doesn't fit the plan of its training")
        return manifest

    def _fits_plan(self, manifest: Manifest) -> bool:
        """Tell whether what the plan says stands in the manifest; epsilon is the server's own statement."""
        plan, training, privacy = self.plan, manifest.training, manifest.privacy
        if training is None or privacy is None:
            return False
        private = plan.noise_multiplier is not None
        return (
            (manifest.model, manifest.model_code, manifest.classes)
            == (plan.model, plan.model_code, plan.classes)
            and (training.deployed, training.merchants) == (True, len(plan.roster))
            and training.records == plan.records_total
            and (privacy.mode, privacy.unit, privacy.scheme) == (plan.mode, plan.unit, plan.scheme)
            and privacy.delta == (plan.delta if private else None)
            and (privacy.epsilon is not None) == private
        )

    def graph(self, offer: BundleOffer, path: Path) -> None:
        told = offer.graph
        with path.open("wb") as file:
            self.link.fetch(part_path(self._id, "graph"), file, size=told.bytes, sha256=told.sha256)

    @property
    def _id(self) -> str:
        return self.plan.training_id
