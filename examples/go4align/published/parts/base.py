"""Single-task results that a run is compared with, from runs of one's own."""

from collections.abc import Iterable
from pathlib import Path
from statistics import fmean

from go4align.errors import DataError
from go4align.runs import load

from .errors import ProtocolError


def read_base(folder: Path, benchmark: str, metrics: Iterable[str]) -> dict[str, float]:
    """Average the results of all single-task runs below a folder, by metric.

    Args:
        folder: holds run folders, of any depth, made with ``--method stl``.
        benchmark: whose runs count.
        metrics: what is needed.

    Returns:
        metric -> mean over the runs that have it, that is over seeds.
    """
    try:
        runs = [summary["results"] for summary in load(folder)]
    except DataError:
        runs = []
    alone = f"{benchmark}/"
    results = [run["metrics"] for run in runs if run["benchmark"].startswith(alone)]
    found = {name: [result[name] for result in results if name in result] for name in metrics}
    if missing := [name for name, values in found.items() if not values]:
        raise ProtocolError(
            f"--base {folder}: {len(results)} finished single-task runs of {benchmark} are there, "
            f"none with {', '.join(missing)}; run --method stl --task NAME for every task, with "
            "--out below that folder"
        )
    return {name: fmean(values) for name, values in found.items()}
