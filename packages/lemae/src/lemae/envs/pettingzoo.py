"""One copy of a grid task as a PettingZoo parallel environment.

The one module here that needs PettingZoo: it is imported when :class:`ParallelGrid` is first used.
"""

from __future__ import annotations

from typing import Any, ClassVar

from gymnasium import spaces
from numpy.typing import NDArray

from lemae.envs.drawing import render
from lemae.envs.grid import METADATA
from lemae.envs.registry import make
from lemae.errors import ConfigError, MissingExtraError

try:
    from pettingzoo import ParallelEnv
except ImportError as error:
    raise MissingExtraError(
        'ParallelGrid needs pettingzoo: pip install "lemae[pettingzoo]"; lemae.envs.make has the '
        "same tasks without it"
    ) from error

Array = NDArray[Any]
Results = tuple[
    dict[str, Array],
    dict[str, float],
    dict[str, bool],
    dict[str, bool],
    dict[str, dict[str, Any]],
]


class ParallelGrid(ParallelEnv[str, Array, int]):  # type: ignore[misc]  # the base has no types
    """One copy of a grid task, with an observation and a reward per agent.

    Every agent observes the whole state and earns the team's reward. For training, the copies of
    :func:`~lemae.envs.make` are one to two orders of magnitude faster.

    Args:
        name: one of :func:`~lemae.envs.names`.
        seed: of the random starts, where a task has such; None is random.
        render_mode: None or ``"rgb_array"``.
        **options: of the task, as for :func:`~lemae.envs.make`.

    Attributes:
        possible_agents: ``agent_0``, ``agent_1``.
        vector: the copy, as a vector of one; it has everything there is to know about the task.

    Raises:
        TaskError: for an unknown name.
        ConfigError: for an option that the task does not take, or a bad value.

    Example:
        >>> env = ParallelGrid("pass")
        >>> observations, infos = env.reset(seed=0)
        >>> observations["agent_1"].tolist()
        [4.0, 4.0, 3.0, 3.0, 0.0]
    """

    metadata: ClassVar[dict[str, Any]] = {**METADATA, "name": "lemae", "is_parallelizable": True}

    def __init__(
        self,
        name: str,
        *,
        seed: int | None = None,
        render_mode: str | None = None,
        **options: Any,
    ) -> None:
        self.vector = make(name, seed=seed, render_mode=render_mode, **options)
        self.grid_map = self.vector.grid_map
        self.render_mode = self.vector.render_mode
        self.metadata = {**self.metadata, "name": self.vector.name}  # type: ignore[misc]
        self.possible_agents = [f"agent_{agent}" for agent in range(self.vector.n_agents)]
        self.agents: list[str] = []
        self.state_space = self.vector.single_observation_space
        self.observation_spaces = dict.fromkeys(self.possible_agents, self.state_space)
        self.action_spaces = {
            agent: spaces.Discrete(self.vector.n_actions) for agent in self.possible_agents
        }

    def observation_space(self, agent: str) -> Any:
        """Space of an agent's observation, which is the state: float32 ``[d]``."""
        return self._of(self.observation_spaces, agent)

    def action_space(self, agent: str) -> Any:
        """Space of an agent's action: 0 up, 1 down, 2 left, 3 right."""
        return self._of(self.action_spaces, agent)

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Array], dict[str, dict[str, Any]]]:
        """Start an episode.

        Args:
            seed: restarts the random numbers; None goes on with them.
            options: not used.

        Returns:
            Observations and infos by agent.
        """
        self.agents = list(self.possible_agents)
        state, _ = self.vector.reset(seed)
        infos = {agent: {"success": False} for agent in self.agents}
        return {agent: state[0].copy() for agent in self.agents}, infos

    def step(self, actions: dict[str, int]) -> Results:
        """Move all agents.

        Args:
            actions: a whole number from 0 to 3 for every agent.

        Returns:
            By agent: observations, rewards, terminations, truncations, and infos with
            ``"success"``.

        Raises:
            ConfigError: for missing or unknown agents, actions that do not exist, and after the end
                of an episode or before the first reset.
        """
        if not self.agents:
            raise ConfigError("no episode goes on: call reset() first")
        if set(actions) != set(self.agents):
            raise ConfigError(
                f"actions are for {sorted(actions)}: give one for each of {self.agents}"
            )
        chosen = [[actions[agent] for agent in self.agents]]
        state, reward, terminated, truncated, _ = self.vector.step(chosen)
        done, over = bool(terminated[0]), bool(truncated[0])
        agents = self.agents
        if done or over:
            self.agents = []
        return (
            {agent: state[0].copy() for agent in agents},
            dict.fromkeys(agents, float(reward[0])),
            dict.fromkeys(agents, done),
            dict.fromkeys(agents, over),
            {agent: {"success": done} for agent in agents},
        )

    def state(self) -> Array:
        """The whole state, float32 ``[d]``.

        Raises:
            ConfigError: before the first reset.
        """
        state: Array = self.vector.state()[0]
        return state

    def render(self) -> Any:
        """Picture of the map and the agents, uint8 ``[H, W, 3]``; None without a render mode."""
        return None if self.render_mode is None else render(self.vector, self.state())

    def close(self) -> None:
        """Nothing to release."""

    @staticmethod
    def _of(by_agent: dict[str, Any], agent: str) -> Any:
        if agent not in by_agent:
            raise ConfigError(f"there is no agent {agent!r}: choose from {', '.join(by_agent)}")
        return by_agent[agent]
