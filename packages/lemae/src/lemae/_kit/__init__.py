"""Run folder, HTML report and interval statistics.

The few things that every package of the repository needs. This folder is copied byte for byte
from one package to the others, so it names no package: it imports itself, numpy and the standard
library, and nothing heavier.
"""

from .errors import KitError, ReportError, RunFolderError, ScoreError
from .report import Report
from .run import RunFolder, read_metrics, versions
from .stats import Summary, bootstrap_interval, iqm, mean, paired_difference, summarize

__all__ = [
    "KitError",
    "Report",
    "ReportError",
    "RunFolder",
    "RunFolderError",
    "ScoreError",
    "Summary",
    "bootstrap_interval",
    "iqm",
    "mean",
    "paired_difference",
    "read_metrics",
    "summarize",
    "versions",
]
