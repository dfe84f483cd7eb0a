"""TorchRL: a transform on the replay buffer, and nothing else changes.

DDPG in its shortest form on Pendulum, which pays at the end of the episode.
"""

import argparse

import gymnasium
import torch
from tensordict.nn import TensorDictModule, TensorDictSequential
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.envs import GymWrapper, InitTracker, TransformedEnv
from torchrl.modules import MLP, AdditiveGaussianModule, TanhModule, ValueOperator
from torchrl.objectives import DDPGLoss, SoftUpdate

from lare import Relabeler
from lare.envs import EpisodicReward
from lare.integrations.torchrl import LatentRewardTransform


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--smoke", action="store_true", help="seconds: does it run here?")
    options = parser.parse_args()
    steps = 600 if options.smoke else options.steps

    torch.manual_seed(0)
    plain = EpisodicReward(gymnasium.make("Pendulum-v1"))
    env = TransformedEnv(GymWrapper(plain), InitTracker())  # the noise asks for the tracker
    relabeler = Relabeler.for_env(plain)  # (lare)
    size = env.observation_spec["observation"].shape[-1]
    network = MLP(in_features=size, out_features=1, num_cells=[64, 64])
    actor = TensorDictSequential(
        TensorDictModule(network, ["observation"], ["param"]),
        TanhModule(in_keys=["param"], out_keys=["action"], spec=env.action_spec),
    )
    critic = ValueOperator(
        MLP(in_features=size + 1, out_features=1, num_cells=[64, 64]), ["observation", "action"]
    )
    noisy = TensorDictSequential(actor, AdditiveGaussianModule(env.action_spec, 0.2, 0.2))
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(steps), batch_size=128)
    buffer.append_transform(LatentRewardTransform(relabeler))  # (lare)
    loss_module = DDPGLoss(actor, critic, delay_actor=True, delay_value=True)
    loss_module.make_value_estimator(gamma=0.99)
    targets = SoftUpdate(loss_module, tau=0.005)
    optimizer = torch.optim.Adam(loss_module.parameters(), 1e-3)

    collector = Collector(
        env, noisy, frames_per_batch=100, total_frames=steps, init_random_frames=200
    )
    for data in collector:
        buffer.extend(data)
        for _ in range(10 if options.smoke else 100):
            losses = loss_module(buffer.sample())
            optimizer.zero_grad()
            (losses["loss_actor"] + losses["loss_value"]).backward()
            optimizer.step()
            targets.step()
    returns = [episode.total for episode in relabeler.store.episodes]
    print(f"returns: first {returns[0]:.0f}, last {returns[-1]:.0f}")
    collector.shutdown()


if __name__ == "__main__":
    main()
