"""An editor's questions, asked of pyright's language server over its own protocol (LSP 3.17)."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


class LanguageServer:
    """A running ``basedpyright-langserver``, told of one folder and of one Python."""

    def __init__(self, process: subprocess.Popen[bytes], *, python: Path) -> None:
        self._process, self._python, self._number = process, python, 0

    def definition(self, file: Path, *, name: str) -> Path:
        """Return the file where the editor lands that asks for a name which ``file`` imports on one line."""
        text = file.read_text("utf-8")
        found = re.search(rf"^from .* import .*\b{name}\b", text, re.MULTILINE)
        assert found is not None, f"{file} doesn't import {name}"
        place = {"line": text.count("\n", 0, found.end()), "character": len(found.group()) - 1}
        document = {"uri": file.as_uri(), "languageId": "python", "version": 1, "text": text}
        self.tell("textDocument/didOpen", {"textDocument": document})
        identifier = {"uri": file.as_uri()}
        places = self.ask("textDocument/definition", {"textDocument": identifier, "position": place})
        self.tell("textDocument/didClose", {"textDocument": identifier})
        return Path(unquote(urlsplit(places[0]["uri"]).path))

    def ask(self, method: str, parameters: dict[str, Any]) -> Any:
        """Send a request and return its result; answer what the server asks meanwhile."""
        self._number += 1
        self._send({"id": self._number, "method": method, "params": parameters})
        while True:
            message = self._receive()
            if message.get("method") == "workspace/configuration":
                settings = [{"pythonPath": str(self._python)} for _ in message["params"]["items"]]
                self._send({"id": message["id"], "result": settings})
            elif "method" in message and "id" in message:
                self._send({"id": message["id"], "result": None})
            elif message.get("id") == self._number:
                return message["result"]

    def tell(self, method: str, parameters: dict[str, Any]) -> None:
        """Send a notification."""
        self._send({"method": method, "params": parameters})

    def _send(self, message: dict[str, Any]) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        assert self._process.stdin is not None
        self._process.stdin.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        self._process.stdin.flush()

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        length = 0
        while line := self._process.stdout.readline().strip():
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        assert length, "the language server ended"
        message: dict[str, Any] = json.loads(self._process.stdout.read(length))
        return message


@contextmanager
def language_server(program: Path, *, folder: Path, python: Path) -> Iterator[LanguageServer]:
    """Start a language server on a folder, with the packages that a Python has; it ends with the block."""
    pipe = subprocess.PIPE
    with subprocess.Popen([program, "--stdio"], stdin=pipe, stdout=pipe, start_new_session=True) as process:
        try:
            server = LanguageServer(process, python=python)
            server.ask(
                "initialize",
                {
                    "processId": None,
                    "rootUri": folder.as_uri(),
                    "capabilities": {"workspace": {"configuration": True}},
                    "workspaceFolders": [{"uri": folder.as_uri(), "name": "folder"}],
                },
            )
            server.tell("initialized", {})
            yield server
        finally:
            # The program is a wrapper: the server itself is a process behind it.
            os.killpg(process.pid, signal.SIGKILL)
