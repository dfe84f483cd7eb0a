"""How do I add key states to a BenchMARL experiment? One callback; the algorithm stays as it is.

VDN on a small Pass, which pays for success alone. BenchMARL wants a TorchRL of its own, and pip
would bring another torch along: take a new environment, and constraints.txt with torch==2.13.0.
Needs: pip install -c constraints.txt "lemae[pettingzoo]" benchmarl==1.5.2
"""

import argparse
import tempfile

import torch
from benchmarl.algorithms import VdnConfig
from benchmarl.environments.pettingzoo.common import PettingZooClass
from benchmarl.experiment import Experiment, ExperimentConfig
from benchmarl.models.mlp import MlpConfig
from torchrl.envs import PettingZooWrapper

from lemae import KeyStateSet, envs
from lemae.integrations.benchmarl import KeyStateCallback
from lemae.integrations.shaping import Shaping

LIMIT = 100
KEY_STATES = """
def is_agent_0_opens(state):
    return state[0] < 5 and state[1] >= 0 and state[4] == 1

def is_agent_1_across(state):
    return state[0] < 5 and state[1] >= 0 and state[2] > 5 and state[3] >= 0 and state[4] == 1

def is_agent_0_at_door(state):
    return 3 <= state[0] < 5 and 4 <= state[1] <= 6 and state[2] > 5 and state[3] >= 0

def is_agent_1_opens(state):
    at_door = 3 <= state[0] <= 5 and 4 <= state[1] <= 6
    return at_door and state[2] > 5 and state[3] >= 0 and state[4] == 1
"""


class SmallPass(PettingZooClass):
    """The task, in BenchMARL's terms: any PettingZoo environment goes here."""

    def get_env_fun(self, num_envs, continuous_actions, seed, device):  # noqa: D102  BenchMARL's
        form = {"use_mask": False, "categorical_actions": True, "return_state": True}
        grid = {"size": 10, "episode_limit": LIMIT}
        return lambda: PettingZooWrapper(envs.ParallelGrid("pass", **grid), device=device, **form)

    def supports_discrete_actions(self):  # noqa: D102  BenchMARL's
        return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=80_000)
    parser.add_argument("--smoke", action="store_true", help="seconds: does it run here?")
    args = parser.parse_args()
    torch.set_num_threads(1)
    config = ExperimentConfig.get_from_yaml()
    config.save_folder = tempfile.mkdtemp()
    config.loggers, config.create_json, config.evaluation, config.render = [], False, False, False
    config.max_n_frames, config.max_n_iters = 400 if args.smoke else args.steps, None
    config.off_policy_n_envs_per_worker, config.off_policy_collected_frames_per_batch = 2, 200
    config.off_policy_n_optimizer_steps, config.off_policy_train_batch_size = 20, 256
    config.lr, config.gamma, config.exploration_eps_end = 1e-3, 0.98, 0.05
    key_states = KeyStateSet.from_source(KEY_STATES, envs.make("pass", size=10).task_spec)
    shaping = Shaping(key_states, alpha=10, beta=0.1)  # (lemae)
    Experiment(
        task=SmallPass("PASS", {"max_cycles": LIMIT}),
        algorithm_config=VdnConfig.get_from_yaml(),
        model_config=MlpConfig.get_from_yaml(),
        seed=0,
        config=config,
        callbacks=[KeyStateCallback(shaping)],  # (lemae)
    ).run()
    for path, node in shaping.memory.walk():
        names = " > ".join(key_states.names[k] for k in path) or "all"
        print(f"{names}: {node.visits} episodes, {node.successes} won")


if __name__ == "__main__":
    main()
