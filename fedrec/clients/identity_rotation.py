"""Exchange a party's identity key while a merchant's ledger, or a witness's record of openings, goes on."""

from __future__ import annotations

from fedrec._internal.files import write_atomically
from fedrec.clients.identity_file import adopt, read_identity, successor
from fedrec.clients.party_home import PartyHome
from fedrec.clients.store import MerchantStore
from fedrec.errors import ConfigError
from fedrec.privacy.endorsements import sign_rotation


def rotate_identity(home: PartyHome) -> None:
    """Exchange the identity key; the node key and the enrolment file stay as they are.

    The new key is on disk before the exchange is on record, and takes the old one's place afterwards. A
    crash in between leaves either the old key with a record that doesn't know the new one, or a record of the
    exchange, whose key :meth:`PartyHome.identity` then moves to its place.

    Args:
        home: the party's folder.

    Raises:
        ConfigError: a training is open here, whose plan names the present key, or a key can't be used.
        LedgerError: the ledger or the record of openings is damaged, or another process has it open.
    """
    old, name = home.identity(), home.name
    with home.record_exchange(old) as record:
        # No daemon runs now, which could join one: it would have the record open.
        _check_no_training(home)
        write_atomically(home.next_identity_file, successor(old), mode=0o600)
        new = read_identity(home.next_identity_file)
        record(sign_rotation(name, old=old, new=new), new)
        adopt(home.identity_file, waiting=home.next_identity_file)


def _check_no_training(home: PartyHome) -> None:
    if not home.store.exists():
        return
    store = MerchantStore(home.store)
    try:
        still_open = store.open_trainings()
    finally:
        store.close()
    if still_open:
        raise ConfigError(
            f"training {still_open[0][:16]} is open here and names the present key: let it end first, or end "
            f"it on this machine with 'fedrec {home.command} forget'; 'fedrec {home.command} rotate "
            "--node-key' exchanges the node key alone, at any time"
        )
