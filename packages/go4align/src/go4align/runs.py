"""The run folder of one training: losses, weights and groups over time, then the result."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from go4align._kit import RunFolder, read_metrics
from go4align._kit.run import SUMMARY
from go4align.errors import DataError


class Run:
    """Writes one training to ``metrics.jsonl`` and ``summary.json``.

    Args:
        folder: Where to; made where it is missing.
        benchmark: Name of the problem.
        method: Label of the method in tables; ``"stl"`` for single-task training.
        tasks: Names of the tasks.
        seed: Seed of the run.
        settings: Everything that shaped it.
        overwrite: Empty a folder that has content, instead of refusing it.
        resume: Go on in a folder that has content.

    Raises:
        RunFolderError: if the folder has content and neither flag is set.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        benchmark: str,
        method: str,
        tasks: Sequence[str],
        seed: int,
        settings: Mapping[str, Any] | None = None,
        overwrite: bool = False,
        resume: bool = False,
    ) -> None:
        self.benchmark, self.method, self.seed = benchmark, method, seed
        self.tasks, self.settings = tuple(tasks), dict(settings or {})
        self._folder = RunFolder(folder, overwrite=overwrite, resume=resume)
        self.path = self._folder.path

    def step(
        self,
        step: int,
        losses: Sequence[Tensor] | Tensor,
        weights: Tensor | None = None,
        groups: Tensor | None = None,
    ) -> None:
        """Append the losses of a step, and weights and groups where there are any.

        Waits for the device: call it every so many steps.

        Args:
            step: Count of optimizer steps.
            losses: M scalars, or a tensor (M,).
            weights: (M,).
            groups: (M,).
        """
        values = [float(loss) for loss in losses]
        rows = {"loss": values}
        for name, column in (("weight", weights), ("group", groups)):
            if column is not None:
                rows[name] = column.tolist()
        for name, row in rows.items():
            for task, value in zip(self.tasks, row, strict=True):
                self._folder.log(step, f"{name}/{task}", value)

    def metric(self, step: int, name: str, value: float) -> None:
        """Append any other number.

        Args:
            step: Count of optimizer steps, or of epochs.
            name: Such as ``"test/mIoU"``.
            value: The number.
        """
        self._folder.log(step, name, value)

    def finish(
        self,
        metrics: Mapping[str, float],
        higher_is_better: Mapping[str, bool],
        seconds_per_step: float,
        extra: Mapping[str, Any] | None = None,
        device: str = "cpu",
    ) -> Path:
        """Write ``summary.json``.

        Args:
            metrics: Results on the test part by name.
            higher_is_better: Their directions.
            seconds_per_step: Median time of a training step.
            extra: Anything else worth keeping.
            device: The torch device of the run.

        Returns:
            The path of the file.
        """
        results = {
            "benchmark": self.benchmark,
            "method": self.method,
            "tasks": list(self.tasks),
            "metrics": dict(metrics),
            "higher_is_better": dict(higher_is_better),
            "seconds_per_step": seconds_per_step,
            **dict(extra or {}),
        }
        return self._folder.write_summary(
            results, settings=self.settings, seed=self.seed, device=device
        )


def finished(folder: str | Path) -> bool:
    """Whether a run in ``folder`` came to its end."""
    return (Path(folder) / SUMMARY).is_file()


def load(folder: str | Path) -> list[dict[str, Any]]:
    """Summaries of all finished runs at or below a folder, each with its ``"folder"``.

    Args:
        folder: A run folder, or one that holds run folders at any depth.

    Returns:
        One dict per run, in the order of their paths.

    Raises:
        DataError: if there is none.
    """
    root = Path(folder)
    found = []
    for path in sorted(root.rglob(SUMMARY)):
        summary = json.loads(path.read_text(encoding="utf-8"))
        if "method" in summary.get("results", {}):
            found.append({**summary, "folder": path.parent})
    if not found:
        raise DataError(
            f"there is no finished run at or below {root}: name a folder that `go4align bench` or "
            "`go4align demo` wrote to"
        )
    return found


def curves(folder: str | Path, prefix: str) -> dict[str, tuple[list[int], list[float]]]:
    """Steps and values of the records ``prefix/...`` of a run, by the rest of the name."""
    found: dict[str, tuple[list[int], list[float]]] = {}
    for record in read_metrics(folder):
        head, _, name = record["name"].partition("/")
        if head == prefix:
            steps, values = found.setdefault(name, ([], []))
            steps.append(record["step"])
            values.append(record["value"])
    return found
