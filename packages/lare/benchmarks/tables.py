"""Write the tables of the documentation from the result files.

python tables.py            # rewrite the tables
python tables.py --check    # exit 1 if one is out of date
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
RESULTS = HERE / "results"
ROOT = HERE.parents[2]
PAGES = (ROOT / "docs/lare/benchmarks.md",)


def load(name: str) -> dict:
    return json.loads((RESULTS / name / "summary.json").read_text(encoding="utf-8"))


def machine(run: dict) -> str:
    device, versions = run["device"], run["versions"]
    return (
        f"Measured on {device['cores']} {device['machine']} cores, 1 thread per process, torch "
        f"{versions['torch']}, Python {versions['python']}, {run['finished'][:10]}."
    )


def markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] + ["--:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


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


def filled(text: str) -> str:
    """Return a page with every marked table written anew."""

    def replaced(match: re.Match) -> str:
        name = match[1]
        made = TABLES[name]() if name in TABLES else learning(name)
        return f"<!-- table: {name} -->\n{made}\n<!-- end -->"

    return re.sub(r"<!-- table: ([\w.-]+) -->\n.*?<!-- end -->", replaced, text, flags=re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, report what is old")
    options = parser.parse_args()
    old = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        new = filled(text)
        if new != text:
            old.append(page.relative_to(ROOT))
            if not options.check:
                page.write_text(new, encoding="utf-8")
    if options.check and old:
        sys.exit(f"out of date, run benchmarks/tables.py: {', '.join(map(str, old))}")


if __name__ == "__main__":
    main()
