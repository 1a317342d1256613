"""Read the address at which merchants reach a server, as an operator writes it, and the server's settings."""

from __future__ import annotations

import re
from contextlib import suppress
from ipaddress import IPv6Address
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictInt

from fedrec._internal.host_names import ascii_host, is_host
from fedrec.errors import ConfigError

_HOST: Final = r"\[[0-9A-Fa-f:]+\]|[A-Za-z0-9_.\-]+"
_ADDRESS: Final = re.compile(rf"({_HOST}):([0-9]{{1,5}})")
_USUAL_PORT: Final = 8443


def parse_address(given: str, *, option: str = "--address ") -> tuple[str, int]:
    """Return the host and the port of an address.

    Args:
        given: HOST:PORT; the host may be a name in any script, an IPv4 address, or an IPv6 one in brackets.
        option: what begins the message of an error.

    Returns:
        The host, in ASCII and with an IPv6 address's brackets, and the port.

    Raises:
        ConfigError: it is not HOST:PORT; the message says what to write.
    """
    host, _, port = given.rpartition(":")
    with suppress(ValueError):
        host = ascii_host(host)
    found = _ADDRESS.fullmatch(f"{host}:{port}")
    if found is None or not is_host(host) or not _is_port(port):
        raise ConfigError(
            f"{option}{given} is not HOST:PORT: write the name or the IP address at which merchants reach "
            f"this server, a colon and a port from 1 to 65535, as in {_example(given)}"
        )
    return found[1], int(port)


def _kept(address: str) -> str:
    try:
        host, port = parse_address(address, option="")
    except ConfigError as error:
        raise ValueError(str(error)) from None
    return f"{host}:{port}"


class ServerSettings(BaseModel):
    """The content of ``server.toml``: where merchants reach the server, and where it listens."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    address: Annotated[str, AfterValidator(_kept)]
    listen: Annotated[str, Field(min_length=1, max_length=255)]
    port: Annotated[StrictInt, Field(ge=1, le=65535)]


def _is_port(text: str) -> bool:
    return re.fullmatch("[0-9]{1,5}", text) is not None and 1 <= int(text) <= 65535


def _example(given: str) -> str:
    """Return an address in the right form that keeps as much of a wrong one as can be kept."""
    # People paste the address of a web page, leave the port out, or forget the brackets of IPv6.
    bare = re.split(r"[/?#]", given.strip().rpartition("://")[2])[0].rpartition("@")[2]
    with suppress(ValueError):
        return f"[{IPv6Address(bare.strip('[]'))}]:{_USUAL_PORT}"
    host, _, port = bare.partition(":")
    with suppress(ValueError):
        if re.fullmatch(_HOST, ascii_host(host)) and is_host(ascii_host(host)):
            return f"{host}:{port if _is_port(port) else _USUAL_PORT}"
    return f"shop.example:{_USUAL_PORT}"
