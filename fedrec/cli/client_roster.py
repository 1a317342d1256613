"""Accept a changed roster without a fingerprint where a merchant's policy allows it, and say why not."""

from __future__ import annotations

from fedrec.cli.wrapping import say
from fedrec.clients.merchant_home import MerchantHome
from fedrec.clients.policy import MerchantPolicy
from fedrec.clients.roster_updates import RosterFollower
from fedrec.errors import ConfigError
from fedrec.protocol.enrolment import JoinFile


def accepted_by_statements(home: MerchantHome, found: JoinFile) -> bool:
    """Accept a join file of the merchant's own server whose roster follows from the approved one.

    Args:
        home: the merchant's folder.
        found: the join file.

    Returns:
        Whether it was accepted. If not, a person must approve it, and the reasons were shown.

    Raises:
        ConfigError: the confirmed join file or a key can't be used.
    """
    if not home.has_joined:
        return False
    kept = home.joined()
    if (kept.address, kept.authority, kept.server_key) != (found.address, found.authority, found.server_key):
        return False
    follower = RosterFollower(home)
    try:
        # Without the roster of the confirmed join file, which this one is about to replace.
        policy = MerchantPolicy.load(home.folder / "policy.toml")
        outcome = follower.review(found.update, policy=policy)
    except ConfigError as error:
        say(f"by hand     {error}")
        return False
    for problem in outcome.problems:
        say(f"by hand     {problem}")
    if outcome.problems:
        for change in outcome.changes:
            say(f"also        {change}")
        return False
    follower.accept(outcome, found.update)
    for change in outcome.changes:
        say(f"accepted    {change}")
    say(
        "The roster is kept, without a fingerprint: it follows from what you approved before."
        if outcome.changes
        else "This roster is approved already: nothing changed."
    )
    return True
