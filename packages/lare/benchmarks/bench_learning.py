"""Does TD3 learn from step rewards that were learned from returns? True returns, seed by seed.

    python bench_learning.py Pendulum-v1 [--seeds 0..4] [--jobs 2] [--work DIR] [--json]

Resumable: finished runs in the work folder are kept. With --add, rows that are not asked for stay
in the result file, if it has the same settings. Beside each method as it comes stands what
tells its parts from each other: the same without normalizing, and the raw baseline with it.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

from _results import earlier_runs

from lare import sweep
from lare._kit import RunFolder, paired_difference, summarize
from lare.training import Settings

RESULTS = Path(__file__).parent / "results"
TASKS = {
    "Pendulum-v1": Settings("Pendulum-v1", steps=5000, evaluate_every=1000),
    "Reacher-v5": Settings("Reacher-v5", steps=10_000, evaluate_every=2000),
    "HalfCheetah-v5": Settings(
        "HalfCheetah-v5", steps=10_000, evaluate_every=2000, max_episode_steps=200, warmup=1000
    ),
}
#: Label -> method and options of the relabeler.
ROWS = {
    "lare": ("lare", {}),
    "lare, not normalized": ("lare", {"normalize": False}),
    "lare, published decoder": ("lare-rrd-unbiased", {}),
    "rrd": ("rrd", {}),
    "rrd, normalized": ("rrd", {"normalize": True}),
    "rd": ("rd", {}),
    "ircr": ("ircr", {}),
    "vib": ("vib", {}),
    "diaster": ("diaster", {}),
    "direct": ("direct", {}),
    "episodic": ("episodic", {}),
    "dense": ("dense", {}),
}


def numbers(text: str) -> list[int]:
    first, _, last = text.partition("..")
    return list(range(int(first), int(last or first) + 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", nargs="?", choices=TASKS, default="Pendulum-v1")
    parser.add_argument("--seeds", default="0..4")
    parser.add_argument("--rows", default=",".join(ROWS), help="labels, with ; between")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("learning"))
    parser.add_argument("--add", action="store_true", help="keep other rows of the result file")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    seeds = numbers(options.seeds)
    labels = options.rows.split(";") if options.rows != ",".join(ROWS) else list(ROWS)
    common = {**vars(TASKS[options.task]), "seeds": seeds}
    out = RESULTS / f"learning-{options.task}"
    runs = earlier_runs(out, common) if options.add else {}
    for label in labels:
        method, chosen = ROWS[label]
        settings = [
            replace(TASKS[options.task], method=method, options=chosen, seed=seed) for seed in seeds
        ]
        folder = options.work / options.task / label.replace(", ", "-").replace(" ", "-")
        print(label, flush=True)
        runs[label] = sweep.run(
            settings, folder, jobs=options.jobs, progress=lambda line: print(line, flush=True)
        )
    last = {label: [list(run["scores"].values())[-1] for run in runs[label]] for label in runs}
    rows = {
        label: {
            "return": vars(summarize(last[label])),
            "lare_minus_this": vars(paired_difference(last["lare"], last[label])),
            "runs": [{**run, "seed": s} for s, run in zip(seeds, runs[label], strict=True)],
        }
        for label in runs
    }
    path = RunFolder(out, overwrite=True).write_summary({"rows": rows}, settings=common)
    for label in runs:
        print(label, summarize(last[label]))
    print(json.dumps(rows) if options.json else f"wrote {path.name}")


if __name__ == "__main__":
    main()
