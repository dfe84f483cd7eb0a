"""TD3 on an environment that pays at the end of an episode, with step rewards from its returns.

Without the three lines marked (lare) the same script learns from the return alone. MuJoCo's tasks
work as well: --task HalfCheetah-v5 (pip install "lare-rl[sb3,mujoco]").
"""

import argparse

import gymnasium
import numpy as np
import torch
from stable_baselines3 import TD3
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.noise import NormalActionNoise

from lare import Relabeler
from lare.envs import EpisodicReward
from lare.integrations.stable_baselines3 import LatentRewardReplayBuffer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="Pendulum-v1", help="one with a shipped function")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--smoke", action="store_true", help="seconds: does it run here?")
    options = parser.parse_args()

    torch.set_num_threads(1)  # small networks: more threads would wait for each other
    env = EpisodicReward(gymnasium.make(options.task))
    n_actions = env.action_space.shape[0]
    relabeler = Relabeler.for_env(env)  # (lare)
    model = TD3(
        "MlpPolicy",
        env,
        replay_buffer_class=LatentRewardReplayBuffer,  # (lare)
        replay_buffer_kwargs={"relabeler": relabeler},  # (lare)
        learning_starts=250 if options.smoke else 500,
        batch_size=128,
        action_noise=NormalActionNoise(*np.array([0.0, 0.1])[:, None] * np.ones(n_actions)),
        policy_kwargs={"net_arch": [64, 64]},
        learning_rate=1e-3,
        seed=0,
    )

    def score() -> float:
        episodes = 1 if options.smoke else 10
        return evaluate_policy(model, gymnasium.make(options.task), episodes, warn=False)[0]

    print(f"true return {score():.0f} before training")
    model.learn(300 if options.smoke else options.steps)
    print(f"true return {score():.0f} after {model.num_timesteps} steps")
    print(f"factors: {', '.join(relabeler.features.names)}")


if __name__ == "__main__":
    main()
