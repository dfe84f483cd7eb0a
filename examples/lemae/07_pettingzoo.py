"""How do I train with key states on a PettingZoo environment, here one of real numbers?

Two agents of simple_spread (MPE), each with a landmark of its own, in random places; paid is only
the moment when both stand on theirs. Needs: pip install "lemae[report,pettingzoo]" mpe2
"""

import argparse
import tempfile
import warnings
from pathlib import Path

import numpy as np
from mpe2 import simple_spread_v3
from pettingzoo.utils import BaseParallelWrapper

from lemae import StateEntry, TaskSpec, report, training
from lemae.errors import LemaeWarning
from lemae.integrations.pettingzoo import wrap
from lemae.settings import Settings

LIMIT, NEAR = 50, 0.15
NAMES = [f"agent {i} {axis}, seen from landmark {i}" for i in range(2) for axis in "xy"]
SPEC = TaskSpec(
    name="own-landmarks",
    description="Each of two agents has to stand on its own landmark, both at the same time.",
    configuration=f"It does where both distances, in x and in y, are at most {NEAR}.",
    state=tuple(StateEntry(name, -5, 5, integer=False) for name in NAMES),
    n_agents=2,
    actions=("stay", "left", "right", "down", "up"),
    episode_limit=LIMIT,
)
KEY_STATES = f"""
def is_agent_0_there(state):
    return max(abs(state[0]), abs(state[1])) <= {NEAR}

def is_agent_1_there(state):
    return max(abs(state[2]), abs(state[3])) <= {NEAR}
"""


class OwnLandmarks(BaseParallelWrapper):
    """A state in which distances mean something, and a reward for success alone, which ends."""

    def state(self):  # noqa: D102  PettingZoo's
        world = self.env.unwrapped.world
        pairs = zip(world.agents, world.landmarks, strict=True)
        return np.concatenate([who.state.p_pos - mark.state.p_pos for who, mark in pairs])

    def step(self, actions):  # noqa: D102  PettingZoo's
        seen, rewards, ends, cuts, infos = super().step(actions)
        won = bool(np.abs(self.state()).max() <= NEAR)
        rewards, ends = dict.fromkeys(rewards, float(won)), dict.fromkeys(ends, won)
        return seen, rewards, ends, cuts, {who: {"success": won} for who in infos}


def make(num_envs: int):
    copies = [simple_spread_v3.parallel_env(N=2, max_cycles=LIMIT) for _ in range(num_envs)]
    return wrap([OwnLandmarks(env) for env in copies], episode_limit=LIMIT, task_spec=SPEC)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60_000)
    parser.add_argument("--smoke", action="store_true", help="seconds: does it run here?")
    args = parser.parse_args()
    sizes = {"steps": 800, "evaluation_episodes": 8} if args.smoke else {"steps": args.steps}
    # An agent may start on its landmark by chance: that does not count, and is told.
    warnings.filterwarnings("ignore", "true at reset", LemaeWarning)
    out = Path(tempfile.mkdtemp())
    (out / "key_states.py").write_text(KEY_STATES)
    guided = {"key_states": str(out / "key_states.py"), "beta": 10.0}  # of ranges of 10
    for method, more in (("lemae", guided), ("plain", {})):
        settings = Settings(f"{__name__}:make", method, **sizes, **more)
        run = training.train(settings, out / method)
        print(method, "first success:", run["first_success_step"], "wins:", run["win_rate_sampled"])
    print("report:", report.write(out))


if __name__ == "__main__":
    main()
