"""What all grid tasks share: many copies at once, in NumPy.

A position is kept as one number, the cell's index on a grid with a ring of wall around it, so that
a move is one addition and needs no test for the border.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike, NDArray

from lemae._copies import checked_actions, to_reset
from lemae._values import array, random_state, reading, whole
from lemae.envs.drawing import render
from lemae.envs.maps import GridMap
from lemae.errors import ConfigError, ShapeError, StateError
from lemae.task import TaskSpec

Array = NDArray[Any]

_ACTIONS = "0 up, 1 down, 2 left or 3 right"
METADATA = {"render_modes": ["rgb_array"], "render_fps": 10}


@dataclass(frozen=True)
class Blueprint:
    """Everything that makes one task.

    Attributes:
        task: what anyone is told about it.
        grid: its map, secrets included.
        options: of :func:`~lemae.envs.make`, all of them, as they are in force.
    """

    task: TaskSpec
    grid: GridMap
    options: Mapping[str, Any]


class GridVectorEnv(VectorEnv[Array, Array, Array], ABC):
    """N copies of one grid task, stepped together; made by :func:`~lemae.envs.make`.

    The reward is 1 on the step that reaches the goal, which terminates the episode, and 0 on all
    others. After ``episode_limit`` steps without success an episode is truncated, never both. A
    copy whose episode has ended stays as it is, with reward 0 and the same flags, until it is
    reset; with ``autoreset`` the step that ends an episode resets the copy as well.

    Every agent observes the whole state. Arrays that are returned are new and may be kept. Cost of
    a step: a few array operations on N times ``n_agents`` numbers, no loop over the copies.

    Args:
        blueprint: of the task.
        num_envs: N, the number of copies.
        autoreset: start the next episode of a copy in the step that ends one. That step returns the
            first state of the next episode; the last one of the episode that ended is in
            ``info["final_obs"]``, in the rows named by ``info["_final_obs"]``. All else that the
            step returns is about the episode that ended.
        seed: of the random starts, where a task has such; None is random.
        render_mode: None, or ``"rgb_array"`` for :meth:`render`.

    Attributes:
        name: of the task.
        options: of the task, as they are in force.
        task_spec: what anyone is told about the task.
        grid_map: the map, secrets included.
        n_agents: n, the number of agents.
        n_actions: 4: up, down, left, right.
        d: length of the state.
        n_values: how many values each index of the state takes (0, 1, ...), for one-hot input.
        episode_limit: steps.
        autoreset: as given.

    Raises:
        ConfigError: for an argument that does not fit.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012  gymnasium declares no ClassVar
        **METADATA,
        "autoreset_mode": AutoresetMode.DISABLED,
    }

    def __init__(
        self,
        blueprint: Blueprint,
        num_envs: int = 1,
        *,
        autoreset: bool = False,
        seed: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        self.task_spec = task = blueprint.task
        self.grid_map = grid = blueprint.grid
        self.options = dict(blueprint.options)
        self.num_envs = whole("num_envs", num_envs)
        self.autoreset = bool(autoreset)
        self.render_mode = checked_render_mode(render_mode)
        if autoreset:
            self.metadata = {**self.metadata, "autoreset_mode": AutoresetMode.SAME_STEP}
        self.name, self.d, self.n_actions = task.name, task.d, task.n_actions
        self.n_agents, self.episode_limit = task.n_agents, task.episode_limit
        self.n_values = tuple(int(high) + 1 for high in task.highs)
        lows, highs = task.lows.astype(np.float32), task.highs.astype(np.float32)
        self.single_observation_space = spaces.Box(lows, highs)
        self.single_action_space = spaces.MultiDiscrete([self.n_actions] * self.n_agents)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._seed(seed)

        self._width = grid.size + 2
        self._area = self._width**2
        self._steps_of = np.array([-self._width, self._width, -1, 1])  # up, down, left, right
        self._walls, self._goal = self._padded(grid.walls, True), self._padded(grid.goal, False)
        rows, columns = np.divmod(np.arange(self._area), self._width)
        self._xy = np.stack([columns - 1, rows - 1], axis=1).astype(np.float32)

        self._started = False
        self._start_mode = 0
        self._cells = np.zeros((self.n_agents, self.num_envs), np.int64)  # agents first: long rows
        self._mode = np.zeros(self.num_envs, np.int64)  # the rest of the state, as a number
        self._elapsed = np.zeros(self.num_envs, np.int64)
        self._ended = np.zeros(self.num_envs, bool)

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
        copies = to_reset(envs, self.num_envs, started=self._started, options=options)
        self._seed(seed)
        self._begin(copies, self._start_cells(len(copies)), self._start_mode)
        return self._state(), {"success": self._succeeded()}

    def reset_to(
        self, states: ArrayLike, envs: ArrayLike | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Start episodes in given states, which then have all their steps before them.

        Args:
            states: ``[k, d]`` for k copies, or ``[d]`` for the same state in all of them.
            envs: the copies, as in :meth:`reset`.

        Returns:
            As :meth:`reset`.

        Raises:
            ShapeError: for states of another shape.
            ConfigError: for states that cannot be, or in which the task is done already.
        """
        copies = to_reset(envs, self.num_envs, started=self._started)
        cells, mode = self._decode(states, len(copies))
        if self._done(cells, mode).any():
            raise ConfigError("states hold one in which the task is done: episodes start before")
        self._begin(copies, cells, mode)
        return self._state(), {"success": self._succeeded()}

    def step(self, actions: ArrayLike) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Move all agents of all copies whose episode goes on.

        Args:
            actions: whole numbers ``[N, n]``: 0 up, 1 down, 2 left, 3 right. Those of copies whose
                episode has ended do nothing.

        Returns:
            State, float32 ``[N, d]``; reward, float64 ``[N]``; terminated, bool ``[N]``: success;
            truncated, bool ``[N]``: out of steps; and an info with bool ``[N]`` arrays
            ``"success"`` (the same as terminated) and ``"active"`` (the episode went on before this
            step, so the step counts), with ``autoreset`` also ``"final_obs"`` and ``"_final_obs"``
            whenever an episode ends.

        Raises:
            ShapeError: for actions of another shape.
            ConfigError: for actions that do not exist, and before the first reset.
        """
        if not self._started:
            raise ConfigError("no episode has been started: call reset() first")
        active = ~self._ended
        shape = (self.num_envs, self.n_agents)
        chosen = checked_actions(actions, shape, self.n_actions, _ACTIONS)
        self._move(self._steps_of.take(chosen.T) * active)
        self._elapsed += active
        success = self._succeeded()
        truncated = (self._elapsed >= self.episode_limit) & ~success
        self._ended = success | truncated
        state, info = self._state(), {"success": success.copy(), "active": active}
        if self.autoreset and self._ended.any():
            info |= {"final_obs": state, "_final_obs": self._ended.copy()}
            copies = np.flatnonzero(self._ended)
            self._begin(copies, self._start_cells(len(copies)), self._start_mode)
            state = self._state()
        return state, (success & active).astype(np.float64), success, truncated, info

    def render(self) -> tuple[Array, ...] | None:
        """Pictures of all copies.

        Returns:
            N arrays, uint8 ``[H, W, 3]``; None unless ``render_mode`` is ``"rgb_array"``.

        Raises:
            ConfigError: before the first reset.
        """
        if self.render_mode is None:
            return None
        return tuple(render(self.grid_map, state) for state in self.state())

    def state(self) -> Array:
        """The present state of all copies.

        Returns:
            float32 ``[N, d]``.

        Raises:
            ConfigError: before the first reset.
        """
        if not self._started:
            raise ConfigError("no episode has been started: call reset() first")
        return self._state()

    # --- saving ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on from here with the same bits, of JSON's types.

        Raises:
            ConfigError: before the first reset.
        """
        return {
            **self._identity(),
            "states": self.state().astype(int).tolist(),
            "elapsed": self._elapsed.tolist(),
            "rng": self.np_random.bit_generator.state,
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go back to what :meth:`state_dict` returned.

        Raises:
            StateError: if it belongs to another task, other options or another number of copies, or
                is not complete; nothing is changed then.
        """
        own, copies = self._identity(), self.num_envs
        with reading("this environment"):
            theirs = {key: saved.get(key) for key in own}
            if theirs != own:
                raise StateError(
                    f"the saved state is of {theirs}, this environment is {own}: make the one that "
                    "was saved"
                )
            states = array("states", saved["states"], (copies, self.d), np.int64)
            cells, mode = self._decode(states, copies)
            limit = self.episode_limit
            elapsed = array("elapsed", saved["elapsed"], (copies,), np.int64, 0, limit)
            rng = random_state(saved["rng"])
        self._begin(np.arange(copies), cells, mode)
        self._elapsed = elapsed
        self._ended = self._succeeded() | (self._elapsed >= limit)
        self.np_random.bit_generator.state = rng

    def _identity(self) -> dict[str, Any]:
        return {"name": self.name, "options": self.options, "num_envs": self.num_envs}

    # --- the rules of one task -------------------------------------------------------------------

    @abstractmethod
    def _move(self, steps: Array) -> None:
        """Apply one move: ``steps`` ``[n, N]`` is what every agent wants to add to its cell."""

    def _done(self, cells: Array, mode: Array) -> Array:
        """Where the goal is reached, bool ``[N]``."""
        return np.asarray(self._goal.take(cells).all(axis=0))

    def _start_cells(self, count: int) -> Array:
        """Where the agents of ``count`` copies start, broadcastable to ``[n, count]``."""
        return self._cell(np.array(self.grid_map.starts))[:, None]

    def _solid(self, cells: Array, mode: Array) -> Array:
        """Where no agent can be, bool ``[n, N]``."""
        return self._walls.take(cells)

    def _write_rest(self, rest: Array) -> None:
        """Write the state behind the positions of the agents, ``[N, n_rest]``."""

    def _read_rest(self, rest: Array) -> Array:
        """The mode that :meth:`_write_rest` would write so, ``[N]``."""
        return np.zeros(len(rest), np.int64)

    # --- inside ----------------------------------------------------------------------------------

    def _padded(self, grid: Array, ring: Any) -> Array:
        """A grid with a ring around it, flat, so that a cell's index finds it."""
        return np.pad(grid, 1, constant_values=ring).reshape(-1)

    def _cell(self, xy: Array) -> Array:
        """Index of cells given as ``[..., 2]``."""
        return np.asarray((xy[..., 1] + 1) * self._width + xy[..., 0] + 1)

    def _succeeded(self) -> Array:
        return self._done(self._cells, self._mode)

    def _begin(self, copies: Array, cells: Array, mode: Array | int) -> None:
        self._cells[:, copies] = cells
        self._mode[copies] = mode
        self._elapsed[copies] = 0
        self._ended[copies] = False
        self._started = True

    def _state(self) -> Array:
        state = np.empty((self.num_envs, self.d), np.float32)
        positions = self._xy.take(self._cells.T, axis=0)
        state[:, : 2 * self.n_agents] = positions.reshape(self.num_envs, -1)
        self._write_rest(state[:, 2 * self.n_agents :])
        return state

    def _decode(self, states: ArrayLike, count: int) -> tuple[Array, Array]:
        """Cells and mode of states, which are checked."""
        given = np.asarray(states)
        if given.shape not in ((self.d,), (count, self.d)):
            raise ShapeError(
                f"states have shape {given.shape}: give {(count, self.d)}, or {(self.d,)} for the "
                "same state in all copies"
            )
        given = np.broadcast_to(given, (count, self.d))
        lows, highs = self.task_spec.lows, self.task_spec.highs
        bad = (given != np.floor(given)) | ~((given >= lows) & (given <= highs))
        if bad.any():
            row, index = np.argwhere(bad)[0]
            entry = self.task_spec.state[index]
            raise ConfigError(
                f"state {row} has {given[row, index]} as {entry.name!r}: give a whole number from "
                f"{entry.low:g} to {entry.high:g}"
            )
        whole_numbers = given.astype(np.int64)
        split = 2 * self.n_agents
        cells = self._cell(whole_numbers[:, :split].reshape(count, -1, 2)).T
        mode = self._read_rest(whole_numbers[:, split:])
        if (solid := self._solid(cells, mode)).any():
            agent, row = np.argwhere(solid)[0]
            x, y = self._xy[cells[agent, row]].astype(int).tolist()
            raise ConfigError(
                f"state {row} has agent {agent} at ({x}, {y}), where no agent can be: give a free "
                "cell"
            )
        return cells, mode

    def _seed(self, seed: int | None) -> None:
        if seed is not None:
            seed = whole("seed", seed, lowest=0)
            self._np_random, self._np_random_seed = seeding.np_random(seed)


def checked_render_mode(render_mode: str | None) -> str | None:
    """``render_mode`` if there is such a one.

    Raises:
        ConfigError: if there is not.
    """
    if render_mode not in (None, *METADATA["render_modes"]):  # type: ignore[misc]
        raise ConfigError(f'render_mode is {render_mode!r}: give None or "rgb_array"')
    return render_mode
