"""Folders of training runs: finished ones are read back, nothing of anybody else is deleted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lare._kit import RunFolder
from lare._kit.run import METRICS, SUMMARY
from lare.errors import ConfigError

#: What a run writes.
OURS = {METRICS, SUMMARY, "checkpoint.pt", "policies.pt"}


def finished(folder: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Results of a run that was finished with these settings, None if there is none.

    Raises:
        ConfigError: if it had other settings, or its summary is damaged.
    """
    path = folder / SUMMARY
    if not path.is_file():
        return None
    summary = read(path)
    if summary["settings"] != json.loads(json.dumps(settings)):
        raise ConfigError(
            f"{folder} holds a run with other settings: name another folder, or remove that one"
        )
    return restored(summary["results"])


def read(path: Path) -> dict[str, Any]:
    """Read the summary of a run.

    Raises:
        ConfigError: if it is damaged.
    """
    try:
        summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not summary["results"]["scores"] or not isinstance(summary["settings"], dict):
            raise ValueError("it has no scores")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
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


def start(folder: Path) -> RunFolder:
    """Empty the folder of a run that was not finished.

    Raises:
        ConfigError: if it holds files that no run writes.
    """
    if folder.is_dir():
        strange = sorted({path.name for path in folder.iterdir()} - OURS)
        if strange:
            raise ConfigError(
                f"{folder} holds {', '.join(strange[:5])}, which no run wrote and which would be "
                "lost: name another folder, or move them away"
            )
    return RunFolder(folder, overwrite=True)
