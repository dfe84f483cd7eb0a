"""The protocol of NYUv2 and CityScapes: SegNet with attention, all epochs tested on ``val``."""

import sys
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn
from torch.utils.data import Dataset

from . import dense
from .dense_data import CHANNELS, ArrayFolders, Layout, augment
from .protocol import Protocol
from .segnet_mtan import SegNetMTAN


class Augmented(Dataset):
    """A split as one epoch sees it; an item's changes depend on seed, epoch and index alone.

    So they are the same for any number of workers, and after a resumption.
    """

    def __init__(self, data: Dataset, seed: int, epoch: int) -> None:
        self.data, self.seed, self.epoch = data, seed, epoch

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return one item, augmented."""
        rng = np.random.default_rng([self.seed, self.epoch, index])
        return augment(self.data[index], rng)


class DenseScores:
    """The metrics of all tasks over a split."""

    def __init__(self, tasks: tuple[str, ...], n_classes: int, pooling: str) -> None:
        self.scores = {task: dense.new_score(task, n_classes, pooling) for task in tasks}

    def update(self, predictions: Mapping[str, Tensor], truths: Mapping[str, Tensor]) -> None:
        """Take in a batch."""
        for task, score in self.scores.items():
            score.update(predictions[task], truths[task])

    def result(self) -> dict[str, float]:
        """Return the metrics of all tasks in one mapping."""
        results = [score.result() for score in self.scores.values()]
        return {name: value for result in results for name, value in result.items()}


class DenseProtocol(Protocol):
    """Training on ``train``, results on ``val``, which both benchmarks use as the test set."""

    layout: ClassVar[Layout]
    lr = 1e-4
    own_options: ClassVar = {
        "--pooling": {
            "choices": ["exact", "reference"],
            "default": "exact",
            "help": "Average over the split's pixels, or over batch means as the reference does.",
        }
    }

    def read(self) -> dict[str, Dataset]:
        """Open the folders of this run's tasks."""
        splits = {}
        for name, part in (("train", "train"), ("test", "val")):
            limit, root = self.settings.limit, self.settings.data
            splits[name] = ArrayFolders(self.layout, root, part, self.tasks, limit)
            found, published = splits[name].n_files, self.layout.published[part]
            if found != published:
                note = f"note: {root / part} has {found} items, the published one {published}"
                print(note, file=sys.stderr)
        return splits

    def for_training(self, epoch: int) -> Dataset:
        """Return the training split with the crops and mirrorings of one epoch."""
        return Augmented(self.splits["train"], self.settings.seed, epoch)

    def network(self) -> nn.Module:
        """Return the network with a branch per task of this run."""
        channels = {**CHANNELS, "segmentation": self.layout.n_classes}
        return SegNetMTAN({task: channels[task] for task in self.tasks}, self.settings.width)

    def predict(self, network: nn.Module, batch: Any) -> tuple[dict[str, Tensor], None]:
        """Return the maps of all tasks, and None.

        The tasks leave the trunk at ten places, so there is no one tensor that they share:
        methods that need gradients take them with respect to the shared parameters.
        """
        return network(batch["image"]), None

    def truths(self, batch: Any) -> dict[str, Tensor]:
        """Return the true maps of this run's tasks."""
        return {task: batch[task] for task in self.tasks}

    def loss(self, task: str, predicted: Tensor, truth: Tensor) -> Tensor:
        """Return the mean over the known pixels of a batch."""
        return dense.LOSSES[task](predicted, truth)

    def new_score(self) -> DenseScores:
        """Return an empty score of this run's tasks."""
        return DenseScores(self.tasks, self.layout.n_classes, self.settings.pooling)
