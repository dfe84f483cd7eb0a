"""Pictures for the reports; matplotlib is imported when one is drawn."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lemae.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lemae.ksmt import NodeInfo

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#666666", "#000000")
#: Nodes that a drawn tree shows at most, the most visited ones.
MOST_NODES = 24


def _figure(width: float, height: float) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError('the report needs matplotlib: pip install "lemae[report]"') from (
            error
        )
    return Figure(figsize=(width, height), layout="constrained")


def _clean(axis: Any) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25)


def curves(runs: Mapping[str, Sequence[Sequence[Mapping[str, float]]]]) -> Figure:
    """Draw win rates over steps: one thin line per run, a thick one for the mean of a method.

    Args:
        runs: by method, the ``curve`` of each seed.
    """
    figure = _figure(7.5, 4)
    axis: Any = figure.subplots()
    for colour, (name, seeds) in zip(COLOURS, runs.items(), strict=False):
        ends = [curve[-1]["step"] for curve in seeds]
        # A run that was stopped early keeps its last rate.
        steps = np.unique([point["step"] for curve in seeds for point in curve])
        rates = np.array(
            [
                np.interp(steps, [p["step"] for p in curve], [p["sampled"] for p in curve], left=0)
                for curve in seeds
            ]
        )
        if len(seeds) > 1:
            for row, end in zip(rates, ends, strict=True):
                here = steps <= end
                axis.plot(steps[here] / 1000, row[here], color=colour, alpha=0.3, linewidth=0.8)
        axis.plot(steps / 1000, rates.mean(0), color=colour, linewidth=2, label=name)
    axis.set_xlabel("environment steps, thousand")
    axis.set_ylabel("win rate, sampled actions")
    axis.set_ylim(-0.03, 1.03)
    axis.legend(frameon=False)
    _clean(axis)
    return figure


def tree(nodes: Sequence[tuple[tuple[int, ...], NodeInfo]], names: Sequence[str]) -> Figure:
    """Draw orders in which key states were met, with visits and successes, root on the left.

    Args:
        nodes: path and counts of each node, parents before children.
        names: of the key states.
    """
    kept = sorted(nodes, key=lambda node: (-node[1].visits, len(node[0])))[:MOST_NODES]
    info = dict(kept)
    # A path is drawn as a whole or not at all.
    info = {
        path: one for path, one in info.items() if all(path[:n] in info for n in range(len(path)))
    }
    leaves = [path for path in sorted(info) if not any(p[:-1] == path and p for p in info)]
    heights: dict[tuple[int, ...], float] = {path: -float(i) for i, path in enumerate(leaves)}
    for path in sorted(info, key=len, reverse=True):
        below = [heights[p] for p in info if p and p[:-1] == path]
        if below:
            heights[path] = float(np.mean(below))
    depth = max(map(len, info), default=0)
    figure = _figure(2.0 + 1.7 * depth, 1.0 + 0.9 * max(1, len(leaves)))
    axis: Any = figure.subplots()
    most = max((one.visits for one in info.values()), default=1) or 1
    for path, one in info.items():
        at = (len(path), heights[path])
        if path:
            start = (len(path) - 1, heights[path[:-1]])
            width = 0.6 + 3.4 * one.visits / most
            axis.plot(*zip(start, at, strict=True), color="#bbbbbb", linewidth=width, zorder=1)
        colour = COLOURS[2] if one.successes else COLOURS[0]
        axis.scatter(*at, s=50, color=colour, zorder=2)
        name = _wrapped(names[path[-1]]) if path else "start"
        won = f", {one.successes} won" if one.successes else ""
        axis.annotate(
            f"{name}\n{one.visits}{won}",
            at,
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=8,
        )
    axis.set_xlim(-0.6, depth + 0.6)
    axis.set_ylim(min(heights.values(), default=0) - 0.3, 0.9)
    axis.axis("off")
    return figure


def _wrapped(name: str) -> str:
    """A name in lines of up to 18 characters, broken at underscores."""
    return "\n".join(textwrap.wrap(name.replace("_", " "), 18))


def maps(pictures: Mapping[str, np.ndarray]) -> Figure:
    """Put pictures of maps side by side.

    Args:
        pictures: uint8 ``[H, W, 3]`` by title.
    """
    figure = _figure(3.6 * len(pictures), 3.9)
    axes: Any = figure.subplots(1, len(pictures), squeeze=False)[0]
    for axis, (title, picture) in zip(axes, pictures.items(), strict=True):
        axis.imshow(picture, interpolation="nearest")
        axis.set_title(title, fontsize=10)
        axis.axis("off")
    return figure


def episode(intrinsic: np.ndarray, goals: np.ndarray, names: Sequence[str]) -> Figure:
    """Draw the intrinsic reward of one episode, step by step, coloured by the goal it leads to.

    Args:
        intrinsic: ``[T]``.
        goals: int ``[T]``, -1 where there is none.
        names: of the key states; goals beyond them are the success itself.
    """
    figure = _figure(7.5, 2.8)
    axis: Any = figure.subplots()
    steps = np.arange(len(intrinsic))
    for goal in dict.fromkeys(goals.tolist()):
        here = goals == goal
        name = "no goal" if goal < 0 else names[goal] if goal < len(names) else "success"
        colour = "#cccccc" if goal < 0 else COLOURS[goal % len(COLOURS)]
        axis.bar(steps[here], intrinsic[here], color=colour, width=1.0, label=f"towards {name}")
    axis.set_xlabel("step of the episode")
    axis.set_ylabel("intrinsic reward")
    axis.legend(frameon=False, fontsize=8)
    _clean(axis)
    return figure
