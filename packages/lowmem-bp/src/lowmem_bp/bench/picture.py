"""The picture of a comparison: memory against time, relative to stock, one point per competitor."""

from __future__ import annotations

import platform
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lowmem_bp._charts import new_figure
from lowmem_bp._version import __version__
from lowmem_bp.bench.blocks import Case
from lowmem_bp.bench.comparison import Measurement
from lowmem_bp.bench.competitors import MODES
from lowmem_bp.bench.results import note

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "memory_time.png"

#: Kind of competitor: colour, marker, words of the legend.
_KINDS = {
    "stock": ("#222222", "s", "stock torch"),
    "ours": ("#c8553d", "o", "modes of lowmem-bp"),
    "others": ("#33658a", "D", "others"),
}
_MEASURES = {
    "ratio": "memory held for backward, relative to stock",
    "peak_ratio": "peak memory of a step, relative to stock",
}
_DIRECTIONS = ((0, 1), (0.7, 0.7), (-0.7, 0.7), (0, -1), (0.7, -0.7), (-0.7, -0.7), (1, 0), (-1, 0))
#: Where a label may stand around its point, in points of print, the nearest first.
_PLACES = [(far * x, far * y) for far in (7, 14, 22, 32, 45, 60) for x, y in _DIRECTIONS]


def memory_against_time(measurements: Sequence[Measurement], footer: str = "") -> Figure:
    """Draw one row of panels per block: memory held, and peak memory, against time.

    Args:
        measurements: Timed ones of :func:`lowmem_bp.bench.measure`, of one block or several.
        footer: Sizes and machine, under the picture.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure = new_figure(11.5, 1.0)
    cases = list(dict.fromkeys(m.case for m in measurements))
    figure.set_size_inches(11.5, 0.9 + 4.2 * len(cases))
    panels: Any = figure.subplots(len(cases), 2, squeeze=False)
    drawn = []
    for row, case in zip(panels, cases, strict=True):
        mine = [m for m in measurements if m.case == case]
        for axis, (measure, words) in zip(row, _MEASURES.items(), strict=True):
            drawn.append((axis, _panel(axis, mine, measure)))
            axis.set_title(case, loc="left", fontsize=10)
            axis.set_ylabel(words)
            axis.set_xlabel("time of a step, relative to stock")
    handles = [_handle(*kind) for kind in _KINDS.values()]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, frameon=False)
    figure.supxlabel(_footnote(measurements, footer), fontsize=8, x=0.01, ha="left")
    _place_labels(figure, drawn)
    return figure


def caption(case: Case) -> str:
    """Return sizes, device and versions in one line."""
    device = torch.device(case.device)
    where = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{case.device} ({platform.machine()}), {torch.get_num_threads()} threads"
    )
    return (
        f"{case.layers} {'block' if case.layers == 1 else 'blocks'}, {case.batch} sequences of "
        f"{case.length} tokens, width {case.features}; {where}; "
        f"torch {torch.__version__}, lowmem-bp {__version__}."
    )


def write_picture(path: Path, measurements: Sequence[Measurement], footer: str = "") -> Path:
    """Write :func:`memory_against_time` as PNG to ``path``."""
    memory_against_time(measurements, footer).savefig(path, dpi=130)
    return path


def _kind(m: Measurement) -> str:
    if m.competitor == "stock":
        return "stock"
    return "ours" if m.competitor in (*MODES, "exact-torch") else "others"


def _panel(axis: Any, measurements: Sequence[Measurement], measure: str) -> list[Any]:
    """Draw the points of one panel; return (name, colour, time, memory) of each."""
    points = []
    for m in measurements:
        memory, time = getattr(m, measure), m.time_ratio
        if memory is None or time is None:
            continue
        colour, marker, _words = _KINDS[_kind(m)]
        axis.plot(time.median, memory, marker, color=colour, markersize=7, zorder=3)
        if time.low is not None:
            axis.plot([time.low, time.high], [memory, memory], color=colour, alpha=0.35, zorder=2)
        points.append((m.competitor, colour, time.median, memory))
    axis.axhline(1, color="#999999", linewidth=0.8, linestyle=":", zorder=1)
    axis.axvline(1, color="#999999", linewidth=0.8, linestyle=":", zorder=1)
    axis.margins(0.14)
    axis.set_ylim(0, max([1.0, *(memory for *_rest, memory in points)]) * 1.12)
    axis.spines[["top", "right"]].set_visible(False)
    axis.text(0.01, 0.015, "better: left and down", transform=axis.transAxes, fontsize=8, alpha=0.6)
    return points


def _handle(colour: str, marker: str, words: str) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=colour, marker=marker, linestyle="", label=words)


def _footnote(measurements: Sequence[Measurement], footer: str) -> str:
    """Return the footer, and who is missing in the picture and why."""
    missing = dict.fromkeys(f"{m.competitor} {note(m)}" for m in measurements if note(m))
    lines = [footer, "; ".join(missing), "Lines: 95 % interval of the median."]
    return "\n".join(part for line in lines if line for part in textwrap.wrap(line, 165))


def _place_labels(figure: Figure, panels: Sequence[tuple[Any, list[Any]]]) -> None:
    """Write the name of every point beside it, where it covers neither point nor name."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.transforms import Bbox

    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # fixes where the points are
    figure.set_layout_engine("none")
    renderer, scale = canvas.get_renderer(), figure.dpi / 72
    for axis, points in panels:
        centres = [axis.transData.transform((time, memory)) for *_rest, time, memory in points]
        taken = [
            Bbox.from_extents(x - 4 * scale, y - 4 * scale, x + 4 * scale, y + 4 * scale)
            for x, y in centres
        ]
        for name, colour, time, memory in points:
            label = axis.annotate(
                name,
                (time, memory),
                _PLACES[0],
                textcoords="offset points",
                color=colour,
                fontsize=9,
                zorder=4,
            )
            for x, y in _PLACES:
                label.set_position((x, y))
                label.set_ha("left" if x > 0 else "right" if x < 0 else "center")
                label.set_va("bottom" if y > 0 else "top" if y < 0 else "center")
                box = label.get_window_extent(renderer)
                inside = axis.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1
                if inside and not any(box.overlaps(other) for other in taken):
                    break
            taken.append(label.get_window_extent(renderer))
            if x * x + y * y > 14.5**2:
                axis.annotate(
                    "",
                    (time, memory),
                    (x, y),
                    textcoords="offset points",
                    arrowprops={"arrowstyle": "-", "color": colour, "alpha": 0.5, "shrinkA": 0},
                )
