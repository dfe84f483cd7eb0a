"""The loop that all protocols share."""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from go4align.methods import create
from go4align.report import write_report
from go4align.runs import Run

from . import checkpoint
from .protocol import STL, Protocol

# Settings that may differ between an interrupted run and its continuation.
FREE = ("data", "out", "device", "epochs", "workers", "log_every", "resume", "overwrite", "base")


class SingleTask(nn.Module):
    """Plain training of one task, with the interface of a multi-task method."""

    needs_features = False
    weights = groups = None

    def learned_parameters(self) -> list[nn.Parameter]:
        """Return nothing."""
        return []

    def backward(self, losses: Sequence[Tensor], *_: Any, **__: Any) -> None:
        """Compute the gradient of the only loss."""
        (loss,) = losses
        loss.backward()

    def after_step(self, recompute: Any) -> None:
        """Do nothing."""

    def end_epoch(self) -> None:
        """Do nothing."""


def new_method(protocol: Protocol) -> nn.Module:
    """Return the method that the settings name, with the protocol's defaults for its options."""
    name = protocol.settings.method
    if name == STL:
        return SingleTask()
    defaults = {
        "go4align": {"n_groups": protocol.n_groups},
        "go4align-published": {"n_groups": protocol.n_groups},
        "famo": {"weight_decay": protocol.famo_decay},
    }
    options = {**defaults.get(name, {}), **protocol.settings.options}
    return create(name, n_tasks=len(protocol.tasks), **options)


class Trainer:
    """One run: network, method and optimiser, and where they are in the schedule."""

    PARTS = ("network", "method", "optimizer", "scheduler")
    NUMBERS = ("epoch", "step", "seconds", "history")

    def __init__(self, protocol: Protocol) -> None:
        settings = protocol.settings
        torch.manual_seed(settings.seed)
        self.protocol, self.settings = protocol, settings
        self.device = torch.device(settings.device)
        self.network = protocol.network().to(self.device)
        self.method = new_method(protocol).to(self.device)
        groups = [{"params": list(self.network.parameters())}]
        if learned := self.method.learned_parameters():
            groups.append({"params": learned, "lr": settings.method_lr})
        self.optimizer = torch.optim.Adam(groups, lr=settings.lr)
        self.scheduler = protocol.scheduler(self.optimizer)
        self.epoch = self.step = 0  # finished ones
        self.seconds = 0.0  # spent on training steps, reading of data included
        self.history: list[dict[str, dict[str, float]]] = []
        self.fixed = {
            name: _plain(value)
            for name, value in dataclasses.asdict(settings).items()
            if name not in FREE
        }

    def train_epoch(self) -> list[tuple[int, list[Tensor], Tensor | None, Tensor | None]]:
        """Train for one epoch; return step, losses, weights and groups of every few steps."""
        data = self.protocol.for_training(self.epoch)
        order = np.random.default_rng([self.settings.seed, self.epoch]).permutation(len(data))
        shared = list(self.network.shared_parameters())
        records = []
        started = time.perf_counter()
        self.network.train()
        for batch in self.protocol.loader(data, order.tolist()):
            batch = move(batch, self.device)
            losses, features = self.protocol.losses(self.network, batch)
            self.optimizer.zero_grad()
            self.method.backward(losses, features, shared)
            self.optimizer.step()
            self.method.after_step(lambda batch=batch: self._recompute(batch))
            if self.step % self.settings.log_every == 0:
                # The method may write its next weights into the same memory.
                shown = [
                    None if x is None else x.clone()
                    for x in (self.method.weights, self.method.groups)
                ]
                records.append((self.step, [loss.detach() for loss in losses], *shown))
            self.step += 1
        self.method.end_epoch()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds += time.perf_counter() - started
        return records

    @torch.no_grad()
    def _recompute(self, batch: Any) -> list[Tensor]:
        """Return the losses after the step; batch norm stays in training mode, as published."""
        return self.protocol.losses(self.network, batch)[0]

    @torch.no_grad()
    def evaluate(self, split: str) -> dict[str, float]:
        """Return the metrics of one split."""
        self.network.eval()
        score = self.protocol.new_score()
        for batch in self.protocol.loader(self.protocol.splits[split]):
            batch = move(batch, self.device)
            predictions, _ = self.protocol.predict(self.network, batch)
            score.update(predictions, self.protocol.truths(batch))
        return score.result()

    def finish_epoch(self) -> dict[str, dict[str, float]]:
        """Evaluate, and adapt the learning rate."""
        results = {
            split: self.evaluate(split)
            for split in ("val", "test")
            if split in self.protocol.splits
        }
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(self.protocol.cost(results["val"]))
        else:
            self.scheduler.step()
        self.history.append(results)
        self.epoch += 1
        return results

    def state(self) -> dict[str, Any]:
        """Return everything that the next epoch depends on."""
        parts = {name: getattr(self, name).state_dict() for name in self.PARTS}
        numbers = {name: getattr(self, name) for name in self.NUMBERS}
        others = {
            "settings": self.fixed,
            "random": checkpoint.random_states(),
            "memory": checkpoint.memory(self.method),
        }
        return {**others, **parts, **numbers}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to what :meth:`state` returned."""
        for name in self.PARTS:
            getattr(self, name).load_state_dict(state[name])
        for name in self.NUMBERS:
            setattr(self, name, state[name])
        checkpoint.restore_memory(self.method, state["memory"])
        checkpoint.restore_random_states(state["random"])


def move(batch: Any, device: torch.device) -> Any:
    """Move a mapping of tensors, or an object with ``to``, to a device."""
    if isinstance(batch, dict):
        return {name: tensor.to(device) for name, tensor in batch.items()}
    return batch.to(device)


def _plain(value: Any) -> Any:
    """Return paths as text, for JSON and for checkpoints that hold no code."""
    return str(value) if hasattr(value, "parts") else value


def train(protocol: Protocol) -> dict[str, Any]:
    """Train to the end, write the run folder and its report, and return the result.

    Returns:
        ``metrics`` of the reporting rule, their relative drop ``delta_m`` (None without a base),
        and ``rule``, which says how the result was chosen.
    """
    settings = protocol.settings
    trainer = Trainer(protocol)
    if settings.resume:
        trainer.restore(checkpoint.load(settings.out, trainer.fixed))
    run = Run(
        settings.out,
        benchmark=protocol.label,
        method=settings.method,
        tasks=list(protocol.tasks),
        seed=settings.seed,
        settings={name: _plain(value) for name, value in dataclasses.asdict(settings).items()},
        overwrite=settings.overwrite,
        resume=settings.resume,
    )
    while trainer.epoch < settings.epochs:
        records = trainer.train_epoch()
        results = trainer.finish_epoch()
        # Written with the epoch, so that a resumed run records no step twice.
        for step, losses, weights, groups in records:
            run.step(step, losses, weights=weights, groups=groups)
        for split, result in results.items():
            for name, value in result.items():
                run.metric(trainer.step, f"{split}/{name}", value)
        drop = protocol.delta_m(results["test"])
        if drop is not None:
            run.metric(trainer.step, "test/delta_m", drop)
        checkpoint.save(settings.out, trainer.state())
        print(line(trainer.epoch, settings.epochs, results["test"], drop), flush=True)

    metrics, rule = protocol.report(trainer.history)
    drop = protocol.delta_m(metrics)
    run.finish(
        metrics=metrics,
        higher_is_better=protocol.higher,
        seconds_per_step=trainer.seconds / trainer.step,
        device=settings.device,
        extra={"delta_m": drop, "rule": rule, "epochs": trainer.epoch},
    )
    print(f"{rule}: {line(trainer.epoch, settings.epochs, metrics, drop)}")
    print(write_report(settings.out))
    return {"metrics": metrics, "delta_m": drop, "rule": rule}


def line(epoch: int, epochs: int, result: dict[str, float], drop: float | None) -> str:
    """Return one line of progress; the mean stands for more metrics than fit."""
    values = result if len(result) < 12 else {"mean": sum(result.values()) / len(result)}
    shown = [f"{name} {value:.4g}" for name, value in values.items()]
    shown += [] if drop is None else [f"Δm {drop:+.2f} %"]
    return f"epoch {epoch}/{epochs}  " + "  ".join(shown)
