"""Count what the exchanges of a round have transferred."""

from __future__ import annotations

from dataclasses import dataclass

from fedrec.server.message_exchange import Answers, Reply


@dataclass
class Traffic:
    """Bytes, seconds and contributors of a round that is under way."""

    bytes_up: int = 0
    bytes_down: int = 0
    upload_bytes: int = 0
    seconds_train: float = 0.0
    seconds_unmask: float = 0.0
    contributors: tuple[str, ...] = ()

    def count(self, answers: Answers[Reply]) -> None:
        """Add the bytes of one exchange."""
        self.bytes_down += answers.bytes_down
        self.bytes_up += answers.bytes_up
