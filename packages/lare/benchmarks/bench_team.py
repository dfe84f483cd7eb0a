"""Cooperative Navigation with several agents paid once, at the end, as a team: who learns?

    python bench_team.py [--task cooperative-navigation-6] [--seeds 0..4] [--jobs 2] [--work DIR]

Resumable: finished runs in the work folder are kept. Differences are paired: lare minus each method
on the same seed. With --add, methods that are not asked for keep their rows of the result file, if
it has the same settings.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from _results import earlier_runs

from lare import sweep
from lare._kit import RunFolder, paired_difference, summarize
from lare.algos.credit import DecompositionSettings
from lare.algos.mpe import MPESettings

RESULTS = Path(__file__).parent / "results"
METHODS = (
    *("lare", "lare-rd", "direct", "rd", "rrd", "rrd-unbiased", "ircr", "arel", "stas"),
    *("episodic", "dense"),
)
STEPS = 75_000
#: The published schedule is made for 1000 rollouts; in a few dozen the model learns every time.
OFTEN = {"every": 1}
#: Attention over whole teams costs two orders more: smaller, and fewer episodes per update.
ATTENTION = {"every": 2, "updates": 20, "batch": 32, "model": {"hidden": 32}}


def settings(task: str, method: str, seed: int) -> MPESettings:
    chosen = ATTENTION if method in ("arel", "stas") else OFTEN
    return MPESettings(
        task,
        method,
        STEPS,
        seed,
        evaluate_every=STEPS // 5,
        decomposition=DecompositionSettings(**chosen),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="cooperative-navigation-6")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--seeds", default="0..4")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("team"))
    parser.add_argument("--add", action="store_true", help="keep other rows of the result file")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    first, _, last = options.seeds.partition("..")
    seeds = list(range(int(first), int(last or first) + 1))
    methods = options.methods.split(",")
    common = {"steps": STEPS, "seeds": seeds, "often": OFTEN, "attention": ATTENTION}
    out = RESULTS / f"team-{options.task}"
    runs = earlier_runs(out, common) if options.add else {}
    for method in methods:
        chosen = [settings(options.task, method, seed) for seed in seeds]
        runs[method] = sweep.run(
            chosen, options.work, jobs=options.jobs, progress=lambda line: print(line, flush=True)
        )
    final = {method: [list(run["scores"].values())[-1] for run in runs[method]] for method in runs}
    rows = {
        method: {
            "return": vars(summarize(final[method])),
            "lare_minus_this": vars(paired_difference(final["lare"], final[method])),
            "runs": [{**run, "seed": s} for s, run in zip(seeds, runs[method], strict=True)],
        }
        for method in runs
    }
    path = RunFolder(out, overwrite=True).write_summary({"rows": rows}, settings=common)
    for method in runs:
        print(method, summarize(final[method]))
    print(json.dumps(rows) if options.json else f"wrote {path.name}")


if __name__ == "__main__":
    main()
