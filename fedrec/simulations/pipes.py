"""Send frames of bytes over a socket pair, between this process and its own worker."""

from __future__ import annotations

import socket
import struct

_LENGTH = struct.Struct(">Q")


def send_frame(pipe: socket.socket, kind: bytes, data: bytes = b"") -> None:
    """Send one frame.

    Args:
        pipe: the socket.
        kind: kind of the frame, one byte.
        data: its content.
    """
    pipe.sendall(_LENGTH.pack(len(data)) + kind)
    pipe.sendall(data)


def receive_frame(pipe: socket.socket) -> tuple[bytes, bytes]:
    """Receive one frame: its kind and content; raise ``EOFError`` if the other side is gone."""
    head = _receive(pipe, _LENGTH.size + 1)
    (length,) = _LENGTH.unpack_from(head)
    return head[_LENGTH.size :], _receive(pipe, length)


def _receive(pipe: socket.socket, length: int) -> bytes:
    data = bytearray(length)
    view, done = memoryview(data), 0
    while done < length:
        try:
            count = pipe.recv_into(view[done:])
        except ConnectionError:
            count = 0
        if count == 0:
            raise EOFError("the other side of the pipe is gone")
        done += count
    view.release()
    return bytes(data)
