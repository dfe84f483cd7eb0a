"""The tables of go4align."""

from __future__ import annotations

from functools import partial

from go4align import report

from . import common
from .common import machine, markdown

PAGES = (
    "docs/go4align/benchmarks.md",
    "docs/go4align/method.md",
    "packages/go4align/README.md",
)
#: Rows of the short table in the README.
SHORT = ("go4align-auto", "go4align", "go4align-published", "uw", "si", "famo", "dwa", "rlw", "ls")

load = partial(common.load, "go4align")


def interval(summary) -> str:
    return f"{summary.mean:+.1f}, {summary.iqm:+.1f} [{summary.low:+.1f}, {summary.high:+.1f}]"


def quality(name: str) -> str:
    """Every method on one benchmark with one optimizer."""
    run = load(name)
    rows = report.table(run["runs"])
    lines = []
    for row in rows:
        chosen = run["chosen"].get(row.method, {})
        options = ", ".join(f"{k}={v}" for k, v in chosen.get("options", {}).items())
        lines.append(
            [
                row.method,
                "0" if row.delta_m is None else interval(row.delta_m),
                "" if row.minus_ls is None else interval(row.minus_ls),
                "" if row.rank is None else f"{row.rank:.2f}",
                str(len(row.seeds) - row.diverged),
                f"{chosen.get('lr', '')}",
                options,
            ]
        )
    head = [
        "method",
        "Δm %: mean, IQM [95 %]",
        "minus LS, paired: mean, IQM [95 %]",
        "mean rank",
        "seeds",
        "lr",
        "options",
    ]
    return f"{markdown(head, lines)}\n\n{machine(run)}"


def short() -> str:
    """What the README shows: methods that need the losses alone."""
    columns = [
        name for name in ("molecules-adam", "multimnist-adam") if common.measured("go4align", name)
    ]
    rows = {name: {row.method: row for row in report.table(load(name)["runs"])} for name in columns}
    labels = [label for label in SHORT if all(label in rows[name] for name in columns)]
    lines = [
        [label, *(interval(rows[name][label].delta_m) for name in columns)] for label in labels
    ]
    titles = [f"{name.partition('-')[0]}, {name.partition('-')[2]}" for name in columns]
    counts = ", ".join(f"{titles[i]}: {len(rows[n]['ls'].seeds)}" for i, n in enumerate(columns))
    note = f"Mean over the seeds, then IQM with its 95 % interval. Seeds: {counts}."
    return f"{markdown(['method', *titles], lines)}\n\n{note}"


def steps() -> str:
    """Cost of a training step relative to LS."""
    run = load("step")
    sizes = list(
        dict.fromkeys((row["n_tasks"], row["n_groups"]) for row in run["results"]["steps"])
    )
    cells: dict[str, dict[int, str]] = {}
    for row in run["results"]["steps"]:
        low, high = row["quartiles"]
        shown = f"{row['ratio']:.2f} ({low:.2f} to {high:.2f})"
        cells.setdefault(row["method"], {})[row["n_tasks"]] = shown
    lines = [[name, *(found.get(m, "") for m, _ in sizes)] for name, found in cells.items()]
    head = ["method", *(f"M = {m}, K = {k}" for m, k in sizes)]
    calls = "; ".join(
        f"M = {call['n_tasks']}: {call['us']:.0f} µs"
        for call in run["results"]["calls"]
        if call["space"] == "log"
    )
    note = (
        "Times LS: median of interleaved pairs of blocks, quartiles in brackets. One call of the "
        f"weighting takes {calls}. {machine(run)}"
    )
    return f"{markdown(head, lines)}\n\n{note}"


def toy() -> str:
    """How many of the five starts reach the front, method by method."""
    run = load("toy")
    lines = [
        [
            row["label"],
            f"{row['reached']}/{len(row['ends'])}",
            str(row["collapsed"]),
            *(f"{end['distance']:.2g} at {end['position']:.2f}" for end in row["ends"]),
        ]
        for row in run["results"]["rows"]
    ]
    starts = run["results"]["rows"][0]["ends"]
    names = [f"({end['start'][0]:g}, {end['start'][1]:g})" for end in starts]
    note = (
        f"{run['settings']['steps']} steps of Adam. Per start: distance of the end from the front, "
        "and its place along it, 0 for task 2 alone, 1 for task 1 alone."
    )
    head = ["method", "on the front", "of these at an end", *names]
    return f"{markdown(head, lines)}\n\n{note}"


TABLES = {"short": short, "steps": steps, "toy": toy}


def table(name: str) -> str:
    """The table of that name; one without a function of its own is that of a benchmark."""
    return TABLES[name]() if name in TABLES else quality(name)
