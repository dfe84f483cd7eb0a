"""What a problem is: data split by seed, a network, losses and metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor, nn


class Part(NamedTuple):
    """Some of the data.

    Attributes:
        inputs: (n, ...).
        targets: One tensor (n, ...) per task.
    """

    inputs: Tensor
    targets: tuple[Tensor, ...]

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.inputs)

    def take(self, index: Tensor) -> Part:
        """The examples at ``index``, int64 (b,)."""
        return Part(self.inputs[index], tuple(target[index] for target in self.targets))


class Split(NamedTuple):
    """Training, validation and test part."""

    train: Part
    validation: Part
    test: Part


@dataclass(frozen=True)
class Metric:
    """A number that is reported.

    Attributes:
        name: For tables.
        task: Index of the task it belongs to.
        higher_is_better: Its direction.
    """

    name: str
    task: int
    higher_is_better: bool


class MultiTaskNetwork(nn.Module):
    """A trunk that all tasks share and one head for each.

    Args:
        trunk: Maps inputs to features.
        heads: Map features to outputs, one per task.
    """

    def __init__(self, trunk: nn.Module, heads: Sequence[nn.Module]) -> None:
        super().__init__()
        self.trunk = trunk
        self.heads = nn.ModuleList(heads)

    def forward(self, inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the features and one output per head."""
        features = self.trunk(inputs)
        return features, [head(features) for head in self.heads]


class Problem(Protocol):
    """A multi-task problem.

    Attributes:
        name: For tables.
        tasks: Names of the tasks.
        metrics: What is reported.
        epochs: Passes over the training part.
        batch_size: Examples per step.
        schedule: Of the learning rate: ``"halve"`` after half of the steps, as the published
            protocols do, or ``"cosine"`` to zero.
    """

    name: str
    tasks: tuple[str, ...]
    metrics: tuple[Metric, ...]
    epochs: int
    batch_size: int
    schedule: str

    def split(self, seed: int) -> Split:
        """Return the data of a seed; the same data for the same seed."""

    def network(self, tasks: Sequence[int]) -> MultiTaskNetwork:
        """Return a new network with heads for ``tasks``, drawn from torch's generator."""

    def loss(self, task: int, output: Tensor, target: Tensor) -> Tensor:
        """Return the mean training loss of a task, a scalar."""

    def score(self, task: int, output: Tensor, target: Tensor) -> dict[str, float]:
        """Return the metrics of a task by name."""
