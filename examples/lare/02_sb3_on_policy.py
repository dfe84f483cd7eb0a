"""PPO on an environment that pays at the end of an episode: a wrapper and a callback."""

import argparse

import gymnasium
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

from lare import LatentReward, Relabeler
from lare.envs import EpisodicReward
from lare.integrations.stable_baselines3 import LatentRewardVecEnv, TrainDecoder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="Pendulum-v1", help="one with a shipped function")
    parser.add_argument("--steps", type=int, default=50_000)
    parser.add_argument("--copies", type=int, default=4, help="environments that step together")
    parser.add_argument("--smoke", action="store_true", help="seconds: does it run here?")
    options = parser.parse_args()

    def make():
        return EpisodicReward(gymnasium.make(options.task))

    venv = make_vec_env(make, options.copies, seed=0)  # its Monitor records the true returns
    relabeler = Relabeler(
        LatentReward.shipped(options.task),
        venv.observation_space,
        venv.action_space,
        n_envs=options.copies,
    )
    model = PPO(
        "MlpPolicy",
        LatentRewardVecEnv(venv, relabeler),  # inside VecNormalize, if there is one
        n_steps=64 if options.smoke else 512,
        seed=0,
    )
    steps = 1024 if options.smoke else options.steps
    model.learn(steps, callback=TrainDecoder(relabeler, updates=10 if options.smoke else 200))
    returns = [episode["r"] for episode in model.ep_info_buffer]
    print(f"true return of the last {len(returns)} episodes: {sum(returns) / len(returns):.0f}")


if __name__ == "__main__":
    main()
