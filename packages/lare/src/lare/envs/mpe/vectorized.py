"""Many copies of a particle task at once, in NumPy, with the physics of ``mpe2``.

Needs neither mpe2 nor PettingZoo. Pairs of entities too far apart to push each other are skipped:
their force would be below 1e-17, which is less than float64 resolves beside an action's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lare.envs.mpe import checks
from lare.envs.mpe.evader import escape_direction
from lare.envs.mpe.tasks import ACTION_DIRECTIONS, ACTION_MEANINGS, MPETask, Team, View, get_task

Array = NDArray[Any]

TIME_STEP = 0.1  # seconds
DAMPING = 0.25  # share of the velocity lost per step
CONTACT_FORCE = 100.0
CONTACT_MARGIN = 1e-3  # softness of a contact: the force fades over this length
_REACH = 40 * CONTACT_MARGIN  # exp(-40) of the full force is left there


class VectorizedMPE:
    """E copies of one task, stepped together.

    All copies start and end together: after ``task.horizon`` steps every one is truncated (none
    ever terminates) and :meth:`reset` must be called. There is no automatic reset, so that every
    step is real and every observation returned by a step belongs to the episode just played.

    Positions, velocities and rewards are float64, observations float32; arrays that are returned
    are new and may be kept. Cost: time and memory grow with E times the number of pairs of an agent
    and an entity.

    Args:
        task: An id (see :func:`~lare.envs.mpe.tasks.task_ids`) or a task.
        n_envs: E, the number of copies.
        seed: Of the start positions. The same seed gives the same episodes; None is random.
        reward: ``"dense"``: each agent's own reward at every step. ``"episodic"``: 0, and at the
            last step the return of the agent's team, for every agent of the team.

    Attributes:
        n_agents: N, the number of learning agents.
        observation_size: D. ``layout(task)`` names the entries.
        n_actions: 5.
        action_meanings: The actions in words.
        roles: Indices into the agent axis, by role.
        horizon: Steps per episode.

    Raises:
        ConfigError: for an unknown task or reward, or an ``n_envs`` below 1.

    Example:
        >>> env = VectorizedMPE("cooperative-navigation-6", n_envs=2, seed=0)
        >>> observations = env.reset()
        >>> observations, rewards, terminated, truncated, info = env.step(np.zeros((2, 6), int))
        >>> observations.shape, rewards.shape, truncated.tolist()
        ((2, 6, 26), (2, 6), [False, False])
    """

    def __init__(
        self,
        task: str | MPETask,
        n_envs: int,
        *,
        seed: int | None = None,
        reward: str = "dense",
    ) -> None:
        self.task = task = get_task(task)
        self.n_envs = checks.count("n_envs", n_envs)
        self.episodic = checks.is_episodic(reward)
        self.n_agents = task.n_agents
        self.observation_size = task.observation_size()
        self.n_actions = len(ACTION_MEANINGS)
        self.action_meanings = ACTION_MEANINGS
        self.roles = task.roles
        self.horizon = task.horizon
        self._rng = np.random.default_rng(seed)
        self._step: int | None = None
        sizes, movers = np.array(task.sizes), task.n_movers
        self._contact = sizes[:movers, None] + sizes
        self._reach = np.where(checks.solid_pairs(task), self._contact + _REACH, -1.0)
        per_agent = [team for team in task.teams for _ in range(team.count)]
        self._acceleration = np.array([team.acceleration for team in per_agent])
        limits = [np.inf if team.max_speed is None else team.max_speed for team in per_agent]
        self._max_speed = np.array(limits)

    def reset(self, seed: int | None = None) -> Array:
        """Start an episode in every copy.

        Args:
            seed: Restarts the random numbers; None goes on with them.

        Returns:
            Observations, float32 of shape (E, N, D).
        """
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        radius, shape = self.task.radius, (self.n_envs, self.task.n_entities, 2)
        self._place(self._rng.uniform(-radius, radius, shape))
        self._velocity = np.zeros((2, self.n_envs, self.task.n_movers))
        self._returns = np.zeros((self.n_envs, len(self.roles)))
        self._step = 0
        return self.observe()

    def step(self, actions: ArrayLike) -> tuple[Array, Array, Array, Array, dict[str, Array]]:
        """Move everything by one step.

        Args:
            actions: Whole numbers 0 to 4 of shape (E, N).

        Returns:
            Observations, float32 (E, N, D); rewards, float64 (E, N); terminated, bool (E,), all
            False; truncated, bool (E,), all True at the last step; and a dict with the dense
            rewards, float64 (E, N), as ``"lare/true_reward"``.

        Raises:
            ConfigError: for actions of another shape, kind or range, and after the end of an
                episode or before the first reset.
        """
        step = checks.running(self._step, self.horizon) + 1
        chosen = checks.actions(actions, (self.n_envs, self.n_agents))
        self._move(self._control(chosen))
        self._step = step
        true_rewards = self._rewards()
        last = step == self.horizon
        self._add_to_returns(true_rewards)
        rewards = self._episodic_rewards(last) if self.episodic else true_rewards.copy()
        truncated = np.full(self.n_envs, last)
        terminated = np.zeros(self.n_envs, bool)
        return self.observe(), rewards, terminated, truncated, {"lare/true_reward": true_rewards}

    def observe(self) -> Array:
        """Observations of the present state.

        Returns:
            float32 of shape (E, N, D).

        Raises:
            ConfigError: before the first reset.
        """
        checks.started(self._step)
        out = np.empty((self.n_envs, self.n_agents, self.observation_size), np.float32)
        for team in self.task.learners:
            self._observe_team(team, out)
        if self.task.agent_id:
            out[:, :, -self.n_agents :] = np.eye(self.n_agents, dtype=np.float32)
        return out

    def get_state(self) -> dict[str, Any]:
        """Everything needed to go on from here, with the same bits.

        Returns:
            ``positions`` of all entities, float64 (E, entities, 2), agents first;
            ``velocities`` of the agents, float64 (E, agents, 2); ``returns`` so far, float64
            (E, roles); ``step``, int; ``rng``, the generator's state as nested dicts of numbers.

        Raises:
            ConfigError: before the first reset.
        """
        step = checks.started(self._step)
        return {
            "positions": np.moveaxis(self._position, 0, -1).copy(),
            "velocities": np.moveaxis(self._velocity, 0, -1).copy(),
            "returns": self._returns.copy(),
            "step": step,
            "rng": self._rng.bit_generator.state,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Go back to a state, or to one made by hand.

        Args:
            state: As from :meth:`get_state`. ``returns`` (default 0), ``step`` (default 0) and
                ``rng`` (default: unchanged) may be left out.

        Raises:
            ConfigError: for missing or unknown keys, other shapes, numbers that are not finite, or
                solid entities in exactly the same place, which would push in no direction.
        """
        state = checks.state(self.task, state, (self.n_envs,))
        self._place(state["positions"])
        self._velocity = np.moveaxis(state["velocities"], -1, 0).copy()
        self._returns = state["returns"].copy()
        self._step = state["step"]
        if "rng" in state:
            self._rng.bit_generator.state = state["rng"]

    # --- inside: coordinates come first, (2, E, ...), so that the long axes are contiguous -------

    def _place(self, positions: Array) -> None:
        self._position = np.moveaxis(positions, -1, 0).copy()
        self._measure()

    def _measure(self) -> None:
        """Relative positions (2, E, agents, entities) and distances, used until the next move."""
        movers = self._position[:, :, : self.task.n_movers]
        self._relative = self._position[:, :, None, :] - movers[..., None]
        x, y = self._relative
        self._distance = np.sqrt(x * x + y * y)

    def _control(self, actions: Array) -> Array:
        """Accelerations by which the agents act, (2, E, agents)."""
        control = np.empty_like(self._velocity)
        control[:, :, : self.n_agents] = np.moveaxis(ACTION_DIRECTIONS[actions], -1, 0)
        for team in self.task.teams:
            if team.flees is not None:
                fleeing, feared = self.task.group(team.name), self.task.group(team.flees)
                places = np.moveaxis(self._position, 0, -1)
                heading = escape_direction(places[:, fleeing], places[:, feared], self.task.radius)
                control[:, :, fleeing] = np.moveaxis(heading, -1, 0)
        control *= self._acceleration
        return control

    def _move(self, control: Array) -> None:
        """One step of mpe2's physics; every agent has mass 1."""
        force = control + self._contact_forces()
        self._position[:, :, : self.task.n_movers] += self._velocity * TIME_STEP
        velocity = self._velocity * (1 - DAMPING) + force * TIME_STEP
        speed = np.sqrt(velocity[0] * velocity[0] + velocity[1] * velocity[1])
        self._velocity = velocity * np.where(
            speed > self._max_speed, self._max_speed / np.where(speed > 0, speed, 1.0), 1.0
        )
        self._measure()

    def _contact_forces(self) -> Array:
        """Sum of the pushes on every agent, (2, E, agents)."""
        near = np.flatnonzero(self._distance < self._reach)
        agents, entities = self._contact.shape
        pair, agent = near % (agents * entities), near // entities
        distance = self._distance.reshape(-1)[near]
        depth = self._contact.reshape(-1)[pair] - distance
        penetration = np.logaddexp(0.0, depth / CONTACT_MARGIN) * CONTACT_MARGIN
        push = -CONTACT_FORCE * penetration / distance * self._relative.reshape(2, -1)[:, near]
        count = self.n_envs * agents
        sums = [np.bincount(agent, axis, minlength=count) for axis in push]
        return np.stack(sums).reshape(2, self.n_envs, agents)

    def _rewards(self) -> Array:
        """Each agent's own reward, or its team's where that is shared, (E, N)."""
        out = np.empty((self.n_envs, self.n_agents))
        for team in self.task.learners:
            rows, pay = self.task.group(team.name), team.reward
            earned = np.full((self.n_envs, team.count), pay.constant)
            if pay.nearest is not None:
                distances = self._distance[:, rows, self.task.group(pay.nearest)]
                earned += pay.distance * distances.min(-1)
            if pay.touching is not None:
                group = self.task.group(pay.touching)
                touched = self._distance[:, rows, group] < self._contact[rows, group]
                earned += pay.contact * touched.sum(-1)
            if pay.area:
                earned += pay.area * self._area()[:, None]
            if self.task.shared_reward:
                earned[:] = earned.sum(-1, keepdims=True)
            out[:, rows] = earned
        return out

    def _area(self) -> Array:
        """Area of the triangle of the first three agents, (E,)."""
        (x1, x2), (y1, y2) = self._relative[0, :, 0, 1:3].T, self._relative[1, :, 0, 1:3].T
        return np.asarray(np.abs(x1 * y2 - x2 * y1) / 2)

    def _add_to_returns(self, rewards: Array) -> None:
        for column, members in enumerate(self.roles.values()):
            earned = rewards[:, members]
            self._returns[:, column] += earned[:, 0] if self.task.shared_reward else earned.sum(-1)

    def _episodic_rewards(self, last: bool) -> Array:
        out = np.zeros((self.n_envs, self.n_agents))
        for column, members in enumerate(self.roles.values()) if last else ():
            out[:, members] = self._returns[:, column, None]
        return out

    def _observe_team(self, team: Team, out: Array) -> None:
        rows = self.task.group(team.name)
        out[:, rows, 0:2] = np.moveaxis(self._velocity[:, :, rows], 0, -1)
        out[:, rows, 2:4] = np.moveaxis(self._position[:, :, rows], 0, -1)
        orders = [self._order(rows, view) for view in team.views]
        column = 4
        for view, order in zip(team.views, orders, strict=True):
            seen = self._relative[:, :, rows, self.task.group(view.group)]
            column = _write(out, rows, column, np.take_along_axis(seen, order[None], -1))
        for view, order in zip(team.views, orders, strict=True):
            if view.velocities:
                speeds = self._velocity[:, :, None, self.task.group(view.group)]
                column = _write(out, rows, column, np.take_along_axis(speeds, order[None], -1))

    def _order(self, rows: slice, view: View) -> Array:
        """Which members of the view's group are seen, (E, agents, seen), itself left out."""
        group = self.task.group(view.group)
        own = np.eye(rows.stop - rows.start, dtype=bool) if rows == group else None
        if view.order == "nearest":
            key = self._distance[:, rows, group]
            key = key if own is None else np.where(own, np.inf, key)
            return np.argsort(key, axis=-1, kind="stable")[..., : view.count]
        x, y = self._position[:, :, None, group]
        rank = np.arange(group.stop - group.start)[None, None]
        if view.order == "xy":
            rank = np.lexsort((y, x), axis=-1).argsort(-1)
        rank = rank + np.zeros((self.n_envs, rows.stop - rows.start, 1), int)
        rank = rank if own is None else np.where(own, rank.shape[-1], rank)
        return rank.argsort(-1, kind="stable")[..., : view.count]


def _write(out: Array, rows: slice, column: int, pairs: Array) -> int:
    """Write (2, E, agents, seen) as x, y, x, y, ... and return the next free column."""
    end = column + 2 * int(pairs.shape[-1])
    out[:, rows, column:end:2], out[:, rows, column + 1 : end : 2] = pairs
    return end
