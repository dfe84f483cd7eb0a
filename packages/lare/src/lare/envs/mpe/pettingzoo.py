"""The particle tasks as PettingZoo parallel environments on the physics of ``mpe2``.

The one module that needs PettingZoo: it is imported when :class:`ParallelMPE` is first used.
"""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from lare.envs.mpe import checks, mpe2
from lare.envs.mpe.render import draw
from lare.envs.mpe.tasks import ACTION_DIRECTIONS, ACTION_MEANINGS, MPETask, get_task
from lare.errors import ConfigError, MissingExtraError

try:
    from pettingzoo import ParallelEnv
except ImportError as error:
    raise MissingExtraError(
        'ParallelMPE needs pettingzoo: pip install "lare-rl[mpe]"; '
        "lare.envs.VectorizedMPE has the same tasks without it"
    ) from error

Array = NDArray[Any]
Space = TypeVar("Space")


class ParallelMPE(ParallelEnv[str, Array, int]):  # type: ignore[misc]  # the base has no types
    """One copy of a particle task, with an observation and a reward per agent.

    For training, :class:`~lare.envs.mpe.vectorized.VectorizedMPE` plays the same task 70 to 300
    times faster with 64 copies. Scripted agents are not among ``agents``.

    Args:
        task: An id (see :func:`~lare.envs.mpe.tasks.task_ids`) or a task.
        reward: ``"dense"``: each agent's own reward at every step. ``"episodic"``: 0, and at the
            last step the return of the agent's team, for every agent of the team.
        render_mode: None or ``"rgb_array"``.

    Attributes:
        possible_agents: Names such as ``"predator_0"``.
        action_meanings: The five actions in words.
        roles: Indices into ``possible_agents``, by role.
        horizon: Steps per episode, after which all agents are truncated.

    Raises:
        ConfigError: for an unknown task, reward or render mode.

    Example:
        >>> env = ParallelMPE("triangle-area-3")
        >>> observations, infos = env.reset(seed=0)
        >>> observations["agent_0"].shape, env.action_space("agent_0").n.item()
        ((14,), 5)
    """

    metadata: ClassVar[dict[str, Any]] = {
        "name": "lare_mpe",
        "render_modes": ["rgb_array"],
        "render_fps": 10,
        "is_parallelizable": True,
    }

    def __init__(
        self, task: str | MPETask, *, reward: str = "dense", render_mode: str | None = None
    ) -> None:
        self.task = task = get_task(task)
        self.episodic = checks.is_episodic(reward)
        if render_mode not in (None, "rgb_array"):
            raise ConfigError(f'render_mode is {render_mode!r}: give None or "rgb_array"')
        self.render_mode = render_mode
        self.possible_agents = list(task.agent_names[: task.n_agents])
        self.agents: list[str] = []
        self.action_meanings = ACTION_MEANINGS
        self.roles = task.roles
        self.horizon = task.horizon
        names, seen = self.possible_agents, (task.observation_size(),)
        self.observation_spaces = {name: spaces.Box(-np.inf, np.inf, seen) for name in names}
        self.action_spaces = {name: spaces.Discrete(len(ACTION_MEANINGS)) for name in names}
        self.state_space = spaces.Box(-np.inf, np.inf, (2 * (task.n_entities + task.n_movers),))
        self._world = mpe2.build_world(task)
        self._rng = np.random.default_rng()
        self._step: int | None = None

    def observation_space(self, agent: str) -> spaces.Box:
        """Space of an agent's observation: unbounded float32 of shape (D,)."""
        return self._space(self.observation_spaces, agent)

    def action_space(self, agent: str) -> spaces.Discrete:
        """Space of an agent's action: 0 to 4."""
        return self._space(self.action_spaces, agent)

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Array], dict[str, dict[str, Any]]]:
        """Start an episode.

        Args:
            seed: Restarts the random numbers; None goes on with them. The start is that of a
                ``VectorizedMPE`` with one copy and this seed.
            options: Not used.

        Returns:
            Observations and empty infos by agent.
        """
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        radius = self.task.radius
        self.set_state(
            {
                "positions": self._rng.uniform(-radius, radius, (self.task.n_entities, 2)),
                "velocities": np.zeros((self.task.n_movers, 2)),
            }
        )
        return self._observations(), {agent: {} for agent in self.agents}

    def step(
        self, actions: dict[str, int]
    ) -> tuple[
        dict[str, Array],
        dict[str, float],
        dict[str, bool],
        dict[str, bool],
        dict[str, dict[str, Any]],
    ]:
        """Move everything by one step.

        Args:
            actions: A whole number from 0 to 4 for every agent.

        Returns:
            By agent: observations, rewards, terminations (always False), truncations (True at the
            last step) and infos with the dense reward as ``"lare/true_reward"``.

        Raises:
            ConfigError: for missing or unknown agents, other actions, and after the end of an
                episode or before the first reset.
        """
        step = checks.running(self._step, self.horizon) + 1
        self._act(actions)
        self._world.step()
        self._step = step
        true_rewards = self._true_rewards()
        last = step == self.horizon
        names = self.agents
        rewards = self._episodic_rewards(last) if self.episodic else true_rewards
        results = (
            self._observations(),
            {name: float(r) for name, r in zip(names, rewards, strict=True)},
            dict.fromkeys(names, False),
            dict.fromkeys(names, last),
            {n: {"lare/true_reward": float(r)} for n, r in zip(names, true_rewards, strict=True)},
        )
        if last:
            self.agents = []
        return results

    def state(self) -> Array:
        """The whole world: all positions, agents first, then the velocities of all agents.

        Returns:
            float32 of shape (2 * (entities + agents),), scripted agents included.

        Raises:
            ConfigError: before the first reset.
        """
        state = self.get_state()
        parts = (state["positions"], state["velocities"])
        return np.concatenate([part.reshape(-1) for part in parts]).astype(np.float32)

    def get_state(self) -> dict[str, Any]:
        """Everything needed to go on from here, with the same bits.

        Returns:
            As from ``VectorizedMPE.get_state``, without the axis of the copies.

        Raises:
            ConfigError: before the first reset.
        """
        return {
            "step": checks.started(self._step),
            "positions": np.array([entity.state.p_pos for entity in self._world.entities]),
            "velocities": np.array([agent.state.p_vel for agent in self._world.agents]),
            "returns": self._returns.copy(),
            "rng": self._rng.bit_generator.state,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Go back to a state, or to one made by hand.

        Args:
            state: As for ``VectorizedMPE.set_state``, without the axis of the copies.

        Raises:
            ConfigError: as there.
        """
        state = checks.state(self.task, state, ())
        for entity, position in zip(self._world.entities, state["positions"], strict=True):
            entity.state.p_pos, entity.state.p_vel = position.copy(), np.zeros(2)
        for agent, velocity in zip(self._world.agents, state["velocities"], strict=True):
            agent.state.p_vel = velocity.copy()
        self._returns = state["returns"]
        self._step = state["step"]
        self.agents = list(self.possible_agents) if self._step < self.horizon else []
        if "rng" in state:
            self._rng.bit_generator.state = state["rng"]

    def render(self) -> NDArray[np.uint8] | None:
        """Picture of the world.

        Returns:
            uint8 of shape (400, 400, 3); None unless ``render_mode`` is ``"rgb_array"``.

        Raises:
            ConfigError: before the first reset.
        """
        if self.render_mode is None:
            return None
        return draw(self.task, self.get_state()["positions"])

    def close(self) -> None:
        """Nothing to release."""

    @staticmethod
    def _space(by_agent: dict[str, Space], agent: str) -> Space:
        if agent not in by_agent:
            raise ConfigError(f"there is no agent {agent!r}: choose from {', '.join(by_agent)}")
        return by_agent[agent]

    def _act(self, actions: dict[str, int]) -> None:
        if set(actions) != set(self.agents):
            missing = [name for name in self.agents if name not in actions]
            unknown = [name for name in actions if name not in self.agents]
            raise ConfigError(
                f"actions lack {missing} and name unknown {unknown}: give one for every agent"
            )
        ordered = [actions[name] for name in self.agents]
        chosen = checks.actions(ordered, (len(self.agents),))
        for index, action in enumerate(chosen):
            agent = self._world.agents[index]
            agent.action.u = ACTION_DIRECTIONS[action] * agent.accel

    def _true_rewards(self) -> Array:
        own = [mpe2.reward(self.task, self._world, i) for i in range(self.task.n_agents)]
        rewards = np.array(own)
        for column, members in enumerate(self.roles.values()):
            team_reward = rewards[members].sum()
            self._returns[column] += team_reward
            if self.task.shared_reward:
                rewards[members] = team_reward
        return rewards

    def _episodic_rewards(self, last: bool) -> Array:
        rewards = np.zeros(self.task.n_agents)
        for column, members in enumerate(self.roles.values()):
            rewards[members] = self._returns[column] if last else 0.0
        return rewards

    def _observations(self) -> dict[str, Array]:
        return {name: mpe2.observe(self.task, self._world, i) for i, name in enumerate(self.agents)}
