"""Pictures for the reports; matplotlib is imported when one is drawn."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lemae.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lemae.ksmt import ChainMemory, NodeInfo
    from lemae.labels import Order

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#666666", "#000000")
#: Nodes that a drawn graph shows at most, the most visited ones.
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
    styles = itertools.product(("-", "--", ":", "-."), COLOURS)
    for (style, colour), (name, seeds) in zip(itertools.cycle(styles), runs.items(), strict=False):
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
        axis.plot(
            steps / 1000, rates.mean(0), color=colour, linestyle=style, linewidth=2, label=name
        )
    axis.set_xlabel("environment steps, thousand")
    axis.set_ylabel("win rate, sampled actions")
    axis.set_ylim(-0.03, 1.03)
    axis.legend(frameon=False)
    _clean(axis)
    return figure


def graph(
    nodes: Mapping[Order, NodeInfo],
    edges: Sequence[tuple[Order, Order]],
    labels: Mapping[Order, str],
) -> Figure:
    """Draw a tree or graph of key states met, with visits and successes, the root on the left.

    Args:
        nodes: counts of each node, the root ``()`` among them; a column for each length.
        edges: pairs of a node and one in the next column.
        labels: of the nodes.
    """
    # Of too many nodes the most visited are drawn, as far as they hang together.
    most_visited = sorted(nodes, key=lambda node: (-nodes[node].visits, len(node)))[:MOST_NODES]
    came_from: dict[Order, list[Order]] = {(): []}
    for node in sorted(most_visited, key=lambda node: (len(node), node)):
        before = [one for one, other in edges if other == node and one in came_from]
        if before:
            came_from[node] = before
    columns: dict[int, list[Order]] = {}
    for node in came_from:
        columns.setdefault(len(node), []).append(node)
    rows = max(map(len, columns.values()))
    at = {
        node: (depth, (len(column) - 1) / 2 - place)
        for depth, column in columns.items()
        for place, node in enumerate(column)
    }
    figure = _figure(2.0 + 1.7 * max(columns), 1.0 + 0.9 * rows)
    axis: Any = figure.subplots()
    most = max(info.visits for info in nodes.values()) or 1
    for node, before in came_from.items():
        for one in before:
            # Not more episodes than this went along here.
            width = 0.6 + 3.4 * min(nodes[one].visits, nodes[node].visits) / most
            ends = zip(at[one], at[node], strict=True)
            axis.plot(*ends, color="#bbbbbb", linewidth=width, zorder=1)
        axis.scatter(*at[node], s=50, color=_colour(nodes[node]), zorder=2)
        axis.annotate(
            f"{_wrapped(labels[node])}\n{_counts(nodes[node])}",
            at[node],
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=8,
        )
    axis.set_xlim(-0.6, max(columns) + 0.6)
    axis.set_ylim(-(rows - 1) / 2 - 0.3, (rows - 1) / 2 + 0.9)
    axis.axis("off")
    return figure


def chain(memory: ChainMemory, names: Sequence[str]) -> Figure:
    """Draw the mean place of each key state in the one order that is kept, the first on top.

    Args:
        memory: the single branch; key states never met have no bar.
        names: of the key states.
    """
    state = memory.state_dict()
    figure = _figure(7.5, 1.0 + 0.45 * max(1, len(names)))
    axis: Any = figure.subplots()
    for row, k in enumerate(memory.ranking):
        info = memory.info((k,))
        if not memory.met[k]:
            axis.text(0.01, row, "never met", va="center", fontsize=8)
            continue
        place = state["totals"][k] / state["weights"][k]
        axis.barh(row, place, color=_colour(info), height=0.6)
        axis.text(place + 0.01, row, _counts(info), va="center", fontsize=8)
    axis.set_yticks(range(len(names)), [names[k].replace("_", " ") for k in memory.ranking])
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.set_xlim(0, 1)
    axis.set_xlabel("mean place in the order")
    _clean(axis)
    return figure


def _colour(info: NodeInfo) -> str:
    return COLOURS[2] if info.successes else COLOURS[0]


def _counts(info: NodeInfo) -> str:
    return f"{info.visits}, {info.successes} won" if info.successes else f"{info.visits}"


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
    """Draw the intrinsic reward of one episode, step by step, coloured by the goal of its segment.

    Args:
        intrinsic: ``[T]``.
        goals: int ``[T]``, -1 where there is none.
        names: of the key states; goals beyond them are the success itself.
    """
    figure = _figure(7.5, 3.2)
    axis: Any = figure.subplots()
    steps = np.arange(len(intrinsic))
    axis.axhline(0, color="#666666", linewidth=0.8)
    for goal in dict.fromkeys(goals.tolist()):
        here = goals == goal
        name = names[goal] if 0 <= goal < len(names) else "success"
        name = "no goal" if goal < 0 else f"towards {name}"
        colour = "#cccccc" if goal < 0 else COLOURS[goal % len(COLOURS)]
        axis.bar(steps[here], intrinsic[here], color=colour, width=1.0, label=name)
        # The segment, also where it earns nothing. A planned goal may be one of an earlier segment.
        ends = np.flatnonzero(np.diff(here.astype(int), prepend=0, append=0))
        for first, last in zip(ends[::2], ends[1::2], strict=True):
            axis.axvspan(first - 0.5, last - 0.5, color=colour, alpha=0.12, linewidth=0)
    axis.set_xlabel("step of the episode")
    axis.set_ylabel("intrinsic reward")
    # Above: no place inside is free in every episode.
    axis.legend(frameon=False, fontsize=8, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    _clean(axis)
    return figure
