"""Tables and a page over finished training runs."""

from __future__ import annotations

import json
import statistics
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
    found = [runs.read(path) for path in sorted(Path(folder).rglob(SUMMARY))]
    if not found:
        raise ConfigError(f"{folder} holds no finished run: `lare train --out {folder}` makes them")
    return found


def rows(folder: Path) -> list[dict[str, Any]]:
    """The table, as JSON."""
    return [asdict(row) for row in table(load(folder))]


def table(found: list[dict[str, Any]]) -> list[Row]:
    """Put runs of the same settings but the seed in a row, best method first.

    Runs are compared within the same task and settings; settings of the method itself tell rows
    apart. Settings in which runs differ are told beside the name of the task or of the method.

    Raises:
        ConfigError: if two runs have the same settings and seed.
    """
    made = []
    for place, methods in _places(found).items():
        baseline = _finals(methods["lare"]) if "lare" in methods else {}
        for method, runs_of in methods.items():
            final = _finals(runs_of)
            shared = [seed for seed in final if seed in baseline]
            difference = None
            if method != "lare" and shared:
                theirs = [baseline[seed] for seed in shared]
                difference = paired_difference([final[seed] for seed in shared], theirs)
            speed = statistics.fmean(run["results"]["steps_per_second"] for run in runs_of)
            scores = summarize(list(final.values()))
            made.append(Row(*place, method, scores, difference, tuple(sorted(final)), speed))
    return sorted(made, key=lambda row: (row.task, row.algorithm, -row.scores.mean))


def _finals(found: list[dict[str, Any]]) -> dict[int, float]:
    """The last score by seed."""
    final = {}
    for run in found:
        seed = run["settings"]["seed"]
        if seed in final:
            raise ConfigError(
                f"two runs of {run['settings']['method']} have seed {seed} and the same settings: "
                "move one of them away"
            )
        final[seed] = list(run["results"]["scores"].values())[-1]
    return final


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
    for place, methods in _places(found).items():
        same = [run for runs_of in methods.values() for run in runs_of]
        scores = {
            method: [run["results"]["scores"] for run in runs_of]
            for method, runs_of in methods.items()
        }
        page.heading(", ".join(place))
        page.figure(_charts.curves(scores), "True return over environment steps")
        zero, random = (
            sum(run["results"][key] for run in same) / len(same)
            for key in ("zero_actions", "random_actions")
        )
        page.paragraph(f"Zero actions score {zero:.1f}, random ones {random:.1f}.")
    return page.write(Path(folder) / "report.html")


#: Settings that belong to the method: they tell its rows apart, not what is compared.
_OF_METHOD = ("function", "options", "decoder_updates", "decomposition")
#: Settings that are always told, or that say nothing.
_KNOWN = ("task", "task.id", "method", "algorithm", "steps", "seed")


def _places(
    found: list[dict[str, Any]],
) -> dict[tuple[str, str], dict[str, list[dict[str, Any]]]]:
    """Runs by task and algorithm, and then by method."""
    settings = [_flat(run["settings"]) for run in found]
    places: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = {}
    for run, mine in zip(found, settings, strict=True):
        same_task = [other for other in settings if _task(other) == _task(mine)]
        same_method = [other for other in same_task if other["method"] == mine["method"]]
        here = [k for k in _differing(same_task) if k.partition(".")[0] not in _OF_METHOD]
        own = [k for k in _differing(same_method) if k.partition(".")[0] in _OF_METHOD]
        task = ", ".join([_task(mine), f"{mine['steps']} steps", *_told(mine, here)])
        method = ", ".join([mine["method"], *_told(mine, own)])
        place = places.setdefault((task, mine.get("algorithm", "ppo")), {})
        place.setdefault(method, []).append(run)
    return places


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by dotted names."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _task(settings: dict[str, Any]) -> str:
    """The id of a task, also where the settings hold a description of one's own."""
    return str(settings.get("task", settings.get("task.id")))


def _differing(settings: list[dict[str, Any]]) -> list[str]:
    """Names of settings that are not the same in all."""
    names = sorted({name for one in settings for name in one} - set(_KNOWN))
    return [n for n in names if len({json.dumps(one.get(n)) for one in settings}) > 1]


def _told(settings: dict[str, Any], names: list[str]) -> list[str]:
    """Values that are not the default of being left out."""
    return [f"{n} {settings[n]}" for n in names if settings.get(n) is not None]


def _text(summary: Summary) -> str:
    if summary.runs == 1:
        return f"{summary.mean:.4g}"
    return f"{summary.mean:.4g}, {summary.iqm:.4g} [{summary.low:.4g}, {summary.high:.4g}]"
