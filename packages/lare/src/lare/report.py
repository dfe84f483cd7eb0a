"""Tables and a page over finished training runs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lare import runs
from lare._kit import Report, Summary, paired_difference, summarize
from lare._kit.run import SUMMARY
from lare.errors import ConfigError

HEAD = ["task", "algorithm", "method", "return: mean, IQM [95 %]", "minus lare", "seeds", "steps/s"]


@dataclass(frozen=True)
class Row:
    """One method on one task: returns at the end, and the paired difference to ``lare``."""

    task: str
    algorithm: str
    method: str
    scores: Summary
    minus_lare: Summary | None
    seeds: tuple[int, ...]
    steps_per_second: float


def load(folder: Path) -> list[dict[str, Any]]:
    """Read the summaries of all finished runs below a folder.

    Raises:
        ConfigError: if there is none.
    """
    found = []
    for path in sorted(Path(folder).rglob(SUMMARY)):
        summary = runs.read(path)
        found.append({**summary, "results": runs.restored(summary["results"])})
    if not found:
        raise ConfigError(f"{folder} holds no finished run: `lare train --out {folder}` makes them")
    return found


def rows(folder: Path) -> list[dict[str, Any]]:
    """The table, as JSON."""
    return [asdict(row) for row in table(load(folder))]


def table(found: list[dict[str, Any]]) -> list[Row]:
    """Put runs of the same task, algorithm and method in a row, best method first."""
    groups: dict[tuple[str, str, str], dict[int, dict[str, Any]]] = {}
    for run in found:
        key = (*_place(run["settings"]), run["settings"]["method"])
        groups.setdefault(key, {})[run["settings"]["seed"]] = run["results"]
    made = []
    for (task, algorithm, method), by_seed in groups.items():
        final = {seed: list(result["scores"].values())[-1] for seed, result in by_seed.items()}
        ours = groups.get((task, algorithm, "lare"), {})
        shared = [seed for seed in final if seed in ours]
        difference = None
        if method != "lare" and shared:
            theirs = [list(ours[seed]["scores"].values())[-1] for seed in shared]
            difference = paired_difference([final[seed] for seed in shared], theirs)
        speed = sum(result["steps_per_second"] for result in by_seed.values()) / len(by_seed)
        scores = summarize(list(final.values()))
        made.append(Row(task, algorithm, method, scores, difference, tuple(sorted(final)), speed))
    return sorted(made, key=lambda row: (row.task, row.algorithm, -row.scores.mean))


def cells(row: dict[str, Any]) -> list[str]:
    """A row as text."""
    shown = Summary(**row["scores"])
    minus = "" if row["minus_lare"] is None else _text(Summary(**row["minus_lare"]))
    return [
        row["task"],
        row["algorithm"],
        row["method"],
        _text(shown),
        minus,
        str(len(row["seeds"])),
        f"{row['steps_per_second']:.0f}",
    ]


def write(folder: Path) -> Path:
    """Write ``report.html`` into the folder of the runs."""
    from lare import _charts

    found = load(folder)
    page = Report("Training on episodic rewards")
    page.table(HEAD, [cells(asdict(row)) for row in table(found)], "True return at the end")
    for place in dict.fromkeys(_place(run["settings"]) for run in found):
        same = [run for run in found if _place(run["settings"]) == place]
        scores: dict[str, list[dict[int, float]]] = {}
        for run in same:
            scores.setdefault(run["settings"]["method"], []).append(run["results"]["scores"])
        page.heading(", ".join(place))
        page.figure(_charts.curves(scores), "True return over environment steps")
        zero, random = (
            sum(run["results"][key] for run in same) / len(same)
            for key in ("zero_actions", "random_actions")
        )
        page.paragraph(f"Zero actions score {zero:.1f}, random ones {random:.1f}.")
    return page.write(Path(folder) / "report.html")


def _place(settings: dict[str, Any]) -> tuple[str, str]:
    """What runs are compared within: task and length of the training, and algorithm."""
    return f"{settings['task']}, {settings['steps']} steps", settings.get("algorithm", "ppo")


def _text(summary: Summary) -> str:
    return f"{summary.mean:.4g}, {summary.iqm:.4g} [{summary.low:.4g}, {summary.high:.4g}]"
