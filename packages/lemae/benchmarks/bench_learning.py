"""How soon is the first success, and is the task won in the end? True tasks, seed by seed.

    python bench_learning.py pass large-pass [--rows lemae,plain] [--add] [--jobs 2] [--work DIR]
        [--json]

A run ends when the last 100 training episodes were all won and the policy as it then is wins 100
more, or when its steps are used up; then the sampled and the greedy policy play 100 other episodes
each. No seed is left out: one without a success counts with all its steps. Finished runs in the
work folder are kept, others go on. With --add, rows that are not run now stay in the result file,
if it has the same settings.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lemae import sweep
from lemae._kit import RunFolder, paired_difference, summarize
from lemae.settings import Settings

RESULTS = Path(__file__).parent / "results"

#: Given to every method alike.
AIDS: dict[str, Any] = {"sticky": 6.0, "self_imitation": 0.3, "learner": {"epochs": 12}}
LEMAE = {"method": "lemae", **AIDS, "rule": "leaf"}
PLAIN = {"method": "plain", **AIDS}
#: What is left of the aids where values are learned: these replay successes anyway.
STICKY = {"algo": "qmix", "sticky": 6.0}
ROWS: dict[str, dict[str, Any]] = {
    "lemae": LEMAE,
    "lemae-published": {"method": "lemae"},
    "plain": PLAIN,
    "plain-without-aids": {"method": "plain"},
    # Parts of LEMAE removed, all else as in "lemae".
    "no-hindsight": {**LEMAE, "shir": False},
    "no-planning": {**LEMAE, "planning": False},
    "no-memory-exploration": {**AIDS, "method": "lemae", "explore": "constant"},
    "published-rule": {**LEMAE, "rule": "degree"},
    "all-coordinates": {**LEMAE, "subspace": "full"},
    "no-sticky": {**LEMAE, "sticky": None},
    "no-imitation": {**LEMAE, "self_imitation": 0.0},
    # Worse key states.
    "half": {**LEMAE, "reduce": 0.5},
    "distracted": {**LEMAE, "distract": 1.0},
    # Other methods with the same aids; the first has the same key states.
    "discriminator": {**AIDS, "method": "discriminator"},
    "count": {**AIDS, "method": "count"},
    "rnd": {**AIDS, "method": "rnd"},
    "her": {**AIDS, "method": "her"},
    "dense": {**AIDS, "method": "dense"},
    # Exploring by what the policy itself does, so that a bonus has its say from the start.
    **{
        f"{method}-on-policy": {**AIDS, "method": method, "sticky": None, "explore": "off"}
        for method in ("plain", "count", "rnd", "her")
    },
    # Another learner.
    "qmix-lemae": {**STICKY, "method": "lemae", "rule": "leaf"},
    "qmix-plain": {**STICKY, "method": "plain"},
    "qmix-lemae-published": {
        **STICKY,
        "method": "lemae",
        "rule": "leaf",
        "learner": {"td_lambda": 0.6, "batch_size": 128, "gradient_steps": 1, "target_rate": None},
    },
    "cmae": {"algo": "cmae", "method": "plain"},
}


@dataclass(frozen=True)
class Case:
    """A task, and what a run on it may take.

    Attributes:
        settings: task, options, most steps.
        seeds: the seeds.
        rows: those that are run unless chosen otherwise.
        instead: what takes the place of a row's own options, for all rows.
    """

    settings: Settings
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    rows: tuple[str, ...] = ("lemae", "plain")
    instead: Mapping[str, Any] = field(default_factory=dict)


def case(task: str, steps: int, options: dict | None = None, **more: Any) -> Case:
    settings = Settings(
        task, steps=steps, options=options or {}, evaluate_every=100_000, stop_at=1.0
    )
    return Case(settings, **more)


MAIN = ("lemae", "lemae-published", "plain")
ON_POLICY = tuple(name for name in ROWS if name.endswith("-on-policy"))
#: Grids have no dense reward.
ALL = tuple(name for name in ROWS if name not in ("dense", *ON_POLICY))
SINGLE: dict[str, Any] = {"seeds": (0, 1, 2)}  # as many as the paper has
#: In battles, which are random themselves, the aids of the grids are in the way: these are what the
#: dense reward alone was seen to learn with (2s3z, seed 0).
BATTLE: dict[str, Any] = {
    "rows": ("lemae", "plain", "rnd", "dense"),
    "seeds": (0, 1, 2),
    "instead": {
        "num_envs": 64,
        "sticky": None,
        "self_imitation": 0.0,
        "learner": {"epochs": 4, "learning_rate": 1e-3},
    },
}
CASES = {
    "pass": case("pass", 500_000, rows=ALL),
    "large-pass": case("large-pass", 1_000_000, rows=ALL),
    "pass-on-policy": case("pass", 500_000, rows=ON_POLICY),
    "secret-room": case("secret-room", 500_000, rows=MAIN),
    "push-box": case("push-box", 500_000, rows=MAIN),
    "pass-70": case("pass", 1_000_000, {"size": 70}),
    "pass-100": case("pass", 1_000_000, {"size": 100}),
    "river": case("river", 500_000),
    # Room 1 with its whole floor; "secret-room" has the target of CMAE's code in it.
    **{
        f"secret-room-{room}": case(
            "secret-room", 500_000, {"target_room": room, "compat": "exact"}, rows=MAIN
        )
        for room in (1, 2, 3)
    },
    **{
        f"{name}-single": case(f"{name}-single", 300_000, **SINGLE)
        for name in ("pass", "secret-room", "large-pass", "push-box")
    },
    **{
        f"smax-{name}": case(f"smax-{name}", steps, **BATTLE)
        for name, steps in (
            ("2s3z", 300_000),
            ("5m_vs_6m", 150_000),
            ("3s_vs_5z", 150_000),
            ("smacv2_5_units", 150_000),
        )
    },
}


def counted(runs: list[dict[str, Any]]) -> list[float]:
    """Thousand steps to the first success; all the steps of a run without one."""
    return [(run["first_success_step"] or run["steps"]) / 1000 for run in runs]


def describe(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """What is reported of a row: all its seeds."""
    return {
        "solved": sum(run["first_success_step"] is not None for run in runs),
        "median_first_success": statistics.median(counted(runs)),
        "first_success": vars(summarize(counted(runs))),
        "sampled": vars(summarize([run["win_rate_sampled"] for run in runs])),
        "greedy": vars(summarize([run["win_rate_greedy"] for run in runs])),
        "runs": [
            {
                name: run[name]
                for name in (
                    *("first_success_step", "win_rate_sampled", "win_rate_greedy"),
                    *("steps", "seconds", "guidance_share", "hits"),
                )
            }
            for run in runs
        ],
    }


def earlier_rows(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Rows of a case's result file, if there is one; ends the program if it has other settings.

    Settings that came later than the file count as they are.
    """
    path = RESULTS / f"learning-{name}" / "summary.json"
    if not path.is_file():
        return {}
    summary = json.loads(path.read_text(encoding="utf-8"))
    now = json.loads(json.dumps(settings))
    if other := [name for name, value in summary["settings"].items() if now.get(name) != value]:
        sys.exit(f"{name} was measured with another {', '.join(other)}: leave out --add")
    rows: dict[str, Any] = summary["results"]["rows"]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("cases", nargs="*", metavar="case", help=f"[pass] of {', '.join(CASES)}")
    parser.add_argument("--rows", help=f"with commas between, of {', '.join(ROWS)}")
    parser.add_argument("--add", action="store_true", help="keep other rows of the result file")
    parser.add_argument("--drop", default="", help="but not these, of other defaults")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("learning"))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    wanted = options.rows.split(",") if options.rows else []
    # Before the first of them trains for hours.
    for kind, given, known in (("case", options.cases, CASES), ("row", wanted, ROWS)):
        if unknown := [name for name in given if name not in known]:
            parser.error(f"there is no {kind} {unknown[0]!r}: choose from {', '.join(known)}")
    names = options.cases or ["pass"]
    common = {n: {**CASES[n].settings.as_dict(), "seeds": list(CASES[n].seeds)} for n in names}
    earlier = {n: earlier_rows(n, common[n]) if options.add else {} for n in names}
    for rows in earlier.values():
        for label in options.drop.split(","):
            rows.pop(label, None)
    for name in names:
        chosen, rows = CASES[name], earlier[name]
        labels = wanted or list(chosen.rows)
        for label in labels:
            given = {**ROWS[label], **chosen.instead}
            settings = [replace(chosen.settings, seed=s, **given) for s in chosen.seeds]
            print(f"{name}: {label}", flush=True)
            runs = sweep.run(
                settings,
                options.work / name / label,
                jobs=options.jobs,
                progress=lambda line: print(line, flush=True),
            )
            rows[label] = describe(runs)
            rows[label]["settings"] = {k: v for k, v in given.items() if v is not None}
        if "lemae" in rows:
            ours = counted(rows["lemae"]["runs"])
            for row in rows.values():
                row["sooner_than_this"] = vars(paired_difference(counted(row["runs"]), ours))
        path = RunFolder(RESULTS / f"learning-{name}", overwrite=True).write_summary(
            {"rows": rows}, settings=common[name]
        )
        if options.json:
            print(json.dumps(rows))
        for label, row in rows.items():
            print(
                f"{name:16}{label:24}first success {row['median_first_success']:7.0f} "
                f"thousand (median), {row['solved']} of {len(row['runs'])} solved, "
                f"won {row['sampled']['mean']:.2f}"
            )
        print(f"wrote {path.parent.name}/{path.name}", flush=True)


if __name__ == "__main__":
    main()
