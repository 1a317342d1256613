"""Keep the replies of a campaign's merchants on disk until its sum is opened.

A reply is stored before it counts, and read again as strictly as it was when it came: a file may have been
changed since. What a file holds is encrypted or signed, but an observer of the folder would learn who took
part, so that only the server's user may read it.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from fedrec._internal.files import sync_folder, write_atomically
from fedrec.errors import ProtocolError
from fedrec.protocol.messages import TrainReply, UnmaskReply
from fedrec.protocol.reply_encoding import decode_reply, encode_reply
from fedrec.protocol.shape import shape_of
from fedrec.server.window.campaign_files import CampaignFiles

_HEADER_BYTES = 1 << 16
"""More than the names and lengths of a reply's blobs take."""

Stored = TypeVar("Stored", TrainReply, UnmaskReply)


class StoredReplies:
    """The uploads and answers of one campaign.

    Args:
        files: the campaign's files.
        upload_bytes: most bytes of the blobs of an upload.
        answer_bytes: most bytes of the blobs of an answer.
    """

    def __init__(self, files: CampaignFiles, *, upload_bytes: int, answer_bytes: int) -> None:
        self._files = files
        self._upload_bytes, self._answer_bytes = upload_bytes, answer_bytes

    def keep(self, merchant: str, reply: TrainReply | UnmaskReply, blobs: Mapping[str, bytes]) -> None:
        """Store a reply, durably and readable by the server's user alone.

        Args:
            merchant: the merchant that it came from.
            reply: its body.
            blobs: its blobs by name.
        """
        self._files.make_folder()
        path = self._files.path("upload" if isinstance(reply, TrainReply) else "answer", merchant)
        write_atomically(path, encode_reply(reply, blobs), mode=0o600)

    def upload(self, merchant: str) -> tuple[TrainReply, dict[str, bytes]] | None:
        """Return a merchant's stored upload, None if there is none; raise ``ProtocolError`` if damaged."""
        return _read(self._files.path("upload", merchant), TrainReply, most_blob_bytes=self._upload_bytes)

    def answer(self, member: str) -> tuple[UnmaskReply, dict[str, bytes]] | None:
        """Return a member's stored answer, None if there is none; raise ``ProtocolError`` if damaged."""
        return _read(self._files.path("answer", member), UnmaskReply, most_blob_bytes=self._answer_bytes)

    def drop_upload(self, merchant: str) -> None:
        """Delete a stored upload that can't be used."""
        self._files.path("upload", merchant).unlink(missing_ok=True)
        sync_folder(self._files.folder)

    def delete(self) -> None:
        """Delete all files of the campaign, once its outcome is stored elsewhere."""
        shutil.rmtree(self._files.folder, ignore_errors=True)


def _read(path: Path, kind: type[Stored], *, most_blob_bytes: int) -> tuple[Stored, dict[str, bytes]] | None:
    if not path.exists():
        return None
    if path.stat().st_size > most_blob_bytes + shape_of(kind).bytes + _HEADER_BYTES:
        raise ProtocolError("the stored reply is too large")
    reply, blobs = decode_reply(path.read_bytes(), kind)
    if sum(map(len, blobs.values())) > most_blob_bytes:
        raise ProtocolError("the blobs of the stored reply are too large")
    return reply, blobs
