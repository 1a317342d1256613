"""Name the files of a TLS server's certificate."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Certificates:
    """PEM files: the authority's certificate, the server's, and the server's private key."""

    authority: Path
    certificate: Path
    key: Path
