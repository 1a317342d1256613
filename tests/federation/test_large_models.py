"""A model of hundreds of megabytes is in memory no more often than it must be."""

from __future__ import annotations

from pathlib import Path

from fedrec.protocol.messages import TrainRequest
from fedrec.protocol.transport import pack, unpack, with_body
from fedrec.server.uploads import train_requests
from tests.support.cohort import Cohort


def test_every_request_of_a_round_holds_the_same_copy_of_the_model(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path)
    request = TrainRequest(training_id="0" * 64, round_number=1, model_hash="0" * 64, sealing_keys=())
    shared = pack(request, {"model": bytes(2**20), "encryption-key": b"small"})
    other = with_body(shared, request.model_copy(update={"round_number": 2}))
    for content, number in ((shared, 1), (other, 2)):
        body, blobs = unpack(content, TrainRequest, max_blob_bytes=2**21)
        assert body.round_number == number
        assert blobs == {"model": bytes(2**20), "encryption-key": b"small"}
    (one,), (its,) = shared.array_records.values(), other.array_records.values()
    assert [array.data for array in one.values()] == [array.data for array in its.values()]
    assert all(a is b for a, b in zip(one.values(), its.values(), strict=True))
    coordinator, _ = cohort.coordinator(cohort.plan())
    coordinator._cohort.open(())
    contents = list(
        train_requests(
            bytes(2**20),
            plan=coordinator.plan,
            round_number=1,
            cohort=coordinator._cohort,
            receipts=coordinator.receipts,
            signer=coordinator.signer,
            without=(),
        ).values()
    )
    models = [next(iter(content.array_records.values())) for content in contents]
    assert len(models) == 4 and all(next(iter(m.values())) is next(iter(models[0].values())) for m in models)
