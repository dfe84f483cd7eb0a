"""Run folder, sweeps, HTML report, interval statistics, seeds, and the frame of a command line.

The few things that every package of the repository needs. This folder is copied byte for byte
from one package to the others, so it names no package: it imports itself, numpy and the standard
library, and nothing heavier; ``command`` imports typer and rich as well, and in use ``seeds``
imports torch, ``TensorBoardFolder`` TensorBoard, and ``run_all`` Ray.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .errors import KitError, ReportError, RunFolderError, ScoreError, SweepError

if TYPE_CHECKING:
    from .report import Report
    from .run import RunFolder, TensorBoardFolder, read_metrics, versions
    from .seeds import seeded
    from .stats import Summary, bootstrap_interval, iqm, mean, paired_difference, summarize
    from .sweep import ENGINES, run_all

__all__ = [
    "ENGINES",
    "KitError",
    "Report",
    "ReportError",
    "RunFolder",
    "RunFolderError",
    "ScoreError",
    "Summary",
    "SweepError",
    "TensorBoardFolder",
    "bootstrap_interval",
    "iqm",
    "mean",
    "paired_difference",
    "read_metrics",
    "run_all",
    "seeded",
    "summarize",
    "versions",
]

# Imported when first used: a command line answers --help without loading numpy.
_HOMES = {
    "ENGINES": "sweep",
    "Report": "report",
    "RunFolder": "run",
    "Summary": "stats",
    "TensorBoardFolder": "run",
    "bootstrap_interval": "stats",
    "iqm": "stats",
    "mean": "stats",
    "paired_difference": "stats",
    "read_metrics": "run",
    "run_all": "sweep",
    "seeded": "seeds",
    "summarize": "stats",
    "versions": "run",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
