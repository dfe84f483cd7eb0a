"""What a published protocol fixes, apart from the loop that all of them share."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, StepLR
from torch.utils.data import DataLoader, Dataset

from go4align.metrics import delta_m

from .base import read_base
from .errors import ProtocolError

STL = "stl"  # the method that trains one task alone
LAST = 10  # epochs whose test results are averaged where no validation split chooses one


@dataclass(frozen=True)
class Settings:
    """One training run; the help of ``command.py`` says what each setting is."""

    data: Path
    out: Path
    method: str
    seed: int
    epochs: int
    batch: int
    lr: float
    method_lr: float
    width: int
    device: str = "cpu"
    task: str | None = None
    limit: int | None = None
    base: Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    pooling: str = "exact"
    held_out: int = 0
    workers: int = 0
    log_every: int = 50
    resume: bool = False
    overwrite: bool = False


class Protocol(ABC):
    """A data set opened for one run, with the network, losses and metrics that belong to it.

    A subclass sets the class attributes, and says how to read the data and what to train.

    Attributes:
        name: name of the benchmark.
        metrics: task -> metric -> whether higher is better, in the published order.
        published: published result of single-task training for every metric, or empty.
        epochs: published number of epochs.
        batch: published batch size, also for evaluation.
        lr: published learning rate of Adam.
        n_groups: number of groups K of GO4Align.
        famo_decay: weight decay of FAMO's task logits.
        chooses_epoch: True if the validation split chooses the epoch whose test result is
            reported, False if the last ten epochs are averaged.
        own_options: command line options that other protocols lack, with what argparse needs.
        tasks: the tasks of this run, in the order of the losses.
        higher: metric -> whether higher is better, for these tasks.
        base: metric -> single-task result that the relative drop is computed against, or empty.
        splits: "train", "test", and "val" where there is one.
    """

    name: ClassVar[str]
    metrics: ClassVar[Mapping[str, Mapping[str, bool]]]
    published: ClassVar[Mapping[str, float]]
    epochs: ClassVar[int]
    batch: ClassVar[int]
    lr: ClassVar[float]
    n_groups: ClassVar[int]
    famo_decay: ClassVar[float]
    chooses_epoch: ClassVar[bool] = False
    own_options: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.tasks = (settings.task,) if settings.method == STL else tuple(self.metrics)
        self.higher = {
            name: higher for task in self.tasks for name, higher in self.metrics[task].items()
        }
        self.base = self.published
        if settings.base:
            self.base = read_base(settings.base, self.name, self.higher)
        self.splits = self.read()

    @property
    def label(self) -> str:
        """Name of the benchmark in reports; a task alone is one of its own, with fewer metrics."""
        return self.name if self.settings.task is None else f"{self.name}/{self.settings.task}"

    @abstractmethod
    def read(self) -> dict[str, Dataset]:
        """Open the splits, each cut to ``settings.limit`` items."""

    @abstractmethod
    def network(self) -> nn.Module:
        """Return a new network for ``tasks`` with a method ``shared_parameters()``."""

    @abstractmethod
    def predict(self, network: nn.Module, batch: Any) -> tuple[dict[str, Tensor], Tensor | None]:
        """Return the predictions of all tasks, and the tensor that they share if there is one."""

    @abstractmethod
    def truths(self, batch: Any) -> dict[str, Tensor]:
        """Return what the predictions are compared with."""

    @abstractmethod
    def loss(self, task: str, predicted: Tensor, truth: Tensor) -> Tensor:
        """Return a task's training loss, the mean over a batch."""

    @abstractmethod
    def new_score(self) -> Any:
        """Return an object with ``update(predictions, truths)`` and ``result()``."""

    def losses(self, network: nn.Module, batch: Any) -> tuple[list[Tensor], Tensor | None]:
        """Return the losses of all tasks, each computed by itself, and what the tasks share."""
        predictions, shared = self.predict(network, batch)
        truths = self.truths(batch)
        return [self.loss(task, predictions[task], truths[task]) for task in self.tasks], shared

    def for_training(self, epoch: int) -> Dataset:
        """Return the training split as one epoch sees it."""
        return self.splits["train"]

    def loader(self, data: Dataset, order: Sequence[int] | None = None) -> DataLoader:
        """Return batches of ``data`` in the given order, by default as it comes."""
        return DataLoader(
            data,
            batch_size=self.settings.batch,
            sampler=order,
            num_workers=self.settings.workers,
            collate_fn=self.collate,
        )

    @staticmethod
    def collate(items: list) -> Any:
        """Make a batch."""
        return torch.utils.data.default_collate(items)

    def scheduler(self, optimizer: torch.optim.Optimizer) -> LRScheduler:
        """Return the schedule of the learning rate; halved after 100 epochs unless overridden."""
        return StepLR(optimizer, step_size=100, gamma=0.5)

    def delta_m(self, result: Mapping[str, float]) -> float | None:
        """Return the mean relative drop against single-task training in percent.

        None without single-task results; CelebA's are not published.
        """
        if not self.base:
            return None
        names = list(self.higher)
        return delta_m(
            [result[name] for name in names],
            [self.base[name] for name in names],
            [self.higher[name] for name in names],
        )

    def cost(self, result: Mapping[str, float]) -> float:
        """Return what the chosen epoch has least of, given its validation result."""
        raise NotImplementedError(f"{self.name} has no validation split")

    def report(self, history: list[Mapping[str, Mapping[str, float]]]) -> tuple[dict, str]:
        """Return the test result to report, and how it was chosen.

        Args:
            history: for every epoch, split -> metric -> value.
        """
        if self.chooses_epoch:
            costs = [self.cost(epoch["val"]) for epoch in history]
            best = min(range(len(costs)), key=costs.__getitem__)
            return dict(history[best]["test"]), f"test at epoch {best + 1}, the best in validation"
        last = [epoch["test"] for epoch in history[-LAST:]]
        means = {name: sum(epoch[name] for epoch in last) / len(last) for name in last[0]}
        return means, f"mean test result of the last {len(last)} epochs"

    @classmethod
    def check_task(cls, method: str, task: str | None) -> None:
        """Refuse a task without ``stl``, ``stl`` without a task, and unknown tasks."""
        if (method == STL) != (task is not None):
            raise ProtocolError(
                f"--method {method} with --task {task}: give --task exactly with --method {STL}"
            )
        if task is not None and task not in cls.metrics:
            raise ProtocolError(f"--task {task}: {cls.name} has the tasks {', '.join(cls.metrics)}")
