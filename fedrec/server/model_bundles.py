"""Make the model bundle of a finished training, and offer it to the merchants of its roster."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shlex
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, cast

from fedrec._internal.files import Stamp, stamp_of
from fedrec._internal.text import one_line
from fedrec.errors import ConfigError, ServiceError
from fedrec.flower.downloads import Download
from fedrec.privacy.identity import SigningIdentity
from fedrec.protocol.bundle_offer import (
    BUNDLE_CONTEXT,
    MODELS,
    BundleOffer,
    OfferedFile,
    Part,
    SignedBundleOffer,
)
from fedrec.recognition.bundle.manifest import GRAPH, MANIFEST
from fedrec.recognition.bundle.places import BUNDLE
from fedrec.server.node_keys import flower_key
from fedrec.server.server_home import ServerHome
from fedrec.server.trainings import Training, all_trainings

_log = logging.getLogger(__name__)

_PATH: Final = re.compile(re.escape(MODELS) + r"([0-9a-f]{64})/(offer|manifest|graph)")
_FILES: Final = {"manifest": MANIFEST, "graph": GRAPH}


def _make(training: Path, folder: Path) -> None:
    # Exporting needs packages of an extra, and takes seconds to import.
    from fedrec.recognition.export.bundles import make_bundle, write_bundle
    from fedrec.recognition.export.sources import trained_source

    write_bundle(make_bundle(trained_source(training)), folder)


def export_bundle(training: Training, *, make: Callable[[Path, Path], None] = _make) -> str | None:
    """Make the bundle of a training that is done, from its public model and report alone.

    Args:
        training: the training.
        make: makes the bundle of a training's folder in a new folder.

    Returns:
        A warning for the operator; None if the bundle is there.
    """
    folder = training.folder / BUNDLE
    if folder.exists():
        return None
    try:
        make(training.folder, folder)
    # The training is done whatever the export, which runs a user's own network, may meet.
    except Exception as error:
        warning = (
            f"no model bundle was made ({one_line(error, most=200)}): make it by "
            f"'fedrec model export {shlex.quote(str(training.folder))} --out {shlex.quote(str(folder))}'"
        )
        _log.warning("training %s: %s", training.number, warning)
        _log.debug("the exception that ended the export:", exc_info=True)
        return warning
    _log.info("training %s: the model bundle is in %s", training.number, folder)
    return None


class BundleOffers:
    """Answers the requests of merchants for the bundles of trainings that are done.

    A bundle is for the merchants of its training's roster that are still enrolled. Thread-safe.

    Args:
        home: the server's folder.
    """

    def __init__(self, home: ServerHome) -> None:
        self._home = home
        self._mutex = threading.Lock()
        self._ids: dict[Path, str] = {}
        self._digests: dict[Path, tuple[Stamp, OfferedFile]] = {}

    def __call__(self, key: bytes, path: str) -> Download | None:
        """Return what a merchant may download.

        Args:
            key: the merchant's node key, in the form that Flower uses.
            path: the path that it asked for.

        Returns:
            The download; None where there is none for this merchant.
        """
        found = _PATH.fullmatch(path)
        if found is None:
            return None
        training_id, part = found[1], cast(Part, found[2])
        try:
            training = self._training(training_id)
            if training is None or not self._may_have(key, training):
                return None
            folder = training.folder / BUNDLE
            if part == "offer":
                return Download.of_bytes(self._offer(training_id, folder).canonical_bytes())
            return Download.of_file((folder / _FILES[part]).open("rb"))
        except FileNotFoundError:
            return None
        except (OSError, ServiceError, ConfigError) as error:
            _log.error("a merchant asked for the bundle of training %s: %s", training_id[:12], error)
            return None

    def _training(self, training_id: str) -> Training | None:
        for training in all_trainings(self._home.trainings):
            known = self._ids.get(training.folder)
            try:
                if training.status()[0] != "done":
                    continue
                if known is None:
                    known = self._ids[training.folder] = training.plan().training_id
            except ServiceError:
                # A damaged one takes no other's model from its merchants.
                continue
            if known == training_id:
                return training
        return None

    def _may_have(self, key: bytes, training: Training) -> bool:
        mine = [entry for entry in self._home.enrolled() if flower_key(entry.node_key) == key]
        roster = {(peer.name, peer.signing_key) for peer in training.plan().roster}
        book = self._home.statements()
        return any(
            (entry.name, key) in roster
            for entry in mine
            for key in (entry.signing_key, *book.earlier_keys(entry.signing_key))
        )

    def _offer(self, training_id: str, folder: Path) -> SignedBundleOffer:
        # One at a time: a large graph is hashed once, not by each who waits for it.
        with self._mutex:
            statement = BundleOffer(
                training_id=training_id,
                manifest=self._described(folder / MANIFEST),
                graph=self._described(folder / GRAPH),
            )
        return signed_offer(statement, self._home.identity())

    def _described(self, path: Path) -> OfferedFile:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            stamp = stamp_of(found)
            kept = self._digests.get(path)
            if kept is None or kept[0] != stamp:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                kept = self._digests[path] = stamp, OfferedFile(sha256=digest, bytes=found.st_size)
        return kept[1]


def signed_offer(statement: BundleOffer, identity: SigningIdentity) -> SignedBundleOffer:
    """Sign what the server has of a training.

    Args:
        statement: the bundle's files.
        identity: the server's key.

    Returns:
        The signed offer.
    """
    signature = identity.sign(statement.canonical_bytes(), context=BUNDLE_CONTEXT)
    return SignedBundleOffer(statement=statement, signature=signature.hex())
