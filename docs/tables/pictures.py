"""One picture per package for the front page, drawn from the result files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib import pyplot

from .common import ROOT, load
from .lemae import SIZES, rows_of
from .lowmem_bp import FRONT, MODES

OURS, OTHERS, STOCK = "#c8553d", "#33658a", "#222222"
SIZE = (8.6, 3.3)
#: Where a name may stand around its point: intervals lie sideways, or upright.
UPRIGHT = ((0, 5), (0, -5), (7, 7), (7, -7), (-7, 7), (-7, -7), (7, 0))
SIDEWAYS = ((7, 0), (-7, 0), (7, 7), (7, -7), (-7, 7), (-7, -7), (0, 8))


def save(package: str, figure: Any, note: str) -> None:
    path = ROOT / "docs" / package / "pictures" / "front.png"
    path.parent.mkdir(exist_ok=True)
    figure.supxlabel(note, fontsize=8, x=0.01, ha="left", color="#555555")
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def lowmem_bp() -> None:
    """Memory held against time of a step: the modes, checkpointing and the compiler."""
    run = load("lowmem-bp", "comparison")
    figure, panels = pyplot.subplots(1, 2, figsize=SIZE, sharey=True, layout="constrained")
    for axes, (case, title) in zip(panels, FRONT.items(), strict=True):
        rows = [m for m in run["results"]["measurements"] if m["case"] == case and m["time_ratio"]]
        points = []
        axes.set(ylim=(0, 1.15), xlim=(0.9, 1.42))  # before the names are placed
        for m in rows:
            name, time = m["competitor"], m["time_ratio"]
            mine = name in MODES
            color = STOCK if name == "stock" else OURS if mine else OTHERS
            axes.plot([time["low"], time["high"]], [m["ratio"]] * 2, color=color, alpha=0.35)
            axes.plot(time["median"], m["ratio"], "o" if mine else "D", color=color, ms=6)
            points.append((time["median"], m["ratio"], name, color))
        _names(axes, points, UPRIGHT)
        axes.set_title(f"{title}, bf16, all weights trained", loc="left", fontsize=10)
        axes.set_xlabel("time of a step")
        axes.axhline(1, color="#bbbbbb", lw=0.8, ls=":", zorder=0)
        axes.axvline(1, color="#bbbbbb", lw=0.8, ls=":", zorder=0)
    panels[0].set_ylabel("activations held")
    note = "Relative to stock torch; left and down is better. Lines: 95 % interval."
    save("lowmem-bp", figure, f"{note} CPU, {run['finished'][:10]}.")


def go4align() -> None:
    """Quality against the cost of a step."""
    from go4align import report

    quality, cost = load("go4align", "molecules-adam"), load("go4align", "step")
    ratios = {s["method"]: s["ratio"] for s in cost["results"]["steps"] if s["n_tasks"] == 11}
    figure, axes = pyplot.subplots(figsize=SIZE, layout="constrained")
    points = []
    for row in report.table(quality["runs"]):
        if row.delta_m is None or row.method not in {"ls", *ratios}:
            continue
        mine = row.method.startswith("go4align")
        color = STOCK if row.method == "ls" else OURS if mine else OTHERS
        x = ratios.get(row.method, 1.0)
        axes.plot([x, x], [row.delta_m.low, row.delta_m.high], color=color, alpha=0.35)
        axes.plot(x, row.delta_m.iqm, "o" if mine else "D", color=color, ms=6)
        points.append((x, row.delta_m.iqm, row.method, color))
    axes.set(xscale="log", xlim=(0.85, 45))
    axes.set_xticks([1, 2, 5, 10, 25], ["1", "2", "5", "10", "25"])
    axes.minorticks_off()
    axes.invert_yaxis()
    _names(axes, points, SIDEWAYS)
    axes.set_xlabel("time of a step with 11 losses, relative to adding them up (ls)")
    axes.set_ylabel("Δm, % (up is better)")
    note = "Seven properties of molecules, Adam, 5 seeds; IQM, 95 % interval. CPU"
    save("go4align", figure, f"{note}, {quality['finished'][:10]}. With SGD the order differs.")


def lare() -> None:
    """True return at the end of training, every task, every method."""
    tasks = {
        "team-cooperative-navigation-6": "Cooperative Navigation, 6",
        "learning-Reacher-v5": "Reacher",
        "learning-Pendulum-v1": "Pendulum",
        "learning-HalfCheetah-v5": "HalfCheetah, 200 steps",
    }
    methods = ("dense", "lare", "rrd", "rd", "ircr", "vib", "arel", "stas", "episodic")
    figure, panels = pyplot.subplots(1, 4, figsize=SIZE, sharey=True, layout="constrained")
    for axes, (name, title) in zip(panels, tasks.items(), strict=True):
        rows = load("lare", name)["results"]["rows"]
        for place, method in enumerate(methods):
            if method in rows:
                found = rows[method]["return"]
                color = STOCK if method == "dense" else OURS if method == "lare" else OTHERS
                axes.plot([found["low"], found["high"]], [place] * 2, color=color, alpha=0.5)
                axes.plot(found["iqm"], place, "o", color=color, ms=5)
        axes.set_title(title, loc="left", fontsize=9)
        axes.set_xlabel("return")
        axes.locator_params(axis="x", nbins=4)
    panels[0].set_yticks(range(len(methods)), methods)
    panels[0].invert_yaxis()
    note = (
        "Right is better; dense sees the true reward of every step, the others one sum per episode."
    )
    save("lare", figure, f"{note} 5 seeds, IQM, 95 % interval; no dot: not run.")


def lemae() -> None:
    """Steps to the first success over the size of the map, every seed a dot."""
    figure, axes = pyplot.subplots(figsize=SIZE, layout="constrained")
    for label, name, color, shift in (
        ("lemae", "with key states", OURS, 0.985),
        ("plain", "without, same aids", OTHERS, 1.015),
    ):
        middles = []
        for size, case in SIZES.items():
            row = rows_of(case)[label]
            middles.append(row["median_first_success"])
            for run in row["runs"]:
                found = run["first_success_step"] is not None
                steps = (run["first_success_step"] or run["steps"]) / 1000
                face = color if found else "none"
                axes.plot(size * shift, steps, "o", ms=5, mec=color, mfc=face, alpha=0.7)
        axes.plot([size * shift for size in SIZES], middles, color=color, label=name)
    axes.set(xscale="log", yscale="log", xlabel="cells per side of the map")
    axes.set_ylabel("thousand steps to the first success")
    axes.set_xticks(list(SIZES), [str(size) for size in SIZES])
    axes.set_yticks([10, 100, 1000], ["10", "100", "1000"])
    axes.minorticks_off()
    axes.legend(frameon=False)
    note = "Pass and Large-Pass, 5 seeds; lower is better. Lines: medians; open: no success"
    save("lemae", figure, f"{note} within the steps.")


def _names(axes: Any, points: Sequence[tuple[float, float, str, str]], places: Any) -> None:
    """Write each point's name at the first of ``places`` where it covers no other.

    Points of one colour on the same spot share one name.
    """
    axes.figure.canvas.draw()
    shared: dict[tuple[int, int, str], list[Any]] = {}
    for point in points:
        x, y = axes.transData.transform(point[:2])
        shared.setdefault((round(x / 12), round(y / 12), point[3]), []).append((x, y, *point))
    boxes = [(x - 5, y - 5, x + 5, y + 5) for group in shared.values() for x, y, *_ in group]
    for group in shared.values():
        _px, _py, x, y, _name, color = group[0]
        text = ", ".join(name for *_rest, name, _color in group)
        label = axes.annotate(text, (x, y), (0, 0), textcoords="offset points", color=color)
        label.set_fontsize(8)
        for dx, dy in places:
            label.set_position((dx, dy))
            label.set_ha("left" if dx > 0 else "right" if dx < 0 else "center")
            label.set_va("bottom" if dy > 0 else "top" if dy < 0 else "center")
            box = label.get_window_extent().extents
            if not any(_overlap(box, other) for other in boxes):
                break
        boxes.append(tuple(label.get_window_extent().extents))


def _overlap(a: Any, b: Any) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def draw() -> None:
    """Draw all of them."""
    with pyplot.rc_context({"axes.spines.top": False, "axes.spines.right": False, "font.size": 9}):
        for picture in (lowmem_bp, go4align, lare, lemae):
            picture()
