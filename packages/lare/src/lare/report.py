"""Tables and a page over finished training runs."""

from __future__ import annotations

import json
from collections.abc import Callable
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
    """Put runs of the same settings but the seed in a row, best method first.

    Runs are compared within the same task, algorithm and further settings; where these differ
    between runs of one task, they are told beside its name.
    """
    groups: dict[tuple[str, str, str], dict[int, dict[str, Any]]] = {}
    place_of = _places(found)
    for run in found:
        key = (*place_of(run), run["settings"]["method"])
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
    place_of = _places(found)
    for place in dict.fromkeys(place_of(run) for run in found):
        same = [run for run in found if place_of(run) == place]
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


def _places(found: list[dict[str, Any]]) -> Callable[[dict[str, Any]], tuple[str, str]]:
    """What a run is compared within: task and length of the training, and algorithm.

    To the task are added the settings in which runs of the same task, algorithm and method differ.
    """
    seen: dict[tuple[str, str], dict[str, set[str]]] = {}
    for run in found:
        settings = run["settings"]
        values = seen.setdefault((_name(settings["task"]), settings["method"]), {})
        for key, value in settings.items():
            values.setdefault(key, set()).add(json.dumps(value, sort_keys=True))
    differing: dict[str, set[str]] = {}
    for (task, _), values in seen.items():
        known = ("task", "method", "algorithm", "steps", "seed")
        found_here = {k for k, v in values.items() if len(v) > 1 and k not in known}
        differing.setdefault(task, set()).update(found_here)

    def place(run: dict[str, Any]) -> tuple[str, str]:
        settings = run["settings"]
        task = _name(settings["task"])
        told = [f"{settings['steps']} steps"]
        told += [f"{key} {settings.get(key)}" for key in sorted(differing[task])]
        return ", ".join([task, *told]), settings.get("algorithm", "ppo")

    return place


def _name(task: Any) -> str:
    """Of a task: its id, also where the settings hold a description of one's own."""
    return str(task["id"] if isinstance(task, dict) else task)


def _text(summary: Summary) -> str:
    return f"{summary.mean:.4g}, {summary.iqm:.4g} [{summary.low:.4g}, {summary.high:.4g}]"
