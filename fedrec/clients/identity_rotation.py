"""Exchange a merchant's identity key while its ledger, and so its lifetime budget, goes on."""

from __future__ import annotations

from fedrec._internal.files import write_atomically
from fedrec.clients.identity_file import adopt, read_identity, successor
from fedrec.clients.merchant_home import MerchantHome
from fedrec.clients.store import MerchantStore
from fedrec.errors import ConfigError
from fedrec.privacy.accounting.ledger import Ledger
from fedrec.privacy.endorsements import sign_rotation
from fedrec.privacy.identity import verify


def rotate_identity(home: MerchantHome) -> None:
    """Exchange the identity key; the node key and the enrolment file stay as they are.

    The new key is on disk before the ledger has the exchange, and takes the old one's place afterwards. A
    crash in between leaves either the old key with a ledger that doesn't know the new one, or a ledger with
    the exchange, whose key :meth:`MerchantHome.identity` then moves to its place.

    Args:
        home: the merchant's folder.

    Raises:
        ConfigError: a training is open here, whose plan names the present key, or a key can't be used.
        LedgerError: the ledger is damaged, or another process has it open.
    """
    old, name = home.identity(), home.settings().name
    with Ledger(home.ledger, signer=old, verify=verify) as ledger:
        # No daemon runs now, which could join one: it would have the ledger open.
        _check_no_training(home)
        write_atomically(home.next_identity_file, successor(old), mode=0o600)
        new = read_identity(home.next_identity_file)
        ledger.rotate(sign_rotation(name, old=old, new=new), signer=new)
        adopt(home.identity_file, waiting=home.next_identity_file)


def _check_no_training(home: MerchantHome) -> None:
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
            "it on this machine with 'fedrec client forget'; 'fedrec client rotate --node-key' exchanges the "
            "node key alone, at any time"
        )
