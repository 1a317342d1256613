"""Build a witness from its folder: key, store, record of openings, request gate and rules."""

from __future__ import annotations

from fedrec.clients.request_gate import RequestGate
from fedrec.clients.store import MerchantStore
from fedrec.clients.witness.home import WitnessHome
from fedrec.clients.witness.openings import Openings
from fedrec.clients.witness.policy import WitnessPolicy
from fedrec.clients.witness.witness import Witness


def open_witness(home: WitnessHome, *, name: str, server_key: str, policy: WitnessPolicy) -> Witness:
    """Open the store, the record of openings and the request gate of a witness's folder.

    Args:
        home: the folder.
        name: the witness's name.
        server_key: the Ed25519 public key of the server whose requests are accepted, 64 hexadecimal digits.
        policy: the witness's rules.

    Returns:
        The witness, usable by the calling thread only.

    Raises:
        ConfigError: the key can't be used.
        LedgerError: a file can't be read, or the record of openings is older than the store.
    """
    return Witness(
        name=name,
        identity=home.identity(),
        store=MerchantStore(home.store),
        openings=Openings(home.openings),
        gate=RequestGate(home.requests, merchant=name, server_key=server_key),
        policy=policy,
    )
