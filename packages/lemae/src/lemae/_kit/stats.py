"""Averages of scores over seeds, with intervals that say how far to trust them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import ScoreError

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Summary:
    """What is to be reported together about the scores of several seeds.

    Attributes:
        mean: mean over all scores.
        iqm: interquartile mean, the mean of the middle half of all scores.
        low: lower end of the interval for ``iqm``; NaN for a single run.
        high: upper end of it.
        runs: number of runs (seeds) per task.
        tasks: number of tasks.
    """

    mean: float
    iqm: float
    low: float
    high: float
    runs: int
    tasks: int = 1

    def __str__(self) -> str:
        tasks = f", {self.tasks} tasks" if self.tasks > 1 else ""
        seeds = "1 seed" if self.runs == 1 else f"{self.runs} seeds"
        interval = f"[{self.low:.4g}, {self.high:.4g}]" if self.runs > 1 else "[no interval]"
        return f"mean {self.mean:.4g}, IQM {self.iqm:.4g} {interval} ({seeds}{tasks})"


def mean(scores: ArrayLike, axis: int | None = None) -> Any:
    """Mean.

    Args:
        scores: numbers of any shape.
        axis: axis to average over; None for all.

    Returns:
        A float, or an array without that axis.
    """
    return np.mean(np.asarray(scores, dtype=np.float64), axis=axis)


def iqm(scores: ArrayLike, axis: int | None = None) -> Any:
    """Interquartile mean: the mean without the lowest and the highest quarter.

    It moves less than the mean under one failed seed and less than the median under chance.
    Of n scores, ``floor(n / 4)`` are left out at each end, as ``scipy.stats.trim_mean(x, 0.25)``
    does.

    Args:
        scores: numbers of any shape, at least one.
        axis: axis to average over; None for all.

    Returns:
        A float, or an array without that axis.
    """
    values = np.asarray(scores, dtype=np.float64)
    if axis is None:
        values, axis = values.ravel(), 0
    values = np.sort(np.moveaxis(values, axis, -1), axis=-1)
    count = values.shape[-1]
    cut = count // 4
    return np.mean(values[..., cut : count - cut], axis=-1)


def bootstrap_interval(
    scores: ArrayLike,
    *,
    statistic: Callable[..., Any] = iqm,
    confidence: float = 0.95,
    draws: int = 2000,
    seed: int | np.random.Generator = 0,
) -> tuple[float, float]:
    """Percentile interval of a statistic by the stratified bootstrap.

    Each draw takes, within every task, as many runs as there are, with replacement, and computes
    the statistic of all of them.

    Args:
        scores: shape ``(runs,)``, or ``(tasks, runs)``; finite.
        statistic: takes an array and ``axis``, as ``iqm`` and ``mean`` do.
        confidence: share of the draws that lie within the interval, between 0 and 1.
        draws: number of draws. Memory: ``8 * draws * tasks * runs`` bytes.
        seed: of the draws, or a generator to take them from.

    Returns:
        Lower and upper end; both NaN for a single run, from which no spread can be learned.

    Raises:
        ScoreError: if ``scores`` has another shape, is empty, or is not finite, or if
            ``confidence`` or ``draws`` is out of range.
    """
    table = _score_table(scores)
    if not 0 < confidence < 1:
        raise ScoreError(f"confidence is {confidence}: give a share between 0 and 1, such as 0.95")
    if draws < 1:
        raise ScoreError(f"draws is {draws}: give at least 1, better 2000")
    tasks, runs = table.shape
    if runs == 1:
        return float("nan"), float("nan")
    generator = np.random.default_rng(seed)
    chosen = generator.integers(runs, size=(draws, tasks, runs))
    drawn = np.take_along_axis(table[None], chosen, axis=2).reshape(draws, tasks * runs)
    outside = (1 - confidence) / 2
    low, high = np.quantile(statistic(drawn, axis=1), [outside, 1 - outside])
    return float(low), float(high)


def summarize(scores: ArrayLike, *, seed: int | np.random.Generator = 0) -> Summary:
    """Mean, IQM and its 95 % interval, with the number of seeds.

    Args:
        scores: shape ``(runs,)``, or ``(tasks, runs)``; finite.
        seed: of the bootstrap.

    Returns:
        The four together; ``str()`` of it is a line for a table.

    Raises:
        ScoreError: as for :func:`bootstrap_interval`.
    """
    table = _score_table(scores)
    low, high = bootstrap_interval(table, seed=seed)
    tasks, runs = table.shape
    return Summary(float(mean(table)), float(iqm(table)), low, high, runs, tasks)


def paired_difference(
    scores: ArrayLike, baseline: ArrayLike, *, seed: int | np.random.Generator = 0
) -> Summary:
    """Summary of ``scores - baseline``, seed by seed.

    Runs that share seed and data share much of their chance as well, and the difference within a
    pair is free of it: its interval is narrower than that of two separate averages. An interval
    without 0 says that the methods differ.

    Args:
        scores: shape ``(runs,)``, or ``(tasks, runs)``; finite.
        baseline: the same shape, in the same order of seeds.
        seed: of the bootstrap.

    Returns:
        Mean, IQM and interval of the difference.

    Raises:
        ScoreError: if the shapes differ, or as for :func:`bootstrap_interval`.
    """
    ours, theirs = _score_table(scores), _score_table(baseline)
    if ours.shape != theirs.shape:
        raise ScoreError(
            f"scores have (tasks, runs) {ours.shape} and the baseline {theirs.shape}: "
            "pairs need the same seeds in both"
        )
    return summarize(ours - theirs, seed=seed)


def _score_table(scores: ArrayLike) -> Scores:
    """``scores`` as float64 of shape (tasks, runs)."""
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim == 1:
        table = table[None]
    if table.ndim != 2 or table.size == 0:
        raise ScoreError(
            f"scores have shape {np.shape(scores)}: give (runs,) or (tasks, runs), not empty"
        )
    if not np.isfinite(table).all():
        raise ScoreError(
            "scores hold NaN or infinity: decide first what a diverged run counts as, for "
            "example the score of a method that does nothing"
        )
    return table
