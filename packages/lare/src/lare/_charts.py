"""Pictures for the reports; matplotlib is imported when one is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lare.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#666666", "#000000")


def _figure(width: float, height: float) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError('the report needs matplotlib: pip install "lare-rl[report]"') from (
            error
        )
    return Figure(figsize=(width, height), layout="constrained")


def _clean(axis: Any) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25)


def episode(true: np.ndarray, predicted: np.ndarray, shares: Mapping[str, np.ndarray]) -> Figure:
    """Draw one episode: true and predicted reward above, what each factor adds below.

    Args:
        true: ``[T]``.
        predicted: ``[T]``.
        shares: ``[T]`` by factor.
    """
    figure = _figure(8, 5.2)
    above, below = figure.subplots(2, 1, sharex=True)
    steps = np.arange(len(true))
    above.plot(steps, true, color="#000000", linewidth=1.6, label="true, never shown to the method")
    above.plot(steps, predicted, color=COLOURS[0], linewidth=1.6, label="predicted from returns")
    above.set_ylabel("reward of the step")
    above.legend(frameon=False, fontsize=9)
    for colour, (name, share) in zip(COLOURS, shares.items(), strict=False):
        below.plot(steps, share, color=colour, linewidth=1.3, label=name)
    below.axhline(0, color="#999999", linewidth=0.8)
    below.set_xlabel("step of the episode")
    below.set_ylabel("change by the factor")
    below.legend(frameon=False, fontsize=8, ncols=2)
    for axis in (above, below):
        _clean(axis)
    return figure


def curves(scores: Mapping[str, Sequence[Mapping[int, float]]]) -> Figure:
    """Draw returns over steps: one thin line per run, a thick one for the mean of a method.

    Args:
        scores: by method, one ``{step: return}`` per seed.
    """
    figure = _figure(7.5, 4)
    axis: Any = figure.subplots()
    for index, (name, runs) in enumerate(scores.items()):
        colour = COLOURS[index % len(COLOURS)]
        style = ("-", "--", ":")[index // len(COLOURS) % 3]
        steps = sorted(set.intersection(*(set(run) for run in runs)))
        values = np.array([[run[step] for step in steps] for run in runs])
        if len(runs) > 1:
            for row in values:
                axis.plot(steps, row, color=colour, alpha=0.3, linewidth=0.8)
        axis.plot(steps, values.mean(0), color=colour, lw=2, ls=style, marker="o", ms=3, label=name)
    axis.set_xlabel("environment steps")
    axis.set_ylabel("true return")
    axis.legend(frameon=False)
    _clean(axis)
    return figure
