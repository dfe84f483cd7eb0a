"""What do key states cost? Labels, memory, explorer and rewards, as a share of training on Pass.

    python bench_overhead.py [--blocks 5] [--steps 24000] [--json]

IPPO with 8 copies on one thread, with the shipped key states and without, in alternating runs of
the same length, both with sticky random actions, so that episodes are equally long. Reported are
medians and quartiles over the runs:

- ``share``: of the time of LEMAE's iterations (without evaluation) for labels, memory, explorer
  and rewards, measured inside;
- ``steps_per_second``: environment steps, learning included, by the wall clock;
- ``steps_per_cpu_second``: by the processor time of everything, set-up and evaluation included,
  which other programs on the machine change less.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from lemae._kit import RunFolder
from lemae.training import Settings, train

RESULTS = Path(__file__).parent / "results" / "overhead"
METHODS = ("lemae", "plain")


def quartiles(values: list[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(values, n=4)
    return {"median": middle, "low": low, "high": high}


def measure(method: str, seed: int, steps: int) -> dict[str, float]:
    settings = Settings(
        "pass",
        method,
        steps=steps,
        seed=seed,
        sticky=6.0,
        evaluate_every=steps,
        evaluation_episodes=8,
    )
    begin = time.process_time()
    results = train(settings)
    return {
        "share": results["guidance_share"],
        "steps_per_second": results["steps_per_second"],
        "steps_per_cpu_second": results["steps"] / (time.process_time() - begin),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--steps", type=int, default=24_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for method in METHODS:  # compile and warm up
        measure(method, 0, 2400)
    found: dict[str, list[dict[str, float]]] = {method: [] for method in METHODS}
    for seed in range(options.blocks):
        for method in METHODS:
            found[method].append(measure(method, seed, options.steps))
    results = {
        method: {name: quartiles([one[name] for one in runs]) for name in runs[0]}
        for method, runs in found.items()
    }
    settings = {"blocks": options.blocks, "steps": options.steps, "task": "pass", "num_envs": 8}
    path = RunFolder(RESULTS, overwrite=True).write_summary(results, settings=settings)
    print(json.dumps(results, indent=1) if options.json else f"wrote {path.name}: {results}")


if __name__ == "__main__":
    main()
