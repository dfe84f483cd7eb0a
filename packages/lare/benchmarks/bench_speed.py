"""What does lare cost? Relabelling a batch, verifying a function, training with it.

    python bench_speed.py [--blocks 15] [--steps 1500] [--json]

- Relabelling 256 sampled rows from stored factors, against the bare forward pass of the published
  decoder on 256 rows, and against running the source anew on every batch as the published code
  does. Calls alternate in blocks; reported are medians and quartiles of the blocks' ratios.
- TD3 of Stable-Baselines3 with its own networks (400, 300) and with 64, 64: environment and
  gradient steps per second with lare and without, in alternating runs.
- Verification of the function for Pendulum, seconds.
"""

from __future__ import annotations

import argparse
import ast
import json
import statistics
import time
from pathlib import Path

import gymnasium
import numpy as np
import torch

from lare import LatentReward, Relabeler, TaskSpec, collect, decomposition, verify
from lare._kit import RunFolder

RESULTS = Path(__file__).parent / "results" / "speed"
BATCH = 256


def quartiles(values: list[float]) -> dict:
    low, middle, high = statistics.quantiles(values, n=4)
    return {"median": middle, "low": low, "high": high}


def relabelling(blocks: int) -> list[dict]:
    env = gymnasium.make("Pendulum-v1")
    function = LatentReward.shipped("Pendulum-v1")
    data = collect(env, 2000)
    random = np.random.default_rng(0)
    found = []
    for kind, options in (("as published", {"loss": "rrd-unbiased"}), ("default", {})):
        relabeler = Relabeler(function, env.observation_space, env.action_space, **options)
        decomposition.observe(relabeler, data)
        relabeler.update(3)
        network = relabeler.model.decoder.network
        factors = torch.randn(BATCH, relabeler.n_factors)
        published = Relabeler(
            function, env.observation_space, env.action_space, loss="rrd-unbiased"
        ).model.decoder.network
        code = compile(ast.parse(function.source), "<function>", "exec")

        def ours(relabeler=relabeler):
            relabeler.relabel_rows(random.integers(2000, size=BATCH), np.zeros(BATCH, int))

        @torch.no_grad()
        def bare(published=published, factors=factors):
            published(factors)

        @torch.no_grad()
        def reference(code=code, network=network):
            rows = random.integers(2000, size=BATCH)
            space: dict = {}
            exec(code, space)
            columns = space["evaluation_func"](*(column[rows] for column in data[:3]))
            network(torch.from_numpy(np.concatenate(columns, 1).astype(np.float32)))

        times = {name: [] for name in ("ours", "bare", "reference")}
        for _ in range(blocks):
            for name, call in (("ours", ours), ("bare", bare), ("reference", reference)):
                begin = time.perf_counter()
                for _ in range(100):
                    call()
                times[name].append((time.perf_counter() - begin) / 100)
        found.append(
            {
                "decoder": kind,
                "us": {name: 1e6 * statistics.median(v) for name, v in times.items()},
                "ours_over_bare": quartiles(
                    [a / b for a, b in zip(times["ours"], times["bare"], strict=True)]
                ),
                "reference_over_ours": quartiles(
                    [a / b for a, b in zip(times["reference"], times["ours"], strict=True)]
                ),
            }
        )
    return found


def training(steps: int, blocks: int) -> list[dict]:
    from stable_baselines3 import TD3

    from lare.envs import EpisodicReward
    from lare.integrations.stable_baselines3 import LatentRewardReplayBuffer

    found = []
    for name, width in (("own networks", None), ("64, 64", [64, 64])):
        models = {}
        for label in ("plain", "lare"):
            env = EpisodicReward(gymnasium.make("Pendulum-v1"))
            options = {} if width is None else {"policy_kwargs": {"net_arch": width}}
            if label == "lare":
                options["replay_buffer_class"] = LatentRewardReplayBuffer
                options["replay_buffer_kwargs"] = {"relabeler": Relabeler.for_env(env)}
            models[label] = TD3("MlpPolicy", env, learning_starts=200, device="cpu", **options)
            models[label].learn(400)
        speeds = {label: [] for label in models}
        for _ in range(blocks):
            for label, model in models.items():
                begin = time.perf_counter()
                model.learn(steps // blocks, reset_num_timesteps=False)
                speeds[label].append(steps // blocks / (time.perf_counter() - begin))
        ratios = [a / b for a, b in zip(speeds["lare"], speeds["plain"], strict=True)]
        medians = {label: statistics.median(values) for label, values in speeds.items()}
        found.append({"networks": name, "steps_per_second": medians, "ratio": quartiles(ratios)})
    return found


def verification() -> dict[str, float]:
    name = "Pendulum-v1"
    steps = collect(gymnasium.make(name), 512)
    task, function = TaskSpec.shipped(name), LatentReward.shipped(name)
    seconds = []
    for _ in range(5):
        begin = time.perf_counter()
        assert verify(function, steps, task=task).accepted
        seconds.append(time.perf_counter() - begin)
    return quartiles(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=15)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = {
        "relabelling": relabelling(options.blocks),
        "training": training(options.steps, options.blocks),
        "verification_s": verification(),
    }
    path = RunFolder(RESULTS, overwrite=True).write_summary(results, settings=vars(options))
    print(json.dumps(results, indent=1) if options.json else f"wrote {path.name}: {results}")


if __name__ == "__main__":
    main()
