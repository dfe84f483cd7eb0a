"""One training run of a problem with a method: the same loop for all methods."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from go4align._kit import seeded
from go4align.errors import ConfigError, LossError
from go4align.methods import Method, create
from go4align.runs import Run
from go4align.tasks.problem import MultiTaskNetwork, Part, Problem, Split

#: Single-task training: one network per task.
STL = "stl"


@dataclass(frozen=True)
class Settings:
    """How to train.

    Attributes:
        method: Name for :func:`go4align.methods.create`, or ``"stl"``.
        options: Arguments of the method.
        optimizer: ``"adam"``, ``"adamw"`` (weight decay 0.01) or ``"sgd"`` (momentum 0.9).
        lr: Learning rate at the start; the problem has the schedule.
        epochs: Passes over the training part; None for the problem's own number.
        method_lr: Learning rate of parameters the method learns (UW).
    """

    method: str
    options: dict[str, Any] = field(default_factory=dict)
    optimizer: str = "adam"
    lr: float = 1e-3
    epochs: int | None = None
    method_lr: float = 0.025


@dataclass(frozen=True)
class Result:
    """What came out.

    Attributes:
        validation: Metrics on the validation part by name; NaN after divergence.
        test: The same on the test part.
        seconds_per_step: Median; for single-task training the sum over the networks.
        steps: Optimizer steps (of each network).
    """

    validation: dict[str, float]
    test: dict[str, float]
    seconds_per_step: float
    steps: int


def train(
    problem: Problem, settings: Settings, seed: int, run: Run | None = None, log_every: int = 10
) -> Result:
    """Train a new network on the problem's data of a seed.

    Everything random follows from the seed; the global generators are left as they were.

    Args:
        problem: Data, network, losses and metrics.
        settings: Method and optimizer.
        seed: Of data, initial weights and batches: runs of one seed are paired across methods.
        run: Where to record losses, weights and groups.
        log_every: Steps between records.

    Returns:
        Metrics and times.

    Raises:
        ConfigError: for a setting that cannot be.
    """
    split = problem.split(seed)
    everything = range(len(problem.tasks))
    if settings.method != STL:
        return _train(problem, settings, split, list(everything), seed, run, log_every)
    single = [_train(problem, settings, split, [task], seed, run, log_every) for task in everything]
    return Result(
        {name: value for result in single for name, value in result.validation.items()},
        {name: value for result in single for name, value in result.test.items()},
        sum(result.seconds_per_step for result in single),
        single[0].steps,
    )


def _train(
    problem: Problem,
    settings: Settings,
    split: Split,
    tasks: list[int],
    seed: int,
    run: Run | None,
    log_every: int,
) -> Result:
    with seeded(seed):
        network = problem.network(tasks)
        name = "ls" if settings.method == STL else settings.method
        method = create(name, len(tasks), **settings.options)
        return _loop(problem, settings, split, tasks, seed, run, log_every, network, method)


def _loop(
    problem: Problem,
    settings: Settings,
    split: Split,
    tasks: list[int],
    seed: int,
    run: Run | None,
    log_every: int,
    network: MultiTaskNetwork,
    method: Method,
) -> Result:
    optimizer = make_optimizer(settings, network, method)
    epochs = problem.epochs if settings.epochs is None else settings.epochs
    per_epoch = len(split.train) // problem.batch_size
    schedule = make_schedule(problem.schedule, optimizer, epochs * per_epoch)
    shared = list(network.trunk.parameters())
    order = np.random.default_rng(seed)
    seconds: list[float] = []
    step = 0
    for _ in range(epochs):
        rows = torch.from_numpy(order.permutation(len(split.train)))
        for index in rows[: per_epoch * problem.batch_size].split(problem.batch_size):
            batch = split.train.take(index)
            start = time.perf_counter()

            def losses(batch: Part = batch) -> list[Tensor]:
                return _losses(problem, network(batch.inputs)[1], batch, tasks)

            features, outputs = network(batch.inputs)
            values = _losses(problem, outputs, batch, tasks)
            optimizer.zero_grad(set_to_none=True)
            try:
                method.backward(values, features, shared)
            except (LossError, RuntimeError) as error:
                if not isinstance(error, LossError) and "linalg" not in str(error):
                    raise  # of a solver on gradients that are not finite, or something else
                return _diverged(problem, tasks, seconds, step)
            optimizer.step()
            method.after_step(losses)
            schedule.step()
            seconds.append(time.perf_counter() - start)
            if step % log_every == 0:
                numbers = torch.stack(values).detach()
                if not bool(numbers.isfinite().all()):
                    return _diverged(problem, tasks, seconds, step)
                if run is not None and len(tasks) == len(run.tasks):
                    run.step(step, numbers, method.weights, method.groups)
            step += 1
        method.end_epoch()
    return Result(
        evaluate(problem, network, split.validation, tasks),
        evaluate(problem, network, split.test, tasks),
        statistics.median(seconds) if seconds else math.nan,
        step,
    )


def make_optimizer(
    settings: Settings, network: torch.nn.Module, method: Method
) -> torch.optim.Optimizer:
    """The optimizer of a run, with what the method learns in a group of its own."""
    groups: list[dict[str, Any]] = [{"params": list(network.parameters())}]
    if learned := method.learned_parameters():
        groups.append({"params": learned, "lr": settings.method_lr, "weight_decay": 0.0})
    if settings.optimizer == "adam":
        return torch.optim.Adam(groups, lr=settings.lr)
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr, weight_decay=0.01)
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr, momentum=0.9)
    raise ConfigError(f"optimizer is {settings.optimizer!r}: give adam, adamw or sgd")


def make_schedule(
    name: str, optimizer: torch.optim.Optimizer, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """The schedule of a problem over so many steps."""
    if name == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    return torch.optim.lr_scheduler.MultiStepLR(optimizer, [steps // 2], 0.5)


@torch.no_grad()
def evaluate(
    problem: Problem, network: MultiTaskNetwork, part: Part, tasks: Sequence[int]
) -> dict[str, float]:
    """Metrics of a part of the data, all of it pooled.

    Args:
        problem: Gives the metrics.
        network: With a head for each of ``tasks``.
        part: The data.
        tasks: Indices of the tasks.

    Returns:
        Value by name.
    """
    network.eval()
    collected: list[list[Tensor]] = [[] for _ in tasks]
    for inputs in part.inputs.split(512):
        for outputs, output in zip(collected, network(inputs)[1], strict=True):
            outputs.append(output)
    network.train()
    found: dict[str, float] = {}
    for task, outputs in zip(tasks, collected, strict=True):
        found |= problem.score(task, torch.cat(outputs), part.targets[task])
    return found


def _losses(
    problem: Problem, outputs: Sequence[Tensor], batch: Part, tasks: Sequence[int]
) -> list[Tensor]:
    pairs = zip(tasks, outputs, strict=True)
    return [problem.loss(task, output, batch.targets[task]) for task, output in pairs]


def _diverged(problem: Problem, tasks: list[int], seconds: list[float], steps: int) -> Result:
    nothing = {metric.name: math.nan for metric in problem.metrics if metric.task in tasks}
    per_step = statistics.median(seconds) if seconds else math.nan
    return Result(nothing, dict(nothing), per_step, steps)
