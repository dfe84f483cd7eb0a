"""Measures of multi-task results: against single-task training, and against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from go4align.errors import ConfigError


def delta_m(
    values: ArrayLike, baseline: ArrayLike, higher_is_better: Sequence[bool] | bool = False
) -> Any:
    r"""Mean relative change of all metrics against single-task training, in percent.

    .. math::
        \Delta_m = \frac{100}{S} \sum_{s=1}^{S} (-1)^{\delta_s} \frac{M_s - B_s}{B_s},

    with :math:`\delta_s = 1` where higher is better. Lower is better; 0 is as good as one network
    per task. Every metric counts the same, so that a task with many metrics counts more: see
    :func:`delta_p` for the other convention.

    Args:
        values: Metrics of a method, shape (..., S).
        baseline: Metrics of single-task training, broadcast against ``values``.
        higher_is_better: One flag per metric, or one for all.

    Returns:
        float of shape (...): percent, lower is better.

    Raises:
        ConfigError: if shapes or lengths differ, a number is not finite, or a baseline is 0.

    Example:
        >>> float(delta_m([0.9, 11.0], [1.0, 10.0], [True, False]))
        10.0

    Reference: arXiv 2404.06486, Section 5 (the measure of Maninis et al., 2019).
    """
    change, _ = _relative_change(values, baseline, higher_is_better)
    return -100.0 * change.mean(-1)


def delta_p(
    values: ArrayLike,
    baseline: ArrayLike,
    higher_is_better: Sequence[bool] | bool,
    task_of: Sequence[int | str],
) -> Any:
    r"""LibMTL's measure: mean over tasks of the mean change of each task's metrics, in percent.

    Higher is better, and each task counts the same, however many metrics it has: the numbers do not
    compare with :func:`delta_m`, not even after a change of sign.

    Args:
        values: Metrics of a method, shape (..., S).
        baseline: Metrics of single-task training, broadcast against ``values``.
        higher_is_better: One flag per metric, or one for all.
        task_of: The task of each metric, S names or numbers.

    Returns:
        float of shape (...): percent, higher is better.

    Raises:
        ConfigError: as for :func:`delta_m`.

    Example:
        >>> float(delta_p([0.5, 12.0, 10.0], [1.0, 10.0, 10.0], [True, False, False], "abb"))
        -30.0
    """
    change, count = _relative_change(values, baseline, higher_is_better)
    if len(task_of) != count:
        raise ConfigError(f"task_of has {len(task_of)} entries for {count} metrics")
    tasks = list(dict.fromkeys(task_of))
    columns = [[i for i, name in enumerate(task_of) if name == task] for task in tasks]
    return 100.0 * np.stack([change[..., c].mean(-1) for c in columns], -1).mean(-1)


def mean_rank(
    scores: Mapping[str, ArrayLike], higher_is_better: Sequence[bool] | bool = False
) -> dict[str, float]:
    """Mean over the metrics of each method's rank among the methods; ties share the mean rank.

    Args:
        scores: Metrics by method, each of shape (S,). Leave single-task training out.
        higher_is_better: One flag per metric, or one for all.

    Returns:
        Mean rank by method, 1 is best.

    Raises:
        ConfigError: if there is no method, lengths differ, or a number is not finite.

    Example:
        >>> mean_rank({"a": [1.0, 5.0], "b": [2.0, 4.0], "c": [3.0, 3.0]}, [True, False])
        {'a': 3.0, 'b': 2.0, 'c': 1.0}
    """
    if not scores:
        raise ConfigError("scores is empty: give the metrics of at least one method")
    rows = {name: np.asarray(row, dtype=np.float64) for name, row in scores.items()}
    lengths = {name: row.shape for name, row in rows.items()}
    if len(set(lengths.values())) > 1 or next(iter(rows.values())).ndim != 1:
        raise ConfigError(f"scores have shapes {lengths}: give the same (S,) for every method")
    table = np.stack(list(rows.values()))
    if not np.isfinite(table).all():
        raise ConfigError("scores hold NaN or infinity: leave out what diverged, or name its rank")
    table = np.where(_flags(higher_is_better, table.shape[1]), -table, table)
    below = (table[None] < table[:, None]).sum(1)
    equal = (table[None] == table[:, None]).sum(1)
    ranks = below + (equal + 1) / 2
    return {name: float(mean) for name, mean in zip(rows, ranks.mean(1), strict=True)}


def _relative_change(
    values: ArrayLike, baseline: ArrayLike, higher_is_better: Sequence[bool] | bool
) -> tuple[NDArray[np.float64], int]:
    """(values - baseline) / baseline with the sign turned so that positive is better."""
    ours, base = np.asarray(values, dtype=np.float64), np.asarray(baseline, dtype=np.float64)
    if ours.ndim == 0 or base.ndim == 0 or ours.shape[-1] != base.shape[-1] or not ours.size:
        raise ConfigError(
            f"values have shape {ours.shape} and the baseline {base.shape}: the last axis of both "
            "must run over the same metrics"
        )
    if not (np.isfinite(ours).all() and np.isfinite(base).all()):
        raise ConfigError("values or baseline hold NaN or infinity: a diverged run has no measure")
    if (base == 0).any():
        where = np.argwhere(base == 0)[0].tolist()
        raise ConfigError(
            f"the baseline is 0 at {where}: a change relative to 0 means nothing; leave the metric "
            "out, or report another one (an error in place of an accuracy)"
        )
    sign = np.where(_flags(higher_is_better, ours.shape[-1]), 1.0, -1.0)
    return sign * (ours - base) / base, ours.shape[-1]


def _flags(higher_is_better: Sequence[bool] | bool, count: int) -> NDArray[np.bool_]:
    flags = np.asarray(higher_is_better, dtype=bool)
    if flags.shape not in ((), (count,)):
        raise ConfigError(
            f"higher_is_better has shape {flags.shape}: give one flag, or {count} of them"
        )
    return np.broadcast_to(flags, (count,))
