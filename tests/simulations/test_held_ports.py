"""A port that a test names before its server starts is nobody else's until then."""

from __future__ import annotations

import socket
import sys

import pytest

from fedrec._internal.host_names import LOOPBACK
from fedrec.simulations.federation import HeldPort


@pytest.mark.skipif(sys.platform != "linux", reason="no other system lets a server listen beside the socket")
def test_a_held_port_is_free_for_the_server_it_is_for_and_for_no_other() -> None:
    held = HeldPort()
    address = (LOOPBACK, held.number)
    for _ in range(2):
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(address)
        # As every server of ours binds, also when it is started again.
        with socket.create_server(address) as server, socket.create_connection(address, timeout=30):
            server.accept()[0].close()
    held.close()
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(address)
