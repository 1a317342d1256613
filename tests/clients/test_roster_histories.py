"""Random histories of a federation under an adversary: nobody whom no honest merchant met is ever accepted.

The adversary has the server and two of six merchants, and every key that was exchanged once the merchant
under test has seen the exchange. It keeps all statements, and shows them with any roster in any order. Who is
real is what the test knows, not what the rules say.
"""

from __future__ import annotations

import random
from datetime import date

import pytest

from fedrec.clients.approvals import Approvals, Review, Rules, review
from fedrec.privacy.endorsements import sign_rotation, sign_vouch
from fedrec.privacy.identity import SigningIdentity
from fedrec.protocol.plan import Peer
from fedrec.protocol.roster_statements import RosterUpdate, SignedRotation, SignedVouch, Vouch

FEDERATION = "aa" * 32
HONEST, CORRUPT = ("h1", "h2", "h3"), ("x1", "x2")


class History:
    """A federation as it truly is, and what the adversary has gathered."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.keys = {name: SigningIdentity.generate() for name in ("me", *HONEST, *CORRUPT)}
        self.real = {name: {key.public.hex()} for name, key in self.keys.items()}
        self.exchanged: list[tuple[str, SigningIdentity]] = []
        self.stolen = {name: [self.keys[name]] for name in CORRUPT}
        self.vouches: list[SignedVouch] = []
        self.rotations: list[SignedRotation] = []
        self.approvals = Approvals(federation=FEDERATION).by_hand(self.roster(), federation=FEDERATION)

    def roster(self) -> list[Peer]:
        return [Peer(name=name, signing_key=key.public.hex()) for name, key in self.keys.items()]

    def vouch(self, voucher: str, key: SigningIdentity, whom: Peer) -> None:
        statement = Vouch(
            federation=FEDERATION,
            peer=whom,
            node_key_hash="cc" * 32,
            voucher=voucher,
            voucher_key=key.public.hex(),
            last_day="2027-01-01",
        )
        self.vouches.append(sign_vouch(statement, voucher=key))

    def newcomer(self, name: str) -> None:
        """A shop that all honest merchants met."""
        key = self.keys[name] = SigningIdentity.generate()
        self.real[name] = {key.public.hex()}
        for voucher in HONEST:
            self.vouch(voucher, self.keys[voucher], Peer(name=name, signing_key=key.public.hex()))

    def exchange(self) -> None:
        name = self.draw.choice([name for name in self.keys if name not in ("me", *CORRUPT)])
        old, new = self.keys[name], SigningIdentity.generate()
        self.keys[name] = new
        self.real[name].add(new.public.hex())
        self.exchanged.append((name, old))
        self.rotations.append(sign_rotation(name, old=old, new=new))

    def leave(self) -> None:
        shops = [name for name in self.keys if name.startswith("n")]
        if shops:
            del self.keys[self.draw.choice(shops)]

    def attacked(self) -> list[Peer]:
        """A roster with an invented merchant, or with the adversary's key under a real one's name."""
        roster, key = self.roster(), SigningIdentity.generate()
        names = [peer.name for peer in roster if peer.name not in ("me", *CORRUPT)]
        victim = self.draw.choice([f"f{len(self.vouches)}", *names, *(name for name, _ in self.exchanged)])
        fake = Peer(name=victim, signing_key=key.public.hex())
        for name, held in self.stolen.items():
            for old in held:
                self.vouch(self.draw.choice([name, *HONEST]), old, fake)
                self.vouch(name, old, fake)
                self.rotations.append(sign_rotation(victim, old=old, new=key))
        return [*(peer for peer in roster if peer.name != victim), fake]

    def show(self, roster: list[Peer]) -> Review:
        def some(statements: list[SignedVouch]) -> tuple[SignedVouch, ...]:
            return tuple(self.draw.sample(statements, len(statements)))

        update = RosterUpdate(
            roster=tuple(self.draw.sample(roster, len(roster))),
            vouches=some(self.vouches),
            rotations=tuple(self.draw.sample(self.rotations, len(self.rotations))),
        )
        mine = Peer(name="me", signing_key=self.keys["me"].public.hex())
        rules = Rules(least_vouchers=len(CORRUPT) + 1, follow_rotations=True)
        found = review(self.approvals, update, own=mine, rules=rules, today=date(2026, 11, 29))
        if not found.problems:
            self.approvals = found.approvals
            seen = {key for entry in self.approvals.peers for key in entry.earlier_keys}
            seen |= {key for entry in self.approvals.removed for key in entry.keys}
            for name, old in self.exchanged:
                if old.public.hex() in seen and old not in self.stolen.setdefault(name, []):
                    self.stolen[name].append(old)
        return found


@pytest.mark.parametrize("seed", range(3))
def test_nobody_is_accepted_whom_no_honest_merchant_met(seed: int) -> None:
    history = History(seed)
    followed = 0
    for step in range(14):
        event = history.draw.choice(["newcomer", "exchange", "leave", "nothing"])
        if event == "newcomer" and len(history.keys) < 12:
            history.newcomer(f"n{step}")
        elif event == "exchange":
            history.exchange()
        elif event == "leave":
            history.leave()
        assert history.show(history.attacked()).problems
        followed += not history.show(history.roster()).problems
        for entry in history.approvals.peers:
            assert entry.peer.signing_key in history.real[entry.peer.name]
    # The adversary's forks of exchanges, shown along, may hold an honest change up; they don't hold up all.
    assert followed >= 3
    assert any(entry.vouchers for entry in history.approvals.peers) or history.approvals.removed
