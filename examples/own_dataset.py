"""Train on data sets of your own, one per merchant; watch every round, and stop when it is good enough."""

import torch
from torch.utils.data import Dataset

import fedrec


class Stripes(Dataset[tuple[torch.Tensor, int]]):
    """Colour pictures of stripes, float32 from 0 to 1: upright ones, level ones, and noise alone."""

    classes = ("upright", "level", "noise")

    def __init__(self, count: int, *, seed: int) -> None:
        chance = torch.Generator().manual_seed(seed)
        self.labels = torch.randint(0, 3, (count,), generator=chance)
        self.pictures = torch.rand(count, 3, 16, 16, generator=chance) * 0.5
        self.pictures[self.labels == 0, :, :, ::4] += 0.5
        self.pictures[self.labels == 1, :, ::4, :] += 0.5

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.pictures[index], int(self.labels[index])


def watch(progress: fedrec.Progress) -> None:
    """Measure the model as it is after every round, and end the training at 95%."""
    measured = progress.model.evaluate(unseen)
    print(f"round {progress.round.number} of {progress.rounds}: accuracy {measured.accuracy:.1%}")
    if measured.accuracy > 0.95:
        progress.stop()


unseen = Stripes(100, seed=98)
result = fedrec.simulate(
    model="cnn",
    merchants={
        "atelier": Stripes(300, seed=1),
        "bottega": Stripes(300, seed=2),
        "studio": Stripes(200, seed=3),
    },
    test=Stripes(150, seed=99),
    callbacks=[watch],
    epsilon=8,
    delta=1e-4,
    rounds=10,
    sample_rate=0.3,
)
print(result)
for line in result.rounds:
    print(line.number, line.epsilon, line.accuracy, line.contributors)
