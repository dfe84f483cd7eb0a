"""One copy of a grid task, for what takes no vectors of environments."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import ArrayLike, NDArray

from lemae.envs.drawing import render
from lemae.envs.grid import METADATA
from lemae.envs.registry import make

Array = NDArray[Any]


class GridEnv(gymnasium.Env[Array, Array]):
    """One copy of a grid task: what ``gymnasium.make("lemae/Pass-v0")`` gives.

    Training is one to two orders of magnitude faster on the copies of :func:`~lemae.envs.make`. One
    agent's action is the only entry of an action of length 1.

    Args:
        name: one of :func:`~lemae.envs.names`.
        render_mode: None or ``"rgb_array"``.
        **options: of the task, as for :func:`~lemae.envs.make`.

    Attributes:
        vector: the copy, as a vector of one; it has everything there is to know about the task.

    Raises:
        TaskError: for an unknown name.
        ConfigError: for an option that the task does not take, or a bad value.
    """

    metadata: dict[str, Any] = METADATA

    def __init__(self, name: str, *, render_mode: str | None = None, **options: Any) -> None:
        self.vector = make(name, render_mode=render_mode, **options)
        self.grid_map = self.vector.grid_map
        self.render_mode = self.vector.render_mode
        self.observation_space = self.vector.single_observation_space
        self.action_space = self.vector.single_action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Start an episode.

        Args:
            seed: restarts the random numbers; None goes on with them.
            options: not used.

        Returns:
            State, float32 ``[d]``, and an info with ``"success"``, False.
        """
        super().reset(seed=seed)
        state, _ = self.vector.reset(seed)
        return state[0], {"success": False}

    def step(self, action: ArrayLike) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Move all agents.

        Args:
            action: whole numbers ``[n]``.

        Returns:
            State, float32 ``[d]``; reward; terminated; truncated; and an info with ``"success"``.

        Raises:
            ShapeError: for an action of another shape.
            ConfigError: for actions that do not exist, and before the first reset.
        """
        results = self.vector.step(np.asarray(action)[None])
        state, reward, terminated, truncated, _ = results
        done = bool(terminated[0])
        return state[0], float(reward[0]), done, bool(truncated[0]), {"success": done}

    def render(self) -> Any:
        """Picture of the map and the agents, uint8 ``[H, W, 3]``; None without a render mode."""
        return None if self.render_mode is None else render(self.vector, self.vector.state())
