"""Folders of training runs: finished ones are read back, nothing of anybody else is deleted."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from lare._kit import RunFolder, TensorBoardFolder
from lare._kit.files import write_text_atomic
from lare._kit.run import METRICS, SUMMARY, _plain
from lare.errors import ConfigError, MissingExtraError

#: What a run writes; a run that was killed while it saved leaves the half of a checkpoint.
OURS = re.compile(
    rf"{re.escape(METRICS)}|{re.escape(SUMMARY)}|lare-checkpoint|policies\.pt"
    r"|checkpoint\.pt|\.checkpoint\.pt\.[0-9]+|events\.out\.tfevents\..*"
)


def finished(folder: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Results of a run that was finished with these settings, None if there is none.

    Raises:
        ConfigError: if it had other settings, or its summary is damaged.
    """
    path = folder / SUMMARY
    if not path.is_file():
        return None
    summary = read(path)
    if summary["settings"] != json.loads(json.dumps(_plain(settings))):
        raise ConfigError(
            f"{folder} holds a run with other settings: name another folder, or remove that one"
        )
    results: dict[str, Any] = summary["results"]
    return results


def read(path: Path) -> dict[str, Any]:
    """Read the summary of a run, its results as they were before JSON.

    Raises:
        ConfigError: if it is damaged.
    """
    try:
        summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        restored(summary["results"])
        for key in ("task", "method", "steps", "seed"):
            summary["settings"][key]
        for key in ("steps_per_second", "zero_actions", "random_actions"):
            float(summary["results"][key])
        if not summary["results"]["scores"]:
            raise ValueError("it has no scores")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(
            f"{path} is damaged or not of a training run ({error}): move it away"
        ) from error
    return summary


def restored(results: dict[str, Any]) -> dict[str, Any]:
    """Results as they were before JSON, which has strings for keys and no word for NaN."""
    for part in (results, *results.get("roles", {}).values()):
        part["scores"] = {int(step): float(score) for step, score in part["scores"].items()}
        part["correlation"] = float(part["correlation"])
    return results


def _opened(folder: Path, *, tensorboard: bool, steps: int | None = None, **how: bool) -> RunFolder:
    """A run folder, with event files if they are asked for.

    Raises:
        MissingExtraError: without TensorBoard.
    """
    if not tensorboard:
        return RunFolder(folder, **how)
    try:
        return TensorBoardFolder(folder, steps=steps, **how)
    except ImportError as error:
        raise MissingExtraError(
            'event files need TensorBoard: pip install "lare-rl[tensorboard]"'
        ) from error


def start(folder: Path, *, tensorboard: bool = False) -> RunFolder:
    """Empty the folder of a run that was not finished.

    Args:
        folder: of the run.
        tensorboard: write event files too.

    Raises:
        ConfigError: if it holds files that no run writes.
        MissingExtraError: without TensorBoard, if that was asked for.
    """
    if folder.is_dir():
        strange = sorted(p.name for p in folder.iterdir() if not OURS.fullmatch(p.name))
        if strange:
            raise ConfigError(
                f"{folder} holds {', '.join(strange[:5])}, which no run wrote and which would be "
                "lost: name another folder, or move them away"
            )
    return _opened(folder, tensorboard=tensorboard, overwrite=True)


def go_on(folder: Path, steps: int, *, tensorboard: bool = False) -> RunFolder:
    """Open the folder of a run that goes on at ``steps``; what was logged later is dropped.

    Raises:
        ConfigError: if ``metrics.jsonl`` is damaged.
    """
    metrics = folder / METRICS
    # The constructor drops a last line that was cut off.
    log = _opened(folder, tensorboard=tensorboard, steps=steps, resume=True)
    if metrics.is_file():
        lines = metrics.read_text(encoding="utf-8").splitlines(keepends=True)
        try:
            kept = [line for line in lines if json.loads(line)["step"] <= steps]
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{metrics} is damaged ({error}): move it away") from error
        write_text_atomic(metrics, "".join(kept))
    return log
