"""How well do step rewards learned from returns agree with the true ones? No policy is trained.

Episodes of random actions; three quarters to learn from, one quarter to compare on. Per
environment: the shipped latent reward in closed form and with each loss, the raw numbers with each
loss, and as a ceiling the closed form on the terms of the true reward, which no method may see.

    python bench_decomposition.py [--seeds 0..2] [--updates 3000] [--json]
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

import gymnasium
import numpy as np
import torch

from lare import LatentReward, decomposition
from lare._kit import RunFolder
from lare.methods import create

RESULTS = Path(__file__).parent / "results" / "decomposition"
#: Environment, time limit, episodes.
ENVIRONMENTS = (("Pendulum-v1", 200, 100), ("Reacher-v5", 50, 200), ("HalfCheetah-v5", 200, 100))
OURS = ("lare", "lare-ridge", "lare-rrd-unbiased", "lare-rrd", "lare-rd")
METHODS = (*OURS, "rrd-unbiased", "rrd", "rd")
DECODER = {"hidden": 64, "layers": 3}
RANDOM = {"k": 16, "batch_steps": 256}
WHOLE = {"batch_steps": 800}


class TrueTerms:
    """The terms of the environment's own reward, as factors: what a perfect function has."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, observation, action=None, next_observation=None):
        """Compute float32 ``[B, terms]``."""
        effort = np.square(action).sum(1)
        if self.name == "Pendulum-v1":
            angle = np.arctan2(observation[:, 1], observation[:, 0])
            terms = [np.square(angle), np.square(observation[:, 2]), effort]
        elif self.name == "Reacher-v5":
            terms = [np.hypot(next_observation[:, 8], next_observation[:, 9]), effort]
        else:  # the position is not observed: the mean of the speeds is what comes nearest
            terms = [observation[:, 8] + next_observation[:, 8], effort]
        return np.stack(terms, 1).astype(np.float32)


def options(method: str) -> dict:
    if method == "lare" or method.startswith("true"):
        return {}
    return {"decoder": DECODER, **(WHOLE if method in ("rd", "lare-rd") else RANDOM)}


def rows(seeds: list[int], updates: int):
    for name, limit, episodes in ENVIRONMENTS:
        env = gymnasium.make(name, max_episode_steps=limit)
        for seed in seeds:
            data = decomposition.episodes_of(env, episodes, seed)
            for method in (*METHODS, "true terms"):
                ceiling = method.startswith("true")
                features = TrueTerms(name) if ceiling else LatentReward.shipped(name)
                ridge = {"decoder": {"kind": "ridge"}} if method == "lare-ridge" else {}
                relabeler = create(
                    "lare" if ceiling or ridge else method,
                    features,
                    env.observation_space,
                    env.action_space,
                    capacity=len(data.reward),
                    seed=seed,
                    **(ridge or options(method)),
                )
                begin = time.perf_counter()
                closed = ceiling or method in ("lare", "lare-ridge")
                found = decomposition.measure(relabeler, data, updates=1 if closed else updates)
                row = {"environment": name, "method": method, "seed": seed, **asdict(found)}
                row["seconds"] = time.perf_counter() - begin
                print(row, flush=True)
                yield row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--updates", type=int, default=3000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = list(rows(arguments.seeds, arguments.updates))
    path = RunFolder(RESULTS, overwrite=True).write_summary(
        {"rows": found},
        settings={
            "updates": arguments.updates,
            "seeds": arguments.seeds,
            "environments": ENVIRONMENTS,
            "decoder": DECODER,
            "random": RANDOM,
            "whole": WHOLE,
        },
    )
    print(json.dumps(found) if arguments.json else f"wrote {path.name}")


if __name__ == "__main__":
    main()
