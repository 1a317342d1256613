"""The files by which a server shows who it is, as TLS takes them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Certificates:
    """PEM files: the authority's certificate, the server's, and the server's private key."""

    authority: Path
    certificate: Path
    key: Path
