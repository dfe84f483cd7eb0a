"""What ``go4align bench toy`` runs: every method from every start, and the picture of the paths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from go4align._kit import Report, RunFolder
from go4align._kit.run import SUMMARY
from go4align.errors import ConfigError
from go4align.tasks import toy

#: Rows by label: method and options.
ENTRIES: dict[str, tuple[str, dict[str, Any]]] = {
    "ls": ("ls", {}),
    "si": ("si", {}),
    "rlw": ("rlw", {}),
    "dwa": ("dwa", {}),
    "uw": ("uw", {}),
    "famo": ("famo", {}),
    "mgda": ("mgda", {}),
    "pcgrad": ("pcgrad", {}),
    "cagrad": ("cagrad", {}),
    "imtl-g": ("imtl-g", {}),
    "nash-mtl": ("nash-mtl", {}),
    "aligned-mtl": ("aligned-mtl", {}),
    "upgrad": ("upgrad", {}),
    "go4align": ("go4align", {}),
    "go4align beta=0": ("go4align", {"beta": 0.0}),
    "go4align decay=0.99": ("go4align", {"decay": 0.99}),
    "go4align-published": ("go4align-published", {}),
    "go4align-published beta=1e-3": ("go4align-published", {"beta": 1e-3}),
    "go4align-published beta=1e-5": ("go4align-published", {"beta": 1e-5}),
    "go4align-published beta=0": ("go4align-published", {"beta": 0.0}),
}
PAGE = "report.html"
DEFAULT = ("ls", "si", "famo", "imtl-g", "go4align decay=0.99", "go4align-published")
HEAD = ("method", "on the front", "at an end", "distance from the front", "place on it")


def run(
    labels: Sequence[str],
    steps: int,
    folder: Path,
    progress: Callable[[str], None] = lambda line: None,
) -> tuple[list[dict[str, Any]], Path]:
    """Run methods from all starts and write ``summary.json`` and ``report.html``.

    Args:
        labels: Keys of ``ENTRIES``.
        steps: Of Adam, per start.
        folder: New or empty, or that of an earlier call, which is replaced.
        progress: Called with a line per method.

    Returns:
        A row per method, and the page.

    Raises:
        ConfigError: for an unknown label.
        RunFolderError: if the folder has other content.
    """
    from go4align import _charts

    for label in labels:
        if label not in ENTRIES:
            raise ConfigError(f"unknown method {label!r}: known are {', '.join(ENTRIES)}")
    ours = folder.is_dir() and {path.name for path in folder.iterdir()} <= {SUMMARY, PAGE}
    out = RunFolder(folder, overwrite=ours)
    rows: list[dict[str, Any]] = []
    descents: dict[str, list[toy.Descent]] = {}
    for label in labels:
        name, options = ENTRIES[label]
        descents[label] = [
            toy.descend(toy.make(name, **options), start, steps) for start in toy.STARTS
        ]
        rows.append(row(label, name, options, descents[label]))
        progress(" | ".join(cells(rows[-1])))
    settings = {"steps": steps, "lr": 1e-3, "starts": toy.STARTS, "record_every": 100}
    out.write_summary({"rows": rows}, settings=settings, seed=0)
    page = Report("Two tasks in the plane")
    page.paragraph(
        f"Adam with learning rate 1e-3, {steps} steps from each of five starts (dots) to the "
        "stars. The grey band is the front, the curve of optimal trade-offs; contours are of "
        f"L1 / s + L2. On the front: within {toy.REACHED} of it in (L1 / s, L2). At an end: one "
        "task is given up."
    )
    page.table(HEAD, [cells(each) for each in rows])
    page.figure(_charts.landscape(descents), "Paths from five starts, method by method.")
    return rows, page.write(folder / PAGE)


def row(
    label: str, name: str, options: dict[str, Any], descents: Sequence[toy.Descent]
) -> dict[str, Any]:
    """What is reported of a method."""
    return {
        "label": label,
        "method": name,
        "options": options,
        "reached": sum(descent.reached for descent in descents),
        "collapsed": sum(descent.collapsed for descent in descents),
        "ends": [
            {
                "start": list(start),
                "distance": descent.distance,
                "position": descent.position,
                "weights": descent.weights[-1].tolist(),
            }
            for start, descent in zip(toy.STARTS, descents, strict=True)
        ],
    }


def cells(row: dict[str, Any]) -> list[str]:
    """A row as text, starts in their usual order."""
    ends = row["ends"]
    return [
        row["label"],
        f"{row['reached']}/{len(ends)}",
        str(row["collapsed"]),
        " ".join(f"{end['distance']:.3g}" for end in ends),
        " ".join(f"{end['position']:.2f}" for end in ends),
    ]
