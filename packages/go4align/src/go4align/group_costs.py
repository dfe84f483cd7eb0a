"""What grouping would lose, for every number of groups at once: to choose K from one run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from go4align import runs
from go4align.clustering import cluster_costs
from go4align.errors import ConfigError, DataError


def over_run(folder: str | Path, *, space: str = "log", beta: float = 1e-4) -> dict[str, Any]:
    """Unexplained share of the indicators' spread for K = 1..M, over the records of a run.

    Indicators are computed from the recorded losses, Eqs. 5 to 7; between two records the losses
    are taken to stay what they were at the later one.

    Args:
        folder: A run folder with records ``loss/<task>``, of any method.
        space: ``"log"`` or ``"linear"``, as of the weighting.
        beta: As of the weighting.

    Returns:
        ``tasks``, ``records`` (their number) and ``unexplained``: by K the mean and the outer
        tenths (``low``, ``high``) of cost(K) / cost(1); 0 where all indicators are equal.

    Raises:
        DataError: if the folder has no losses.
        ConfigError: for another space, or losses that are not positive.
    """
    if not 0 <= beta < 1e100:
        raise ConfigError(f"beta is {beta}: give a finite number of at least 0")
    if space not in ("log", "linear"):
        raise ConfigError(f'space is {space!r}: give "log" or "linear"')
    try:
        found = runs.curves(folder, "loss")
    except OSError as error:
        raise DataError(f"{folder} has no metrics.jsonl: name the folder of one run") from error
    if not found:
        raise DataError(
            f"metrics.jsonl in {folder} has no losses: write a line for each, such as "
            '{"step": 0, "name": "loss/depth", "value": 0.7}'
        )
    shares = _unexplained(found, space, beta)
    columns = {
        k + 1: {
            "mean": float(shares[:, k].mean()),
            "low": float(np.quantile(shares[:, k], 0.1)),
            "high": float(np.quantile(shares[:, k], 0.9)),
        }
        for k in range(shares.shape[1])
    }
    return {"tasks": list(found), "records": len(shares), "unexplained": columns}


def _unexplained(
    found: Mapping[str, tuple[list[int], list[float]]], space: str, beta: float
) -> np.ndarray[Any, Any]:
    # Steps at which every task has a record: a killed run may have written half of its last one.
    common = sorted(set.intersection(*(set(steps) for steps, _ in found.values())))
    if not common:
        raise ConfigError("there is no step at which the losses of all tasks were recorded")
    rows_of = [dict(zip(*columns, strict=True)) for columns in found.values()]
    steps = np.array(common, dtype=np.float64)
    losses = np.array([[row[step] for row in rows_of] for step in common])
    if not (np.isfinite(losses).all() and (losses > 0).all()):
        raise ConfigError("the run has losses that are not positive: indicators are not defined")
    accumulated = np.cumsum(losses * np.diff(steps, prepend=steps[0] - 1)[:, None], 0)
    rows = []
    for loss, total in zip(losses, accumulated, strict=True):
        indicators = -np.log(loss) - beta * total
        values = indicators if space == "log" else np.exp(indicators - indicators.max())
        costs = cluster_costs(values)
        rows.append(costs / costs[0] if costs[0] > 0 else np.zeros(len(costs)))
    return np.stack(rows)
