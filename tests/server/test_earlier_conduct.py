"""A training goes on from what the one before it has shown of the merchants, and from no other."""

from __future__ import annotations

from pathlib import Path

from fedrec.server.checkpoint import Checkpoint
from fedrec.server.earlier_conduct import EarlierConduct, earlier_conduct
from fedrec.server.merchant_conduct import Conduct
from fedrec.server.reservation import ConductRecord
from fedrec.server.trainings import Training
from tests.support.cohort import Cohort


def filed(
    cohort: Cohort, number: int, *, conduct: ConductRecord | None = None, survivors: str | None = None
) -> Training:
    """A training on file, with what its rounds have shown."""
    training = Training(cohort.folder / "trainings" / f"{number:04}")
    training.folder.mkdir(parents=True)
    (training.folder / "state.json").write_text("{}")
    plan = cohort.plan(nonce=f"{number:032}")
    (training.folder / "plan.json").write_bytes(plan.canonical_bytes())
    if conduct is not None or survivors is not None:
        checkpoint = Checkpoint(training.folder / "server", training_id=plan.training_id)
        checkpoint.reserve(1, conduct=conduct)
        if survivors is not None:
            checkpoint.keep_survivors(survivors)
    return training


def test_the_last_training_before_with_a_record_counts(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path, size=4)
    plan = cohort.plan()
    found = Conduct(plan)
    everybody = set(cohort.names)
    found.lost_at_opening(everybody, connected=everybody)
    while (out := found.left_out(everybody, round_number=2).suspected) != {"m2"}:
        found.lost_at_opening(everybody - out, connected=everybody)
    trainings = tmp_path / "trainings"
    assert earlier_conduct(trainings, before=filed(cohort, 1)) is None
    filed(cohort, 2, conduct=Conduct(plan).record())
    filed(cohort, 3, conduct=found.record())
    filed(cohort, 4, survivors="0" * 64)  # a campaign's
    filed(cohort, 5)  # never begun
    damaged = filed(cohort, 6, conduct=Conduct(plan).record()).folder / "server" / "reserved.json"
    damaged.write_text("{")
    now = filed(cohort, 7)
    filed(cohort, 8, conduct=Conduct(plan).record())
    earlier = earlier_conduct(trainings, before=now)
    assert earlier == EarlierConduct(tuple(cohort.names), found.record().rotation)
    # It is left out from the first round on, until the training has a record of its own.
    later = Conduct(now.plan(), earlier=earlier)
    assert later.left_out(everybody, round_number=1).all == {"m2"}
    assert "left out in turn" in later.notes(round_number=1)["m2"]
    own = Conduct(now.plan(), record=Conduct(plan).record(), earlier=earlier)
    assert not own.left_out(everybody, round_number=2).all
