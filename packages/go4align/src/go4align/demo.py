"""The demo: one network for seven properties of molecules, with three ways to weight the losses."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from go4align import bench, runs
from go4align._kit import RunFolder
from go4align._kit.run import METRICS, SUMMARY
from go4align.errors import MissingExtraError
from go4align.report import Row, as_dict, table
from go4align.tasks import problem
from go4align.training import STL, Settings, train

#: What is trained: single-task networks, the plain sum, and two that learn from loss values.
LABELS = (STL, "ls", "famo", "go4align")
EPOCHS = 60
#: What the extra ``demo`` brings; the report's pictures are an extra of their own.
NEEDED = ("chemicals", "rdkit", "torchjd")
JOB = "go4align demo"
FILES = ("summary.json", "report.html")


def settings_of(label: str) -> Settings:
    """The settings that were chosen on validation parts of other seeds."""
    choice = bench.chosen_settings("molecules", "adam").get(label, {})
    entry = bench.entry(label)
    options = choice.get("options", entry.candidates(7)[0])
    return Settings(entry.method, dict(options), "adam", choice.get("lr", 2e-3), EPOCHS)


def run(
    out: Path,
    *,
    seed: int = 0,
    epochs: int = EPOCHS,
    overwrite: bool = False,
    progress: Callable[[str], None] = lambda label: None,
) -> tuple[list[Row], dict[str, Any]]:
    """Train all of them on one seed.

    Args:
        out: Folder for the runs.
        seed: Of data, weights and batches.
        epochs: Passes over the training part.
        overwrite: Empty ``out`` first.
        progress: Called with the label of each method before it is trained.

    Returns:
        The rows of the table, and what is in the summary.

    Raises:
        MissingExtraError: if something that it needs is not installed.
        RunFolderError: if ``out`` has content and ``overwrite`` is false.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:  # before anything is trained
        raise MissingExtraError(
            f'the demo needs {" and ".join(missing)}: pip install "go4align[demo]"'
        )
    import torch

    torch.set_num_threads(1)  # the network is small: more threads would wait for each other
    folder = RunFolder(out, overwrite=overwrite)
    settings_used = {"job": JOB, "epochs": epochs}
    folder.write_summary({}, settings=settings_used, seed=seed)  # marks the folder, if interrupted
    molecules = problem("molecules")
    for label in LABELS:
        progress(label)
        settings = replace(settings_of(label), epochs=epochs)
        record = runs.Run(
            out / label,
            benchmark="molecules",
            method=label,
            tasks=molecules.tasks,
            seed=seed,
            settings={"lr": settings.lr, "options": settings.options, "epochs": epochs},
        )
        result = train(molecules, settings, seed, record)
        directions = {metric.name: metric.higher_is_better for metric in molecules.metrics}
        record.finish(result.test, directions, result.seconds_per_step)
    rows = table(runs.load(out))
    results = {"headline": headline(rows), "rows": [as_dict(row) for row in rows]}
    folder.write_summary(results, settings=settings_used, seed=seed)
    return rows, results


def is_of_demo(folder: Path) -> bool:
    """Whether everything in ``folder`` was written by an earlier demo."""
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        mine = bool(summary["settings"]["job"] == JOB)
    except (OSError, ValueError, KeyError, TypeError):
        return False
    inside = {path.name for label in LABELS for path in folder.glob(f"{label}/*")}
    outside = {path.name for path in folder.iterdir()}
    return mine and outside <= {*LABELS, *FILES} and inside <= {METRICS, SUMMARY}


def headline(rows: list[Row]) -> dict[str, Any]:
    """The demo in one line: the job, before, after, and what is missing of its promise."""
    change = {row.method: row.delta_m.mean if row.delta_m else math.inf for row in rows}
    kept = change["go4align"] < change["ls"]
    return {
        "job": "seven properties of molecules in one network: error, against one network each",
        "before": f"{change['ls']:+.1f} % sum of the losses",
        "after": f"{change['go4align']:+.1f} % GO4Align",
        "missing": [] if kept else ["GO4Align is not better than the plain sum of the losses"],
    }
