"""Two calls in a training loop of your own: observe every step, relabel every batch.

The learner here is a small actor-critic in one file, in the style of CleanRL; what matters is where
the lines marked (lare) stand.
"""

import argparse

import gymnasium
import numpy as np
import torch
from torch import nn

from lare import Relabeler
from lare.envs import EpisodicReward


def network(inputs, outputs):
    return nn.Sequential(
        nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, outputs)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--smoke", action="store_true", help="seconds: does it run here?")
    options = parser.parse_args()
    steps = 700 if options.smoke else options.steps

    torch.set_num_threads(1)  # small networks: more threads would wait for each other
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    env = EpisodicReward(gymnasium.make("Pendulum-v1"))
    relabeler = Relabeler.for_env(env)  # (lare)
    size, high = env.observation_space.shape[0], float(env.action_space.high[0])
    actor, critic, target = network(size, 1), network(size + 1, 1), network(size + 1, 1)
    target.load_state_dict(critic.state_dict())
    actor_steps = torch.optim.Adam(actor.parameters(), 1e-3)
    critic_steps = torch.optim.Adam(critic.parameters(), 1e-3)
    starts, actions, ends = (np.zeros((steps, n), np.float32) for n in (size, 1, size))

    start, _ = env.reset(seed=0)
    for step in range(steps):
        with torch.no_grad():
            mean = high * actor(torch.as_tensor(start)).tanh().numpy()
        noise = random.uniform(-high, high, 1) if step < 500 else random.normal(0, 0.4, 1)
        action = np.clip(mean * (step >= 500) + noise, -high, high).astype(np.float32)
        end, reward, terminated, truncated, _ = env.step(action)
        relabeler.observe(start, action, end, reward, terminated, truncated)  # (lare)
        starts[step], actions[step], ends[step] = start, action, end
        start = env.reset()[0] if terminated or truncated else end
        if step < 500:
            continue
        relabeler.update()  # (lare)
        rows = random.integers(step + 1, size=128)
        rewards = relabeler.relabel(starts[rows], actions[rows], ends[rows])  # (lare)
        s, a, e, r = map(torch.as_tensor, (starts[rows], actions[rows], ends[rows], rewards))
        with torch.no_grad():
            following = target(torch.cat([e, high * actor(e).tanh()], 1))[:, 0]
        loss = (critic(torch.cat([s, a], 1))[:, 0] - r - 0.99 * following).square().mean()
        critic_steps.zero_grad()
        loss.backward()
        critic_steps.step()
        loss = -critic(torch.cat([s, high * actor(s).tanh()], 1)).mean()
        actor_steps.zero_grad()
        loss.backward()
        actor_steps.step()
        for old, new in zip(target.parameters(), critic.parameters(), strict=True):
            old.data.lerp_(new.data, 0.005)
    returns = [episode.total for episode in relabeler.store.episodes]
    print(f"returns: first {returns[0]:.0f}, last {returns[-1]:.0f}")


if __name__ == "__main__":
    main()
