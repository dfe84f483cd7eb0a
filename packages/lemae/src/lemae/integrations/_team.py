"""What the adapters of other people's environments have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike, NDArray

from lemae._copies import checked_actions, to_reset
from lemae.errors import ConfigError, StateError, TaskError
from lemae.task import TaskSpec

Array = NDArray[Any]


class Outcome(NamedTuple):
    """What a step led to, in all copies; the rows of copies that are over mean nothing.

    Attributes:
        reward: ``[N]``.
        terminated: bool ``[N]``: the task ended the episode.
        success: bool ``[N]``: the goal is reached, as the environment or its user says it, which
            counts whenever that is; a positive reward says so only in a terminating step.
        truncated: bool ``[N]``: the environment cut the episode before ``episode_limit``.
        aborted: bool ``[N]``: it broke off for a reason that is not the task's.
        info: further arrays for the caller.
    """

    reward: Array
    terminated: Array
    success: Array
    truncated: Array | bool = False
    aborted: Array | bool = False
    info: Mapping[str, Array] = MappingProxyType({})


class TeamVectorEnv(VectorEnv[Array, Array, Array], ABC):
    """N copies of a task for a team, stepped together; the interface of :func:`lemae.envs.make`.

    After ``episode_limit`` steps that did not end it, an episode is truncated, never both. A copy
    whose episode has ended stays as it is, with reward 0 and the same flags, until it is reset;
    nothing is reset by itself. Arrays that are returned are new and may be kept.

    Args:
        num_envs: N, the number of copies.
        n_agents: n.
        n_actions: A, of each agent.
        d: length of the state.
        n_observed: o, length of an agent's observation.
        episode_limit: steps.
        task_spec: what anyone is told about the task, None where nobody has said.

    Raises:
        ConfigError: if a number is too small.
        TaskError: if ``task_spec`` is of another task.
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012  as there

    def __init__(
        self,
        num_envs: int,
        n_agents: int,
        n_actions: int,
        d: int,
        n_observed: int,
        episode_limit: int,
        task_spec: TaskSpec | None,
    ) -> None:
        for name, value in (("num_envs", num_envs), ("episode_limit", episode_limit)):
            if value < 1:
                raise ConfigError(f"{name} is {value}: give at least 1")
        self.num_envs = num_envs
        self.n_agents = n_agents
        self.n_actions = n_actions
        self.d = d
        self.episode_limit = episode_limit
        self.task_spec = task_spec
        self.single_observation_space = spaces.Box(-np.inf, np.inf, (d,))
        if task_spec is not None:
            self._check_task(task_spec)
            lows, highs = task_spec.lows.astype(np.float32), task_spec.highs.astype(np.float32)
            self.single_observation_space = spaces.Box(lows, highs)
        self.single_action_space = spaces.MultiDiscrete([n_actions] * n_agents)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._states = np.zeros((num_envs, d), np.float32)
        self._observations = np.zeros((num_envs, n_agents, n_observed), np.float32)
        self._available = np.ones((num_envs, n_agents, n_actions), bool)
        self._elapsed = np.zeros(num_envs, np.int64)
        self._terminated, self._truncated, self._success = np.zeros((3, num_envs), bool)
        self._started = False

    # --- episodes --------------------------------------------------------------------------------

    def reset(
        self,
        seed: int | None = None,
        envs: ArrayLike | None = None,
        *,
        options: dict[str, Any] | None = None,
    ) -> tuple[Array, dict[str, Any]]:
        """Start episodes.

        Args:
            seed: restarts the random numbers of all copies; None goes on with them.
            envs: the copies to reset, as numbers or as a bool mask ``[N]``; None is all.
            options: ``{"reset_mask": mask}``, gymnasium's way to say the same as ``envs``.

        Returns:
            The state of all copies, float32 ``[N, d]``, and an info with ``"success"``, bool
            ``[N]``: whether a copy stands at the end of an episode that reached the goal.

        Raises:
            ConfigError: for a bad seed, copies that do not exist, unknown options, or a first reset
                that leaves copies out.
        """
        if seed is not None and not (isinstance(seed, int | np.integer) and seed >= 0):
            raise ConfigError(f"seed is {seed!r}: give a whole number, not negative, or None")
        copies = to_reset(envs, self.num_envs, started=self._started, options=options)
        self._begin(copies, None if seed is None else int(seed))
        for array in (self._elapsed, self._terminated, self._truncated, self._success):
            array[copies] = 0
        self._started = True
        return self._states.copy(), {"success": self._success.copy()}

    def step(self, actions: ArrayLike) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Act in all copies whose episode goes on.

        Args:
            actions: whole numbers ``[N, n]``, from 0 to A - 1. Those of copies whose episode has
                ended do nothing.

        Returns:
            State, float32 ``[N, d]``; reward, float64 ``[N]``; terminated, bool ``[N]``; truncated,
            bool ``[N]``: out of steps, or broken off; and an info with bool ``[N]`` arrays
            ``"success"``, ``"active"`` (the episode went on before this step, so the step counts)
            and ``"aborted"`` (it broke off in this step, and should be dropped).

        Raises:
            ShapeError: for actions of another shape.
            ConfigError: for actions that do not exist, and before the first reset.
        """
        self._check_started()
        active = ~(self._terminated | self._truncated)
        shape = (self.num_envs, self.n_agents)
        outcome = self._advance(checked_actions(actions, shape, self.n_actions), active)
        self._elapsed += active
        aborted = active & outcome.aborted
        self._terminated |= active & outcome.terminated & ~aborted
        self._success |= active & outcome.success & ~aborted
        out_of_steps = self._elapsed >= self.episode_limit
        self._truncated |= active & ~self._terminated & (outcome.truncated | out_of_steps)
        self._truncated |= aborted
        info = {
            "success": self._success.copy(),
            "active": active,
            "aborted": aborted,
            **outcome.info,
        }
        reward = np.where(active & ~aborted, outcome.reward, 0.0).astype(np.float64)
        return self._states.copy(), reward, self._terminated.copy(), self._truncated.copy(), info

    def state(self) -> Array:
        """The present state of all copies, float32 ``[N, d]``.

        Raises:
            ConfigError: before the first reset.
        """
        self._check_started()
        return self._states.copy()

    def observations(self, state: ArrayLike | None = None) -> Array:
        """What each agent sees now.

        Args:
            state: the present state ``[N, d]``, which callers that pass it can have checked: an
                observation holds more than the state and exists only now.

        Returns:
            float32 ``[N, n, o]``.

        Raises:
            StateError: if ``state`` is not the present one.
        """
        self._check_started()
        if state is not None and not np.array_equal(np.asarray(state), self._states):
            raise StateError(
                "observations were asked for another state than the present one: this environment "
                "observes only the state that reset or step last returned"
            )
        return self._observations.copy()

    def available(self) -> Array:
        """Which actions each agent can take now, bool ``[N, n, A]``."""
        self._check_started()
        return self._available.copy()

    # --- the task --------------------------------------------------------------------------------

    @abstractmethod
    def _begin(self, copies: Array, seed: int | None) -> None:
        """Start episodes, and write rows of ``_states``, ``_observations``, ``_available``."""

    @abstractmethod
    def _advance(self, actions: Array, active: Array) -> Outcome:
        """Act in the active copies, and write their rows; those of the others must not change."""

    # --- checks ----------------------------------------------------------------------------------

    def _check_task(self, task_spec: TaskSpec) -> None:
        """Refuse the description of another task.

        Raises:
            TaskError: if its sizes are not those of this one.
        """
        mine = (self.d, self.n_agents, self.n_actions)
        told = (task_spec.d, task_spec.n_agents, task_spec.n_actions)
        if told != mine:
            raise TaskError(
                f"task_spec is of {told[0]} state entries, {told[1]} agents and {told[2]} actions, "
                f"the environment of {mine[0]}, {mine[1]} and {mine[2]}: describe what it has"
            )

    def _check_available(self, actions: Array, active: Array) -> None:
        """Refuse actions that are not available, for tasks that must not be given such.

        Raises:
            ConfigError: naming the first one.
        """
        may = np.take_along_axis(self._available, actions[..., None], 2)[..., 0]
        if not may[active].all():
            copy, agent = np.argwhere(~may & active[:, None])[0]
            raise ConfigError(
                f"agent {agent} of copy {copy} cannot take action {actions[copy, agent]} now: "
                "choose among available()"
            )

    def _check_started(self) -> None:
        if not self._started:
            raise ConfigError("no episode has been started: call reset() first")
