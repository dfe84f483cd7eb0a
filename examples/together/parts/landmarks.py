"""A task of two agents that pays late and seldom, and what each package is told of it."""

import numpy as np
from gymnasium import spaces
from mpe2 import simple_spread_v3
from pettingzoo.utils import BaseParallelWrapper

from lemae import StateEntry, TaskSpec
from lemae.algos import Collector
from lemae.integrations.pettingzoo import wrap

LIMIT, NEAR = 50, 0.15
SEEN = 8  # numbers that an agent observes

SPEC = TaskSpec(
    name="late-landmarks",
    description="Each of two agents has to stand on its own landmark, both at the same time and "
    "for as long as they can.",
    configuration=f"An agent does where both distances, in x and in y, are at most {NEAR}.",
    state=tuple(
        StateEntry(f"agent {i} {axis}, seen from landmark {i}", -5, 5, integer=False)
        for i in range(2)
        for axis in "xy"
    ),
    n_agents=2,
    actions=("stay", "left", "right", "down", "up"),
    episode_limit=LIMIT,
)

# For lemae: of the state of both, worth a visit on the way to what is paid.
KEY_STATES = f"""
def is_agent_0_there(state):
    return max(abs(state[0]), abs(state[1])) <= {NEAR}

def is_agent_1_there(state):
    return max(abs(state[2]), abs(state[3])) <= {NEAR}

def is_both_there(state):
    return max(abs(state[0]), abs(state[1]), abs(state[2]), abs(state[3])) <= {NEAR}
"""

# For lare: of what one agent sees, perhaps worth something in a step. What, the returns will tell.
FACTORS = f"""
import numpy as np

def largest(seen, first):
    return np.max(np.abs(seen[:, first:first + 2]), axis=1, keepdims=True)

def evaluation_func(observation, action, next_observation):
    own, other = largest(next_observation, 2), largest(next_observation, 4)
    closeness = -own
    progress = largest(observation, 2) - own
    there = (own <= {NEAR}).astype(float)
    both_there = there * (other <= {NEAR})
    rest = -there * largest(next_observation, 0)
    effort = -(action[:, 0:1] < 0.5).astype(float)
    return [closeness, progress, there, both_there, rest, effort]
"""


class LateLandmarks(BaseParallelWrapper):
    """simple_spread of MPE, with a landmark of its own for each of two agents.

    Paid is the share of steps in which both stood on theirs: after the last step, to both.
    """

    def __init__(self, env):
        super().__init__(env)
        self.world = env.unwrapped.world

    def observation_space(self, agent):  # noqa: D102  PettingZoo's
        return spaces.Box(-np.inf, np.inf, (SEEN,))

    def state(self):
        """Return where the agents are, seen from their landmarks; float64 ``[4]``."""
        pairs = zip(self.world.agents, self.world.landmarks, strict=True)
        return np.concatenate([who.state.p_pos - mark.state.p_pos for who, mark in pairs])

    def reset(self, seed=None, options=None):  # noqa: D102  PettingZoo's
        _, infos = super().reset(seed=seed, options=options)
        self.steps = self.steps_there = 0
        return self._see(), infos

    def step(self, actions):  # noqa: D102  PettingZoo's
        who = list(self.agents)
        super().step(actions)
        self.steps += 1
        self.steps_there += bool(np.abs(self.state()).max() <= NEAR)
        over = self.steps == LIMIT
        paid = self.steps_there / LIMIT if over else 0.0
        info = {"success": paid > 0}
        ends, cuts = dict.fromkeys(who, over), dict.fromkeys(who, False)
        return self._see(), dict.fromkeys(who, paid), ends, cuts, dict.fromkeys(who, info)

    def _see(self):
        """Return an agent's velocity, both states, its own first, and where the other one is."""
        one, two = self.world.agents
        states, between = self.state(), two.state.p_pos - one.state.p_pos
        seen = (
            [one.state.p_vel, states, between],
            [two.state.p_vel, states[2:], states[:2], -between],
        )
        rows = [np.concatenate(parts).astype(np.float32) for parts in seen]
        return dict(zip(self.possible_agents, rows, strict=True))


def make(num_envs):
    """Return copies of the task in the interface of lemae."""
    copies = [simple_spread_v3.parallel_env(N=2, max_cycles=LIMIT) for _ in range(num_envs)]
    return wrap([LateLandmarks(env) for env in copies], episode_limit=LIMIT, task_spec=SPEC)


def evaluate(learner, copies):
    """Return the mean return of an episode in each copy, with the same starts for all."""
    played = Collector(make(copies)).collect(learner, seed=10_000)
    return float(played.rewards.sum(0).mean())
