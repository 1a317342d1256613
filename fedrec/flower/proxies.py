"""Find the proxy through which a server is reached, as the environment names it."""

from __future__ import annotations

import ipaddress
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Final
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies

from fedrec._internal.host_names import ascii_host
from fedrec._internal.pip_command import pip_command
from fedrec.errors import ConfigError

_VARIABLES: Final = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
"""In the order in which they count; an empty one in small letters switches its pair off."""
_SOCKS: Final = {"socks5": "socks5", "socks5h": "socks5h", "socks": "socks5h"}
"""Schemes of proxies that are reached with an extra. Some desktops write 'socks' for SOCKS 5."""
_PORTS: Final = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}


@dataclass(frozen=True)
class Proxy:
    """A proxy, and where it is named.

    Attributes:
        url: its address for the HTTP client, with user name and password if there are any.
        shown: the address for people, without them.
        named_by: the environment's variable that names it.
    """

    url: str = field(repr=False)
    shown: str
    named_by: str

    def __str__(self) -> str:
        return f"the proxy {self.shown} of {self.named_by}"


def proxy_for(address: str, *, environment: Mapping[str, str] | None = None) -> Proxy | None:
    """Find the proxy for a server.

    Args:
        address: host:port of the server, which speaks HTTPS.
        environment: the environment's variables, by default those of this process.

    Returns:
        The proxy; None where the server is reached directly.

    Raises:
        ConfigError: the proxy that is named can't be used; the text names it without its password.
    """
    variables = os.environ if environment is None else environment
    named_by, named = _named(variables, system=environment is None)
    if not named or _is_excepted(address, variables.get("no_proxy") or variables.get("NO_PROXY") or ""):
        return None
    return _read(named, named_by, address)


def _named(variables: Mapping[str, str], *, system: bool) -> tuple[str, str]:
    """Return the variable that counts, and its value; two empty texts if no proxy is named."""
    off: set[str] = set()
    for name in _VARIABLES:
        value = variables.get(name, "").strip()
        if value and name.lower() not in off:
            return name, value
        if name in variables:
            off.add(name.lower())
    if system and sys.platform in ("win32", "darwin") and not off:
        found = getproxies()
        return "this computer's settings", found.get("https", "") or found.get("all", "")
    return "", ""


def _read(named: str, named_by: str, address: str) -> Proxy:
    """Read a proxy's address; ``ConfigError`` if it can't be used."""
    whole = named if "://" in named else f"http://{named}"
    # Also of one that can't be read, nothing is shown that may be a password.
    shown = re.sub(r"//.*@", "//", whole, flags=re.DOTALL)
    advice = f"correct {named_by}, or name {_host(address)} in NO_PROXY to reach it directly"
    if not shown.isprintable():
        raise ConfigError(f"the proxy that {named_by} names holds characters that no address has: {advice}")
    try:
        parts = urlsplit(whole)
        port = parts.port
        if parts.path.strip("/") or parts.query or parts.fragment:
            raise ValueError("more than an address")
    except ValueError:
        # The text of the error may quote a part of the password.
        raise ConfigError(
            f"the proxy that {named_by} names can't be read as SCHEME://USER:PASSWORD@HOST:PORT, where other "
            f"signs than letters and digits in a password are written as in %2F: {advice}"
        ) from None
    scheme = parts.scheme.lower()
    if scheme not in ("http", "https") and scheme not in _SOCKS:
        raise ConfigError(
            f"the proxy {shown} of {named_by} is of a kind that isn't supported; http, https and socks5 are: "
            f"{advice}"
        )
    if not parts.hostname or any(sign.isspace() for sign in parts.hostname):
        raise ConfigError(f"the proxy {shown} of {named_by} names no host: {advice}")
    if scheme in _SOCKS and find_spec("socksio") is None:
        raise ConfigError(
            f"the proxy {shown} of {named_by} speaks SOCKS, which takes a package that is not installed: "
            f"{pip_command('fedrec[socks]')}; or name {_host(address)} in NO_PROXY to reach it directly"
        )
    scheme = _SOCKS.get(scheme, scheme)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    place = f"{host}:{_PORTS[scheme] if port is None else port}"
    user = whole.partition("://")[2].rpartition("@")[0] + "@" if parts.username is not None else ""
    return Proxy(f"{scheme}://{user}{place}", f"{scheme}://{place}", named_by)


def _is_excepted(address: str, exceptions: str) -> bool:
    """Return whether ``NO_PROXY`` names a server: by name, by a name that it lies below, or by a range."""
    host, _, port = address.rpartition(":")
    host = _ascii(unquote(host).strip("[]").rstrip(".").lower())
    for entry in re.split(r"[,\s]+", exceptions.lower()):
        name = entry.partition("://")[2] or entry
        if name == "*":
            return True
        with_port = re.fullmatch(r"(\[[0-9a-f:.]+\]|[^:\[\]]+):([0-9]+)", name)
        if with_port is not None:
            if with_port[2] != port:
                continue
            name = with_port[1]
        if name and _covers(_ascii(name.strip("[]").rstrip(".")), host):
            return True
    return False


def _covers(name: str, host: str) -> bool:
    if "*" in name.lstrip("*"):
        # As Windows and Java write ranges: 192.168.*, *.shop.*
        return re.fullmatch(re.escape(name).replace(r"\*", ".*"), host) is not None
    try:
        number = ipaddress.ip_address(host)
    except ValueError:
        plain = name.removeprefix("*").removeprefix(".")
        return bool(plain) and (host == plain or host.endswith(f".{plain}"))
    try:
        return number in ipaddress.ip_network(name, strict=False)
    except ValueError:
        return False


def _ascii(host: str) -> str:
    try:
        return ascii_host(host)
    except ValueError:
        return host


def _host(address: str) -> str:
    return address.rpartition(":")[0].strip("[]")
