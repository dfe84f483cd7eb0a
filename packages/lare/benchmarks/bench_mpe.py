"""How fast are the particle tasks? Agent-steps per second, whole episodes, random actions.

Counts learning agents only: for every task the median, lowest and highest of the repetitions,
resets included; with ``--single`` also of the PettingZoo form.

    OMP_NUM_THREADS=1 python bench_mpe.py --copies 64 --single [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np

from lare._kit import RunFolder
from lare.envs import VectorizedMPE, task_ids

RESULTS = Path(__file__).parent / "results" / "mpe"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--copies", type=int, default=64)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--episodes", type=int, default=4, help="Episodes per repetition.")
    parser.add_argument("--tasks", default=",".join(task_ids()))
    parser.add_argument("--single", action="store_true", help="Time the PettingZoo form as well.")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    tasks = options.tasks.split(",")
    forms = {"vectorized": lambda task: vectorized(task, options.copies, options.episodes)}
    if options.single:
        forms["pettingzoo"] = single
    results = {
        form: {
            task: summary(lambda task=task, rate=rate: rate(task), options.repetitions)
            for task in tasks
        }
        for form, rate in forms.items()
    }
    path = RunFolder(RESULTS, overwrite=True).write_summary(
        {"unit": "agent-steps/s", **results}, settings=vars(options)
    )
    print(json.dumps(results, indent=1) if options.json else f"wrote {path.name}: {results}")


def summary(measure, repetitions: int) -> dict[str, int]:
    """Median and range after one repetition that does not count."""
    measure()
    rates = [measure() for _ in range(repetitions)]
    return {
        "median": round(statistics.median(rates)),
        "lowest": round(min(rates)),
        "highest": round(max(rates)),
    }


def vectorized(task: str, copies: int, episodes: int) -> float:
    env = VectorizedMPE(task, copies, seed=0)
    shape = (episodes, env.horizon, copies, env.n_agents)
    actions = np.random.default_rng(0).integers(0, env.n_actions, shape)
    start = time.perf_counter()
    for episode in actions:
        env.reset()
        for step in episode:
            env.step(step)
    return actions.size / (time.perf_counter() - start)


def single(task: str) -> float:
    from lare.envs import ParallelMPE

    env = ParallelMPE(task)
    actions = np.random.default_rng(0).integers(0, 5, (env.horizon, len(env.possible_agents)))
    start = time.perf_counter()
    env.reset(seed=0)
    for step in actions:
        env.step(dict(zip(env.possible_agents, step, strict=True)))
    return actions.size / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
