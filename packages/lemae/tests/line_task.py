"""A small task: agents on a line of cells, from its left end to its right end.

Actions are 0 left, 1 right, 2 stay. The team has succeeded when all stand at the right end.
"""

import numpy as np

from lemae.task import StateEntry, TaskSpec

KEY_STATES = '''
def is_first_halfway(state):
    """Agent 0 is past the middle."""
    return state[0] >= 3


def is_both_halfway(state):
    """Both agents are past the middle."""
    return state[0] >= 3 and state[1] >= 3
'''


class Line:
    """Copies of the task.

    Args:
        aborts: copies whose episode breaks off at their second step.
        observed: agents see their own cell only, as a number from 0 to 1.
        restricted: walking off an end is not available.
        terminates_at: a step after which an episode is over without success.
    """

    def __init__(
        self,
        num_envs,
        size=6,
        limit=12,
        n_agents=2,
        aborts=(),
        observed=False,
        restricted=False,
        terminates_at=None,
    ):
        self.num_envs, self.size, self.episode_limit = num_envs, size, limit
        self.n_agents, self.n_actions, self.d = n_agents, 3, n_agents
        self.n_values = (size,) * n_agents
        self.aborts, self.terminates_at = list(aborts), terminates_at
        entries = [StateEntry(f"agent {i} x", 0, size - 1) for i in range(n_agents)]
        self.task_spec = TaskSpec(
            "line", "Go right.", "", tuple(entries), n_agents, ("left", "right", "stay"), limit
        )
        self.resets = []
        if observed:
            self.observations = self._observations
        if restricted:
            self.available = self._available

    def reset(self, seed=None, envs=None):
        self.resets.append(seed)
        chosen = slice(None) if envs is None else envs
        if envs is None:
            self.x = np.zeros((self.num_envs, self.n_agents), np.int64)
            self.t = np.zeros(self.num_envs, np.int64)
            self.ended = np.zeros(self.num_envs, bool)
        self.x[chosen], self.t[chosen], self.ended[chosen] = 0, 0, False
        return self.x.astype(np.float32), {}

    def step(self, actions):
        going = ~self.ended
        moved = np.clip(self.x + np.array([-1, 1, 0])[actions], 0, self.size - 1)
        self.x[going] = moved[going]
        self.t += going
        success = (self.x == self.size - 1).all(1)
        terminated = success | (self.t == self.terminates_at)
        truncated = (self.t >= self.episode_limit) & ~terminated
        self.ended = terminated | truncated
        info = {}
        if self.aborts:
            info["aborted"] = np.isin(np.arange(self.num_envs), self.aborts) & (self.t == 2)
            truncated |= info["aborted"]
        reward = (success & going).astype(float)
        return self.x.astype(np.float32), reward, terminated, truncated, info

    def _observations(self, states):
        return (states / (self.size - 1)).astype(np.float32)[..., None]

    def _available(self):
        can = np.ones((self.num_envs, self.n_agents, 3), bool)
        can[..., 0] = self.x > 0
        can[..., 1] = self.x < self.size - 1
        return can


def make(num_envs, **options):
    return Line(num_envs, **options)
