"""Rows of a result file that a later run of the same benchmark adds to."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def earlier_runs(folder: Path, settings: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The runs by row of ``folder/summary.json``.

    Args:
        folder: with a summary, or without one.
        settings: that the summary must have; those that came later than it count as they are.

    Returns:
        Nothing without a summary; ends the program if it has other settings.
    """
    path = folder / "summary.json"
    if not path.exists():
        return {}
    summary = json.loads(path.read_text(encoding="utf-8"))
    wanted = json.loads(json.dumps(settings))
    if any(wanted.get(name) != value for name, value in summary["settings"].items()):
        sys.exit(f"{folder.name} was measured with other settings: run all rows, without --add")
    return {label: row["runs"] for label, row in summary["results"]["rows"].items()}
