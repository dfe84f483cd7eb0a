"""From run folders to a table and a page."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from go4align import runs
from go4align._kit import Report, Summary, paired_difference, summarize
from go4align.errors import ConfigError
from go4align.metrics import delta_m, mean_rank
from go4align.training import STL


@dataclass(frozen=True)
class Row:
    """One method on one benchmark.

    Attributes:
        method: Its label.
        seeds: Seeds it was run on, diverged ones included.
        diverged: How many of them diverged; they are left out of the rest.
        delta_m: Δm against single-task training of the same seed, percent; None without it.
        minus_ls: Paired difference of Δm to LS on the seeds both have; None without LS.
        rank: Mean rank of the mean metrics among the methods (single-task training left out).
        seconds_per_step: Median over the runs.
        cost: The same relative to LS.
        metrics: Mean of each metric.
    """

    method: str
    seeds: list[int]
    diverged: int
    delta_m: Summary | None
    minus_ls: Summary | None
    rank: float | None
    seconds_per_step: float
    cost: float | None
    metrics: dict[str, float]


Summaries = Sequence[Mapping[str, Any]]


def table(summaries: Summaries) -> list[Row]:
    """Compare the methods of one benchmark.

    Args:
        summaries: Of finished runs, from :func:`go4align.runs.load`.

    Returns:
        One row per method, best Δm first; single-task training at the end.

    Raises:
        ConfigError: if the runs are of several benchmarks.
    """
    names = {run["results"]["benchmark"] for run in summaries}
    if len(names) > 1:
        raise ConfigError(f"runs of several benchmarks ({', '.join(sorted(names))}) in one table")
    by_method: dict[str, dict[int, Mapping[str, Any]]] = {}
    for run in summaries:
        by_method.setdefault(run["results"]["method"], {})[run["seed"]] = run["results"]
    # Metrics are read by name: runs of another version may have more, or another order.
    directions: dict[str, bool] = dict(summaries[0]["results"]["higher_is_better"])
    for run in summaries:
        if set(run["results"]["metrics"]) != set(directions):
            first, other = (each.get("folder", "a run") for each in (summaries[0], run))
            raise ConfigError(
                f"the metrics differ: {sorted(directions)} in {first}, "
                f"{sorted(run['results']['metrics'])} in {other}; report them apart"
            )
    good = {
        method: {seed: run for seed, run in results.items() if _finite(run["metrics"])}
        for method, results in by_method.items()
    }
    changes = {
        method: _changes(results, good.get(STL, {}), directions) for method, results in good.items()
    }
    means = {
        method: {
            name: statistics.fmean([run["metrics"][name] for run in results.values()])
            for name in directions
        }
        for method, results in good.items()
        if results
    }
    ranked = {name: list(row.values()) for name, row in means.items() if name != STL}
    ranks = mean_rank(ranked, list(directions.values())) if ranked else {}
    times = {
        method: statistics.median([float(run["seconds_per_step"]) for run in results.values()])
        for method, results in by_method.items()
    }
    rows = []
    for method, results in by_method.items():
        own, ls = changes[method], changes.get("ls", {})
        both = [seed for seed in own if seed in ls]
        pair = (
            paired_difference([own[s] for s in both], [ls[s] for s in both])
            if both and method != "ls"
            else None
        )
        rows.append(
            Row(
                method,
                sorted(results),
                len(results) - len(good[method]),
                summarize(list(own.values())) if own and method != STL else None,
                pair if method != STL else None,
                ranks.get(method),
                times[method],
                times[method] / times["ls"] if "ls" in times else None,
                means.get(method, {}),
            )
        )
    # A mean over the seeds that survived is no rank among means over all of them: those go last.
    rows.sort(
        key=lambda row: (
            row.method == STL,
            row.diverged,
            row.delta_m.mean if row.delta_m else math.inf,
        )
    )
    return rows


def _changes(
    results: Mapping[int, Mapping[str, Any]],
    base: Mapping[int, Mapping[str, Any]],
    directions: Mapping[str, bool],
) -> dict[int, float]:
    """Δm by seed, on the seeds that single-task training has too."""
    found = {}
    for seed in sorted(results):
        if seed in base:
            ours, theirs = results[seed]["metrics"], base[seed]["metrics"]
            values, reference = ([row[name] for name in directions] for row in (ours, theirs))
            if all(reference):  # a change relative to 0 means nothing
                found[seed] = float(delta_m(values, reference, list(directions.values())))
    return found


#: Headings of :func:`cells`.
HEAD = (
    "method",
    "Δm %",
    "IQM [95 %]",
    "minus LS",
    "IQM [95 %]",
    "rank",
    "ms/step",
    "× LS",
    "seeds",
)


def cells(row: Row) -> list[str]:
    """A row as text."""
    seeds = str(len(row.seeds)) + (f", {row.diverged} of them diverged" if row.diverged else "")
    return [
        row.method,
        *_interval(row.delta_m),
        *_interval(row.minus_ls),
        "" if row.rank is None else f"{row.rank:.2f}",
        f"{1e3 * row.seconds_per_step:.2f}",
        "" if row.cost is None else f"{row.cost:.2f}",
        seeds,
    ]


def as_dict(row: Row) -> dict[str, Any]:
    """A row in JSON's types."""
    return asdict(row)


def _interval(summary: Summary | None) -> tuple[str, str]:
    if summary is None:
        return "", ""
    spread = "one seed"
    if summary.runs > 1:
        spread = f"{summary.iqm:+.2f} [{summary.low:+.2f}, {summary.high:+.2f}]"
    return f"{summary.mean:+.2f}", spread


def write_report(folder: str | Path) -> Path:
    """Write ``report.html`` over all finished runs at or below a folder.

    Args:
        folder: Where ``bench``, ``demo`` or a script wrote run folders.

    Returns:
        The path of the page.

    Raises:
        DataError: if there is no finished run.
        MissingExtraError: if matplotlib is not installed.
    """
    from go4align import _charts

    summaries = runs.load(folder)
    page = Report("Loss weighting, method by method")
    for benchmark in dict.fromkeys(run["results"]["benchmark"] for run in summaries):
        here = [run for run in summaries if run["results"]["benchmark"] == benchmark]
        rows = table(here)
        page.heading(benchmark)
        page.paragraph(
            "Δm: mean relative change of all metrics against one network per task, in percent; "
            "negative is better. Mean over the seeds, then their interquartile mean with its 95 % "
            "interval by the bootstrap (too narrow for few seeds). Minus LS: in pairs of equal "
            "seed. A method that diverged on a seed is below all that did not. "
            "Times are medians of whole training steps; runs that were made at different times saw "
            "a machine with different load."
        )
        page.table(HEAD, [cells(row) for row in rows])
        if any(row.delta_m is not None for row in rows):
            page.figure(
                _charts.changes(rows),
                "Δm of each method, the mean change against one network per task; left is better.",
            )
        names = list(here[0]["results"]["metrics"])
        page.table(
            ["method", *names],
            [[row.method, *(row.metrics.get(name) for name in names)] for row in rows],
            caption="Mean of each metric over the seeds",
        )
        for run in _shown(here):
            label = f"{run['results']['method']}, seed {run['seed']}"
            page.figure(
                _charts.history(run), f"{label}: losses, weights and groups over the steps."
            )
        machine = here[0]["device"]
        versions = ", ".join(f"{name} {value}" for name, value in here[0]["versions"].items())
        page.paragraph(f"{machine['cores']} cores, {machine['machine']}; {versions}.")
    return page.write(Path(folder) / "report.html")


def _shown(summaries: Summaries) -> list[Mapping[str, Any]]:
    """One run for each method that has weights, and LS to compare with."""
    found: dict[str, Mapping[str, Any]] = {}
    for run in sorted(summaries, key=lambda run: run["seed"]):
        method = run["results"]["method"]
        shown = method.startswith("go4align") or method == "ls"
        if shown and runs.has_losses(run["folder"]):
            found.setdefault(method, run)
    return list(found.values())


def _finite(metrics: Mapping[str, Any]) -> bool:
    return all(not isinstance(v, str) and math.isfinite(v) for v in metrics.values())
