"""Train a model of your own under record-level privacy: a plain script, no ``if __name__ == "__main__"``."""

import numpy as np
import torch
from torch import nn

import fedrec


class SmallNet(nn.Module):
    """Maps grey pictures (n, 1, 16, 16) to two scores. GroupNorm, never BatchNorm: records stay apart."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.GroupNorm(2, 8),
            nn.ReLU(),
            nn.MaxPool2d(4),
            nn.Flatten(),
            nn.Linear(8 * 4 * 4, 2),
        )

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return the scores."""
        scores: torch.Tensor = self.layers(pictures)
        return scores


def photos(count: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw pictures with a bright half: the left one is class 0, the right one class 1."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    pictures = rng.integers(0, 120, (count, 16, 16))
    for picture, label in zip(pictures, labels, strict=True):
        picture[:, 8 * label : 8 * label + 8] += 120
    return pictures.astype(np.uint8), labels


result = fedrec.simulate(
    model=lambda: SmallNet(),
    merchants=[photos(300, seed=merchant) for merchant in range(3)],
    test=photos(200, seed=99),
    epsilon=8,
    delta=1e-4,
    rounds=8,
    sample_rate=0.5,
)
print(f"accuracy {result.accuracy:.1%}, macro F1 {result.f1:.3f}, epsilon {result.epsilon:.2f}")
print(f"the report is {result.folder / 'report.html'}")

pictures, labels = photos(5, seed=100)
print("predicted", result.model.predict(pictures), "of", labels)
