"""Pictures for the reports; matplotlib is imported when one is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from go4align import runs
from go4align.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from go4align.report import Row
    from go4align.tasks.toy import Descent

COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#7f4f24",
    "#666666",
    "#9b5de5",
    "#b5a100",
    "#000000",
)


def _figure(width: float, height: float) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError(
            'the report needs matplotlib: pip install "go4align[report]"'
        ) from error
    return Figure(figsize=(width, height), layout="constrained")


def changes(rows: Sequence[Row]) -> Figure:
    """Draw Δm and its interval, one line per method, best at the top."""
    shown = [row for row in rows if row.delta_m is not None]
    figure = _figure(7.5, 1.2 + 0.3 * len(shown))
    axis: Any = figure.subplots()
    for place, row in enumerate(shown):
        summary = row.delta_m
        assert summary is not None
        own = row.method.startswith("go4align")
        colour = COLOURS[1] if own else COLOURS[0]
        if summary.runs > 1:
            axis.plot([summary.low, summary.high], [place, place], color=colour, linewidth=2.5)
        axis.plot(summary.mean, place, "o" if own else "s", color=colour, markersize=6)
    axis.axvline(0, color="#888888", linewidth=1)
    axis.set_yticks(range(len(shown)), [_literal(row.method) for row in shown])
    axis.invert_yaxis()
    axis.set_xlabel("Δm in %, lower is better; 0 is one network per task")
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.grid(axis="x", alpha=0.3)
    return figure


def history(run: Mapping[str, Any]) -> Figure:
    """Draw losses, weights and groups of one run over its steps."""
    parts = {
        prefix: found
        for prefix in ("loss", "weight", "group")
        if (found := runs.curves(run["folder"], prefix))
    }
    tasks = list(parts["loss"])
    few = min(len(tasks), 8)
    heights = [2.2 if name != "group" else 0.5 + 0.24 * len(tasks) for name in parts]
    figure = _figure(7.5, sum(heights) + 0.5)
    axes: Any = figure.subplots(len(parts), 1, sharex=True, squeeze=False, height_ratios=heights)[
        :, 0
    ]
    titles = {"loss": "training loss", "weight": "weight", "group": "group"}
    for axis, (name, found) in zip(axes, parts.items(), strict=True):
        axis.set_ylabel(titles[name])
        axis.spines[["top", "right"]].set_visible(False)
        if name == "group":
            _groups(figure, axis, found)
            continue
        for place, task in enumerate(tasks):
            steps, values = found[task]
            axis.plot(
                steps,
                _smooth(values),
                color=COLOURS[place % len(COLOURS)],
                linestyle="-" if place < len(COLOURS) else "--",
                linewidth=1.3,
                label=_literal(task),
            )
        if all(value > 0 for _, values in found.values() for value in values):
            axis.set_yscale("log")
    axes[-1].set_xlabel("step")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles[:12], labels[:12], loc="outside upper center", ncols=few, frameon=False)
    return figure


def _groups(figure: Any, axis: Any, found: Mapping[str, tuple[list[int], list[float]]]) -> None:
    from matplotlib.colors import ListedColormap

    grid = np.array([values for _, values in found.values()])
    steps = next(iter(found.values()))[0]
    most = max(int(grid.max()), 1)
    shades = ListedColormap(["#e6e6e6", *_ramp(most + 1)])
    image = axis.imshow(
        grid,
        aspect="auto",
        interpolation="nearest",
        cmap=shades,
        vmin=-1.5,
        vmax=most + 0.5,
        extent=(steps[0], max(steps[-1], steps[0] + 1), len(grid) - 0.5, -0.5),
    )
    axis.set_yticks(range(len(grid)), [_literal(name) for name in found])
    bar = figure.colorbar(image, ax=axis, ticks=range(most + 1), fraction=0.03, pad=0.01)
    bar.ax.set_ylim(-0.5, most + 0.5)
    bar.ax.set_title("small weight: 0", fontsize=7, loc="left")


def _ramp(count: int) -> list[str]:
    """From pale to dark blue."""
    pale, dark = np.array([214, 230, 244]), np.array([8, 48, 107])
    shares = np.linspace(0, 1, count)[:, None]
    return [
        "#{:02x}{:02x}{:02x}".format(*row) for row in (pale + shares * (dark - pale)).astype(int)
    ]


def _literal(text: str) -> str:
    """``text`` without what matplotlib would read as a formula, or as "no entry in the legend"."""
    return (" " + text if text.startswith("_") else text).replace("$", r"\$")


def _smooth(values: Sequence[float], window: int = 5) -> list[float]:
    half = window // 2
    parts = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return [sum(part) / len(part) for part in parts]


def landscape(descents: Mapping[str, Sequence[Descent]]) -> Figure:
    """Draw the paths of every method over the contours of the toy problem's mean loss."""
    from go4align.tasks import toy

    columns = min(3, len(descents))
    lines = -(-len(descents) // columns)
    figure = _figure(3.1 * columns, 3.0 * lines + 0.3)
    axes: Any = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).ravel()
    x = np.linspace(-10, 10, 161)
    grid = np.array([[_total(a, b) for a in x] for b in x])
    points, _ = toy.front()
    for axis in axes[len(descents) :]:
        axis.set_visible(False)
    for axis, (name, runs_of) in zip(axes, descents.items(), strict=False):
        axis.contour(x, x, grid, levels=18, colors="#bbbbbb", linewidths=0.5)
        axis.plot(*points.T, color="#999999", linewidth=4, alpha=0.6)
        for place, descent in enumerate(runs_of):
            colour = COLOURS[place]
            axis.plot(*descent.path.T, color=colour, linewidth=1.2)
            axis.plot(*descent.path[0], "o", color=colour, markersize=4)
            axis.plot(*descent.path[-1], "*", color=colour, markersize=9, markeredgecolor="k")
        reached = sum(descent.reached for descent in runs_of)
        ends = sum(descent.collapsed for descent in runs_of)
        axis.set_title(
            f"{name}\n{reached}/{len(runs_of)} on the front, {ends} at an end", fontsize=9
        )
        axis.set(xlim=(-10, 10), ylim=(-10, 10))
    return figure


def _total(x1: float, x2: float) -> float:
    from go4align.tasks import toy

    values, _ = toy.losses_and_gradients(x1, x2)
    return float(values[0] / toy.SCALE + values[1])
