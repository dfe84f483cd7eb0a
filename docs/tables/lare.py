"""The tables of lare."""

from __future__ import annotations

from functools import partial

import numpy as np

from . import common
from .common import machine, markdown

PAGES = ("docs/lare/benchmarks.md",)

load = partial(common.load, "lare")


def interval(summary: dict, digits: int = 0) -> str:
    shown = [f"{summary[key]:.{digits}f}" for key in ("mean", "iqm", "low", "high")]
    return f"{shown[0]}, {shown[1]} [{shown[2]}, {shown[3]}]"


def decomposition() -> str:
    """Correlation and error of the return, mean and range over the seeds."""
    run = load("decomposition")
    rows = run["results"]["rows"]
    environments = list(dict.fromkeys(row["environment"] for row in rows))
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows):
        cells = [method]
        for environment in environments:
            chosen = [
                row for row in rows if (row["environment"], row["method"]) == (environment, method)
            ]
            values = [row["correlation"] for row in chosen]
            error = np.mean([row["return_error"] for row in chosen])
            cells.append(
                f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f}), {error:.2g}"
            )
        lines.append(cells)
    note = (
        "Correlation with the true step reward on held-out episodes, mean and range over "
        f"{len(run['settings']['seeds'])} seeds, then the error of the summed predictions over the "
        f"variance of the returns. {machine(run)}"
    )
    return f"{markdown(['method', *environments], lines)}\n\n{note}"


def learning(name: str) -> str:
    """True return at the end of training, and the paired difference to lare."""
    run = load(name)
    rows = run["results"]["rows"]
    ordered = sorted(rows, key=lambda label: -rows[label]["return"]["mean"])
    digits = 1 if abs(rows["dense"]["return"]["mean"]) < 100 else 0
    lines = [
        [
            label,
            interval(rows[label]["return"], digits),
            "" if label == "lare" else interval(rows[label]["lare_minus_this"], digits),
        ]
        for label in ordered
    ]
    first = rows["lare"]["runs"]
    zero = np.mean([run["zero_actions"] for run in first])
    random = np.mean([run["random_actions"] for run in first])
    head = ["method", "return: mean, IQM [95 %]", "lare minus this, paired"]
    note = (
        f"{len(first)} seeds, true return after {run['settings']['steps']} steps. Zero actions "
        f"score {zero:.{digits}f}, random ones {random:.{digits}f}. {machine(run)}"
    )
    return f"{markdown(head, lines)}\n\n{note}"


def speed() -> str:
    """Relabelling, training, verification."""
    run = load("speed")
    results = run["results"]

    def shown(found: dict) -> str:
        return f"{found['median']:.2f} ({found['low']:.2f} to {found['high']:.2f})"

    lines = []
    for row in results["relabelling"]:
        name = f"relabelling 256 rows, decoder {row['decoder']}: over the bare forward pass"
        lines.append([name, shown(row["ours_over_bare"])])
        name = "the same: source run anew on every batch, over ours"
        lines.append([name, shown(row["reference_over_ours"])])
    for row in results["training"]:
        name = f"TD3, {row['networks']}: steps/s with lare over without"
        lines.append([name, shown(row["ratio"])])
    lines.append(["verification of one function, seconds", shown(results["verification_s"])])
    note = f"Medians and quartiles. {machine(run)}"
    return f"{markdown(['what', 'ratio or seconds'], lines)}\n\n{note}"


def mpe() -> str:
    """Agent-steps per second of the particle tasks."""
    run = load("mpe")
    forms = [form for form in ("vectorized", "pettingzoo") if form in run["results"]]
    lines = []
    for task in run["results"]["vectorized"]:
        cells = [task]
        for form in forms:
            rates = run["results"][form][task]
            cells.append(f"{rates['median']} ({rates['lowest']} to {rates['highest']})")
        lines.append(cells)
    copies = run["settings"]["copies"]
    note = f"Agent-steps per second, median and range of the repetitions. {machine(run)}"
    head = ["task", f"vectorised, {copies} copies", "PettingZoo, one copy"][: 1 + len(forms)]
    return f"{markdown(head, lines)}\n\n{note}"


TABLES = {"decomposition": decomposition, "speed": speed, "mpe": mpe}


def table(name: str) -> str:
    """The table of that name; one without a function of its own is that of a learning benchmark."""
    return TABLES[name]() if name in TABLES else learning(name)
