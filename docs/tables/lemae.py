"""The tables of lemae."""

from __future__ import annotations

import statistics
from functools import partial
from typing import Any

from . import common
from .common import machine, markdown

PAGES = ("docs/lemae/benchmarks.md",)

#: Thousand steps to the first success, LEMAE and CMAE: arXiv 2410.02511, table 9.
PAPER = {
    "pass": ("153 ± 21", "2115 ± 157"),
    "secret-room": ("317 ± 135", "1449 ± 467"),
    "push-box": ("159 ± 43", "972 ± 887"),
    "large-pass": ("447 ± 256", "> 3000"),
}
#: Final win rate of LEMAE with one agent: the same, table 6. PPO alone has 0.
PAPER_SINGLE = {
    "pass-single": "1.00 ± .00",
    "secret-room-single": ".98 ± .01",
    "large-pass-single": ".99 ± .01",
    "push-box-single": ".96 ± .08",
}
ROOMS = ("secret-room-1", "secret-room-2", "secret-room-3", "secret-room")
BATTLES = ("smax-2s3z", "smax-5m_vs_6m", "smax-3s_vs_5z", "smax-smacv2_5_units")
SIZES = {30: "pass", 50: "large-pass", 70: "pass-70", 100: "pass-100"}

load = partial(common.load, "lemae")


def rows_of(case: str) -> dict[str, Any]:
    return load(f"learning-{case}")["results"]["rows"]


def succeeded(row: dict[str, Any]) -> int:
    """Runs with a success in training, be it a single one."""
    return sum(run["first_success_step"] is not None for run in row["runs"])


def won(row: dict[str, Any]) -> int:
    """Runs whose final policy wins at least 90 of 100 episodes, its actions sampled."""
    return sum(run["win_rate_sampled"] >= 0.9 for run in row["runs"])


def first(row: dict[str, Any]) -> str:
    """Steps to the first success, in thousands; > where a run has none."""
    sign = "> " if is_bound(row) else ""
    least = "≥ " if succeeded(row) < len(row["runs"]) else ""
    found = row["first_success"]
    interval = f"{found['iqm']:.0f} [{found['low']:.0f}, {found['high']:.0f}]"
    return f"{sign}{row['median_first_success']:.0f}, {least}{interval}"


def is_bound(row: dict[str, Any]) -> bool:
    """Whether most runs have no success, so that the median is a bound and no measurement."""
    return 2 * succeeded(row) < len(row["runs"])


def both(row: dict[str, Any]) -> tuple[str, str]:
    """How many runs succeeded, and how many won."""
    return f"{succeeded(row)} of {len(row['runs'])}", f"{won(row)} of {len(row['runs'])}"


def wins(row: dict[str, Any], policy: str = "sampled") -> str:
    """Mean and lowest of the seeds."""
    values = [run[f"win_rate_{policy}"] for run in row["runs"]]
    return f"{statistics.mean(values):.2f} ({min(values):.2f})"


def seconds(row: dict[str, Any]) -> str:
    return f"{statistics.median(run['seconds'] for run in row['runs']):.0f}"


_COLUMNS = ("first success: median, IQM [95 %]", "succeeded", "won")


def main_table() -> str:
    """The paper's four tasks beside the paper."""
    lines = []
    for case, (lemae, cmae) in PAPER.items():
        rows = rows_of(case)
        for label, row in rows.items():
            if label in ("lemae", "lemae-published", "plain"):
                paper = {"lemae-published": lemae, "plain": f"CMAE {cmae}"}.get(label, "")
                lines.append([f"{case}: {label}", first(row), *both(row), wins(row), paper])
    head = ["task: method", *_COLUMNS, "final win rate: mean (lowest)", "paper"]
    note = (
        "Thousand environment steps, 5 seeds; a run without a success counts with all its steps. "
        f"{machine(load('learning-pass'))}"
    )
    return f"{markdown(head, lines)}\n\n{note}"


def case_table(case: str) -> str:
    """All rows of one task."""
    run = load(f"learning-{case}")
    lines = [
        [label, first(row), *both(row), wins(row), wins(row, "greedy"), seconds(row)]
        for label, row in run["results"]["rows"].items()
    ]
    head = ["method", *_COLUMNS, "wins, sampled", "wins, greedy", "seconds"]
    settings = run["settings"]
    note = (
        f"{len(settings['seeds'])} seeds, at most {settings['steps'] // 1000} thousand steps; wins "
        "are means, with the lowest seed in brackets; seconds are medians of the wall clock, with "
        f"other work on the machine. {machine(run)}"
    )
    return f"{markdown(head, lines)}\n\n{note}"


def single() -> str:
    """The tasks for one agent, beside the paper: PPO in the row of the plain learner."""
    lines = []
    for case, paper in PAPER_SINGLE.items():
        for label, published in (("lemae", paper), ("plain", "PPO 0.00")):
            row = rows_of(case)[label]
            lines.append([f"{case}: {label}", first(row), *both(row), wins(row), published])
    head = ["task: method", *_COLUMNS, "final win rate: mean (lowest)", "paper"]
    last = load("learning-push-box-single")
    seeds, steps = last["settings"]["seeds"], last["settings"]["steps"]
    note = f"{len(seeds)} seeds, at most {steps // 1000} thousand steps. {machine(last)}"
    return f"{markdown(head, lines)}\n\n{note}"


def several(cases: tuple[str, ...], *, greedy: bool = False) -> str:
    """All rows of several tasks, which differ in the steps they were given."""
    lines = []
    for case in cases:
        run = load(f"learning-{case}")
        for label, row in run["results"]["rows"].items():
            more = [wins(row, "greedy")] if greedy else []
            lines.append([f"{case}: {label}", first(row), *both(row), wins(row), *more])
    head = ["task: method", *_COLUMNS, "wins, sampled"]
    budgets = ", ".join(
        f"{case} {load(f'learning-{case}')['settings']['steps'] // 1000}" for case in cases
    )
    seeds = len(load(f"learning-{cases[0]}")["settings"]["seeds"])
    note = f"{seeds} seeds; at most so many thousand steps: {budgets}. " + machine(
        load(f"learning-{cases[-1]}")
    )
    return f"{markdown([*head, 'wins, greedy'] if greedy else head, lines)}\n\n{note}"


def sizes() -> str:
    """How the advantage grows with the map."""
    lines = []
    for size, case in SIZES.items():
        rows = rows_of(case)
        ours, plain = rows["lemae"], rows["plain"]
        ratio = plain["median_first_success"] / ours["median_first_success"]
        lines.append(
            [
                f"{size} × {size}",
                f"{first(ours)}; {both(ours)[1]}",
                f"{first(plain)}; {both(plain)[1]}",
                f"{'> ' if is_bound(plain) else ''}{ratio:.1f}",
            ]
        )
    head = ["map", f"lemae: {_COLUMNS[0]}; won", "plain, same aids", "ratio of the medians"]
    note = f"Thousand environment steps, 5 seeds. {machine(load('learning-pass-100'))}"
    return f"{markdown(head, lines)}\n\n{note}"


def envs() -> str:
    """Million steps per second of the grid tasks."""
    run = load("envs")
    copies = list(dict.fromkeys(row["copies"] for row in run["results"]["speed"]))
    speeds: dict[str, dict[int, str]] = {}
    for row in run["results"]["speed"]:
        found = row["steps_per_s"]
        shown = (f"{found[key] / 1e6:.2f}" for key in ("median", "lowest", "highest"))
        speeds.setdefault(row["task"], {})[row["copies"]] = "{} ({} to {})".format(*shown)
    lines = [[task, *(by_copies[n] for n in copies)] for task, by_copies in speeds.items()]
    head = ["task", *(f"{n} copies" if n > 1 else "1 copy" for n in copies)]
    note = f"Million environment steps per second, median and range. {machine(run)}"
    return f"{markdown(head, lines)}\n\n{note}"


def overhead() -> str:
    """What key states cost in training."""
    run = load("overhead")
    results = run["results"]

    def shown(found: dict[str, float], digits: int, scale: float = 1) -> str:
        values = (f"{scale * found[key]:.{digits}f}" for key in ("median", "low", "high"))
        return "{} ({} to {})".format(*values)

    share = "share of an iteration for labels, memory, exploration, rewards, %"
    lines = [[share, shown(results["lemae"]["share"], 1, 100)]]
    for method in ("lemae", "plain"):
        name = f"{method}: steps per second of processor time, learning included"
        lines.append([name, shown(results[method]["steps_per_cpu_second"], 0)])
    note = f"Medians and quartiles, Pass, 8 copies. {machine(run)}"
    return f"{markdown(['what', 'measured'], lines)}\n\n{note}"


TABLES = {
    "main": main_table,
    "sizes": sizes,
    "single": single,
    "rooms": lambda: several(ROOMS),
    "battles": lambda: several(BATTLES, greedy=True),
    "envs": envs,
    "overhead": overhead,
}


def table(name: str) -> str:
    """The table of that name; one without a function of its own is that of a task."""
    return TABLES[name]() if name in TABLES else case_table(name)
