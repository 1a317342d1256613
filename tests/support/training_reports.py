"""Whole reports of trainings as JSON values, made from a few figures."""

from __future__ import annotations

import json
import math
import random
from typing import Any

from fedrec.protocol.training_report.report import TrainingReport
from fedrec.protocol.training_report.round_line import RoundRecord
from fedrec.protocol.training_report.run_section import DataSection

NO_PHOTOS = DataSection(
    records=0,
    skipped=(),
    ignored={},
    folders=None,
    notes=(),
    duplicates_dropped=None,
    near_duplicates=None,
    evaluation_copies_dropped=None,
)

CLASSES = ("Shirt", "Trousers", "Pullover", "Dress", "Coat", "Sandal", "Sneaker", "Bag", "Ankle boot", "Hat")


TRUST: dict[str, dict[str, str]] = {
    "kahe": {
        "opened_by": "committee", "reads_single_updates": "nobody_below_threshold", "epsilon_of": "sum",
    },
    "ckks": {"opened_by": "holder", "reads_single_updates": "key_holder", "epsilon_of": "share"},
    "none": {"opened_by": "nobody", "reads_single_updates": "server", "epsilon_of": "share"},
}  # fmt: skip


def aggregation(scheme: str) -> dict[str, Any]:
    return {"scheme": scheme, "trust": TRUST[scheme]}


A_ROUND = RoundRecord(
    round=1,
    opened=True,
    contributors=3,
    dropouts=0,
    seconds=2.0,
    seconds_train=1.0,
    seconds_unmask=0.5,
    bytes_up=30,
    bytes_down=60,
    upload_bytes=10,
    reason=None,
    merchants=("m0", "m1", "m2"),
    noise_kept=1.0,
)


def report_of(values: dict[str, Any]) -> TrainingReport:
    """The report that a file with these values holds."""
    return TrainingReport.model_validate_json(json.dumps(values))


def unmeasured(metrics: dict[str, Any]) -> dict[str, Any]:
    """A section on metrics where nothing was measured."""
    return dict.fromkeys(metrics) | {"confusion": [], "per_class": []}


def report_values(
    *, classes: int = 10, merchants: int = 8, rounds: int = 100, seed: int = 7
) -> dict[str, Any]:
    """A report as a real run would write it, with lost rounds and rounds that were not evaluated."""
    rng = random.Random(seed)
    labels = [CLASSES[i] if i < len(CLASSES) else f"Product group {i}" for i in range(classes)]
    confusion = []
    for i in range(classes):
        row = [max(0, round(rng.gauss(0, 5))) for _ in range(classes)]
        row[(i + 2) % classes] += 14
        row[i] = 150 + rng.randrange(60)
        confusion.append(row)
    lost = {n for n in (17, 58, 59) if n <= rounds}
    per_round = []
    for n in range(1, rounds + 1):
        accuracy = 0.86 * (1 - math.exp(-n / 18)) + 0.1 * math.exp(-n / 8) + rng.gauss(0, 0.008)
        per_round.append(
            {
                "round": n,
                "accuracy": None if n in lost else accuracy,
                "contributors": merchants - (n % 11 == 0),
                "dropouts": int(n % 11 == 0),
                "opened": n not in lost,
                "seconds": 2.1,
                "seconds_train": 1.5,
                "seconds_unmask": 0.05,
                "bytes_up": 12_680_000,
                "bytes_down": 17_250_000,
                "upload_bytes": 1_585_000,
                "reason": "two merchants were missing" if n in lost else None,
                "merchants": [f"merchant-{i}" for i in range(merchants - (n % 11 == 0))],
                "noise_kept": None if n in lost else 1.0,
                "f1_macro": None if n in lost else accuracy - 0.01,
                "epsilon": 8.0 * math.sqrt(n / rounds),
            }
        )
    per_class = []
    for i, label in enumerate(labels):
        support, predicted = sum(confusion[i]), sum(row[i] for row in confusion)
        precision, recall = confusion[i][i] / predicted, confusion[i][i] / support
        f1 = 2 * precision * recall / (precision + recall)
        per_class.append(
            {"label": label, "precision": precision, "recall": recall, "f1": f1, "support": support}
        )
    total = sum(map(sum, confusion))
    return {
        "schema": "fedrec.report/1",
        "refusals": {},
        "warnings": ["merchant-3 holds only 212 records: its photos are drawn as often as anybody's."],
        "run": {
            "id": "2026-03-02T10-15-00-7f3a", "seconds": 254.2, "engine": "local", "workers": 4,
            "merchants": merchants, "rounds": rounds, "dataset": "fashion-mnist",
            "partition": "dirichlet:0.5", "model": "cnn28", "parameters": 539_146, "seed": None,
            "model_code": None, "optimizer": "sgd", "learning_rate": 0.5, "local_steps": 1,
            "local_learning_rate": None, "loss": "cross-entropy", "early_stopping": None,
            "training_id": "5a" * 32,
        },
        "data": {
            "records": 60_000, "duplicates_dropped": 43, "folders": 31,
            "ignored": {"not a photo": 5, "hidden": 2}, "notes": [],
            "near_duplicates": 12, "evaluation_copies_dropped": 0,
            "skipped": [{"name": "shop-2/bag/IMG_0042.jpg", "reason": "not an image", "merchant": "shop-2"}],
        },
        "metrics": {
            "accuracy": sum(confusion[i][i] for i in range(classes)) / total,
            "accuracy_interval": [0.8312, 0.8677],
            "precision_macro": 0.8412, "recall_macro": 0.8391, "f1_macro": 0.8377, "roc_auc_macro": 0.9813,
            "confusion": confusion, "split": "test", "per_class": per_class,
        },
        "privacy": {
            "mode": "distributed", "unit": "record", "adjacency": "add-or-remove",
            "duplicate_policy": "dropped", "epsilon": 7.996, "epsilon_at_1e-5": 8.2,
            "epsilon_of_copies": {"2": 17.1, "4": 38.2},
            "rating": {"word": "weak", "sentence": "Weak: whatever anybody concludes."},
            "clipping": "flat", "class_over_noise": 55.0,
            "events": [
                {
                    "kind": "training", "sample_rate": 0.02, "noise_multiplier": 0.8132, "steps": rounds,
                },
                {"kind": "count", "sample_rate": 1.0, "noise_multiplier": 20.0, "steps": 1},
            ],
            "cross_checks": {"rdp": 8.731}, "epsilon_aggregation_broken": 31.418,
            "delta": 1.6e-5,
            "sample_rate": 0.02, "clip": 1.0, "noise_multiplier": 0.8132, "steps": rounds, "colluders": 1,
            "min_contributors": max(merchants - 1, 3), "accountant": "pld", "seeded": False,
            "per_merchant": [
                {
                    "merchant": f"merchant-{i}", "records": 212 if i == 3 else 5000 + rng.randrange(4000),
                    "epsilon": 7.996, "epsilon_lifetime": 9.1 + i / 10, "rounds_charged": rounds - i % 3,
                }
                for i in range(merchants)
            ],
        },
        "secure_aggregation": {
            **aggregation("kahe"), "trust_limit": "", "corrupt_members": 2, "witnesses": [],
            "corrupt_witnesses": 0, "seat_risk": 0.0, "noise_levels": [], "ring_degree": 8192,
            "modulus_bits": 109, "threshold": 5, "committee": merchants,
            "min_contributors": max(merchants - 1, 3), "value_bits": 19, "upload_bytes_per_parameter": 2.94,
            "seconds_encrypt": 11.3, "seconds_unmask": 4.9,
        },
        "cost": {
            "bytes_up": 1_268_000_000, "bytes_down": 1_725_000_000, "peak_memory_bytes": 1_400_000_000,
            "seconds_train": 180.4,
        },
        "site_figures": None,
        "rounds": per_round,
    }  # fmt: skip


def changed(**sections: dict[str, Any]) -> TrainingReport:
    """A report of five rounds with other values in some sections."""
    values = report_values(rounds=5)
    for name, others in sections.items():
        values[name] = {**values[name], **others}
    return report_of(values)
