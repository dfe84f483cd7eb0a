"""The run folder of one training: losses, weights and groups over time, then the result."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from go4align._kit import RunFolder, read_metrics
from go4align._kit.run import METRICS, SUMMARY
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
        overwrite: Empty a folder that holds an earlier run, and nothing else, instead of refusing.
        resume: Go on in a folder that has content.

    Raises:
        RunFolderError: if the folder has content and neither flag is set.
        DataError: if it holds other files than a run's.
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
        if overwrite and Path(folder).is_dir():
            foreign = {path.name for path in Path(folder).iterdir()} - {METRICS, SUMMARY}
            if foreign:
                raise DataError(
                    f"{folder} holds {min(foreign)!r}, which no run wrote: not emptied; "
                    "move it away, or name another folder"
                )
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


def finished(folder: str | Path, settings: Mapping[str, Any]) -> bool:
    """Whether a run in ``folder`` came to its end, and was one with these settings."""
    try:
        summary = json.loads((Path(folder) / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    wanted = json.loads(json.dumps(dict(settings)))  # tuples come back as lists
    return bool(summary.get("settings") == wanted)


def load(folder: str | Path) -> list[dict[str, Any]]:
    """Summaries of all finished runs at or below a folder, each with its ``"folder"``.

    Args:
        folder: A run folder, or one that holds run folders at any depth.

    Returns:
        One dict per run, in the order of their paths.

    Raises:
        DataError: if there is none, or one cannot be read.
    """
    root = Path(folder)
    found = []
    for path in sorted(root.rglob(SUMMARY)):
        try:
            summary = json.loads(path.read_text(encoding="utf-8"))
            results = summary["results"]
            if "method" not in results:
                continue  # of a whole benchmark, or of something else
            complete = {"benchmark", "metrics", "higher_is_better", "seconds_per_step"} <= {
                *results
            }
            complete = complete and isinstance(results["metrics"], dict) and "seed" in summary
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} cannot be read ({error!r}): move it away") from error
        if not complete:
            raise DataError(f"{path} is not the summary of a finished run: move it away")
        found.append({**summary, "folder": path.parent})
    if not found:
        raise DataError(
            f"there is no finished run at or below {root}: name a folder that `go4align bench` or "
            "`go4align demo` wrote to"
        )
    return found


def has_losses(folder: str | Path) -> bool:
    """Whether a run recorded losses over time."""
    return (Path(folder) / METRICS).is_file() and bool(curves(folder, "loss"))


def curves(folder: str | Path, prefix: str) -> dict[str, tuple[list[int], list[float]]]:
    """Steps and values of the records ``prefix/...`` of a run, by the rest of the name."""
    found: dict[str, tuple[list[int], list[float]]] = {}
    try:
        records = read_metrics(folder)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder}: metrics.jsonl cannot be read ({error!r})") from error
    for record in records:
        head, _, name = record["name"].partition("/")
        if head == prefix:
            steps, values = found.setdefault(name, ([], []))
            steps.append(record["step"])
            values.append(record["value"])
    return found
