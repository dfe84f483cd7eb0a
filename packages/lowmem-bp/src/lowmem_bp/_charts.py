"""Pictures for reports; matplotlib is imported inside, so that nothing else needs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lowmem_bp.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lowmem_bp.memory import MemoryReport

# One colour per kind in every picture, chosen to differ in lightness as well as in hue.
_COLOURS = {
    "attention": "#4c6a92",
    "linear": "#7fa8d1",
    "norm": "#2a9d8f",
    "activation": "#e76f51",
    "mlp": "#f4a261",
    "dropout": "#9b72aa",
    "embedding": "#8d99ae",
    "loss": "#6c584c",
    "weight copy": "#c9ada7",
    "other": "#adb5bd",
}


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of so many inches, or say how to get matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError(
            "pictures need matplotlib, which is not installed: pip install 'lowmem-bp[report]'"
        ) from error
    return Figure(figsize=(width, height), layout="constrained")


def memory_by_module(reports: Sequence[MemoryReport]) -> Figure:
    """Draw bytes per token of each layer, stacked by kind, one panel per report."""
    groups = _group_names(reports)
    width = 2.6 + 2.6 * len(reports)
    figure = new_figure(min(width, 14.0), 1.4 + 0.28 * len(groups))
    axes: Any = figure.subplots(1, len(reports), sharex=True, sharey=True, squeeze=False)[0]
    kinds: list[str] = []
    for axis, report in zip(axes, reports, strict=True):
        totals = {group: dict.fromkeys(_COLOURS, 0.0) for group in groups}
        for item in report.held:
            totals[_group(item.module)][item.kind] += item.nbytes / max(report.tokens, 1)
        left = [0.0] * len(groups)
        for kind, colour in _COLOURS.items():
            values = [totals[group][kind] for group in groups]
            if sum(values) * report.tokens >= 0.002 * report.total_bytes:
                axis.barh(groups, values, left=left, color=colour, height=0.75)
                left = [a + b for a, b in zip(left, values, strict=True)]
                kinds += [kind] if kind not in kinds else []
        axis.set_title(f"{report.label}\n{report.total_bytes / max(report.tokens, 1):,.0f} B/token")
        axis.set_xlabel("bytes per token")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].invert_yaxis()
    handles = [_patch(_COLOURS[kind]) for kind in _COLOURS if kind in kinds]
    labels = [kind for kind in _COLOURS if kind in kinds]
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
    return figure


def _patch(colour: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(color=colour)


def _group(module: str) -> str:
    """Name of the layer a module belongs to: everything up to its first number."""
    parts = module.split(".")
    for i, part in enumerate(parts):
        if part.isdigit():
            return ".".join(parts[: i + 1])
    return parts[0] or "(model)"


def _group_names(reports: Sequence[MemoryReport]) -> list[str]:
    names = [_group(item.module) for report in reports for item in report.held]
    return list(dict.fromkeys(names))


def loss_curves(curves: Mapping[str, Sequence[float]], ylabel: str = "training loss") -> Figure:
    """Draw one line per mode over the training steps, lightly smoothed, raw values behind."""
    figure = new_figure(7.0, 3.6)
    axis: Any = figure.subplots()
    colours = ("#333333", "#2a9d8f", "#4c6a92", "#e76f51", "#9b72aa", "#f4a261")
    styles = ("-", "--", "-.", ":", (0, (5, 1, 1, 1)), (0, (1, 1)))
    for i, (name, values) in enumerate(curves.items()):
        colour, style = colours[i % len(colours)], styles[i % len(styles)]
        axis.plot(values, color=colour, alpha=0.15, linewidth=1)
        axis.plot(_smooth(values), color=colour, linestyle=style, label=name, linewidth=1.6)
    axis.set_xlabel("step")
    axis.set_ylabel(ylabel)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    return figure


def _smooth(values: Sequence[float], window: int = 9) -> list[float]:
    half = window // 2
    parts = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return [sum(part) / len(part) for part in parts]
