"""How fast are the grid tasks? Environment steps per second on one core, random actions.

    OMP_NUM_THREADS=1 python bench_envs.py [--tasks pass,river] [--copies 1,64,1024] [--json]

A step of N copies counts as N. Whole episodes with their resets are timed, the drawing of the
actions is not. Reported are the median and the range of the repetitions after one that does not
count; tasks take turns within a repetition, so that a slow moment of the machine hits all of them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np

from lemae import envs
from lemae._kit import RunFolder

RESULTS = Path(__file__).parent / "results" / "envs"


def rate(name: str, copies: int, episodes: int) -> float:
    """Environment steps per second over some episodes."""
    env = envs.make(name, copies, seed=0)
    actions = np.random.default_rng(0).integers(
        0, env.n_actions, (env.episode_limit, copies, env.n_agents)
    )
    start = time.perf_counter()
    for _ in range(episodes):
        env.reset()
        for joint in actions:
            env.step(joint)
    return episodes * env.episode_limit * copies / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", default=",".join(envs.names()))
    parser.add_argument("--copies", default="1,64,1024")
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--episodes", type=int, default=3, help="per repetition")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    cases = [
        (name, copies)
        for copies in map(int, options.copies.split(","))
        for name in options.tasks.split(",")
    ]
    rates: dict = {case: [] for case in cases}
    for _ in range(options.repetitions + 1):
        for case in cases:
            rates[case].append(rate(*case, options.episodes))
    results = [
        {
            "task": name,
            "copies": copies,
            "steps_per_s": {
                "median": round(statistics.median(values[1:])),
                "lowest": round(min(values[1:])),
                "highest": round(max(values[1:])),
            },
            "us_per_step": round(1e6 * copies / statistics.median(values[1:]), 1),
        }
        for (name, copies), values in rates.items()
    ]
    path = RunFolder(RESULTS, overwrite=True).write_summary(
        {"speed": results}, settings=vars(options), seed=0
    )
    if options.json:
        print(json.dumps(results, indent=1))
        return
    for row in results:
        speed = row["steps_per_s"]
        print(f"{row['task']:20}{row['copies']:6} copies {speed['median'] / 1e6:8.3f} M steps/s")
    print(f"wrote {path.parent.name}/{path.name}")


if __name__ == "__main__":
    main()
