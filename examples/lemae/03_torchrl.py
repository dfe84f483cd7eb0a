"""How do I add key states to a TorchRL loop? A transform on the buffer, a module behind the policy.

Two Q-learners on a small Pass, which pays for success alone. The lines marked (lemae) are all.
Needs: pip install "lemae[torchrl,pettingzoo]"
"""

import argparse

import torch
from tensordict.nn import TensorDictModule, TensorDictSequential
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, SliceSampler, TensorDictReplayBuffer
from torchrl.envs import InitTracker, PettingZooWrapper, TransformedEnv
from torchrl.modules import MultiAgentMLP, QValueModule
from torchrl.objectives import DQNLoss, SoftUpdate

from lemae import KeyStateSet, envs
from lemae.integrations.shaping import Shaping
from lemae.integrations.torchrl import KsmtExploration, ShirTransform

KEY_STATES = """
def is_agent_0_opens(state):
    return state[0] < 5 and state[1] >= 0 and state[4] == 1

def is_agent_1_across(state):
    return state[0] < 5 and state[1] >= 0 and state[2] > 5 and state[3] >= 0 and state[4] == 1

def is_agent_0_at_door(state):
    return 3 <= state[0] < 5 and 4 <= state[1] <= 6 and state[2] > 5 and state[3] >= 0

def is_agent_1_opens(state):
    return 2 < state[0] < 6 and 3 < state[1] < 7 and state[2] > 5 and state[3] >= 0 and state[4] > 0
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=40_000)
    parser.add_argument("--smoke", action="store_true", help="seconds: does it run here?")
    args = parser.parse_args()
    steps = 600 if args.smoke else args.steps
    torch.manual_seed(0)
    grid = envs.ParallelGrid("pass", size=10, episode_limit=100)
    env = PettingZooWrapper(grid, use_mask=False, categorical_actions=True, return_state=True)
    env = TransformedEnv(env, InitTracker())  # the exploration asks for the tracker
    key_states = KeyStateSet.from_source(KEY_STATES, grid.vector.task_spec)
    shaping = Shaping(key_states, alpha=10, beta=0.1)  # (lemae)
    names = ("action", "action_value", "chosen_action_value")
    action, values, chosen = (("agent", name) for name in names)
    network = MultiAgentMLP(5, 4, 2, centralized=False, share_params=False, num_cells=[128, 128])
    policy = TensorDictSequential(
        TensorDictModule(network, [("agent", "observation")], [values]),
        QValueModule("categorical", values, out_keys=[action, values, chosen]),
    )
    loss_module = DQNLoss(policy, action_space="categorical", delay_value=True)
    own = {name: ("agent", name) for name in ("reward", "done", "terminated", "action")}
    loss_module.set_keys(action_value=values, value=chosen, **own)
    targets = SoftUpdate(loss_module, tau=0.01)
    optimizer = torch.optim.Adam(loss_module.parameters(), 1e-3)
    pieces = SliceSampler(slice_len=32)  # of episodes: single steps would hold no hindsight
    storage = LazyTensorStorage(steps)
    buffer = TensorDictReplayBuffer(storage=storage, sampler=pieces, batch_size=512)
    buffer.append_transform(ShirTransform(shaping, state="state", reward=own["reward"]))  # (lemae)
    explore = KsmtExploration(shaping, 2, 4, state="state", action=action, sticky=4.0)  # (lemae)
    acting = TensorDictSequential(policy, explore)
    for data in Collector(env, acting, frames_per_batch=200, total_frames=steps):
        buffer.extend(data)
        for _ in range(20):
            loss = loss_module(buffer.sample())["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            targets.step()
        if len(buffer) % 4000 == 0 or args.smoke:
            episodes, won = shaping.memory.episodes, shaping.memory.successes
            print(f"step {len(buffer)}: {won} of {episodes} episodes won", flush=True)


if __name__ == "__main__":
    main()
