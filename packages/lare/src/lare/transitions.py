"""Real steps of an environment under random actions: what functions are verified on."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from lare.errors import ConfigError, ShapeError
from lare.task import numbers, sizes


class Transitions(NamedTuple):
    """Steps, row by row.

    Attributes:
        observation: float ``[B, S]``.
        action: float ``[B, A]``, discrete ones as 1 at the chosen place.
        next_observation: float ``[B, S]``, the last one of an episode included.
        reward: float ``[B]``, what the environment paid; never shown to a function.
        episode: int ``[B]``, number of the episode.
    """

    observation: np.ndarray
    action: np.ndarray
    next_observation: np.ndarray
    reward: np.ndarray
    episode: np.ndarray

    def check(self) -> None:
        """Compare the shapes.

        Raises:
            ShapeError: if they do not belong together.
        """
        rows = len(self.observation)
        if self.observation.ndim != 2 or self.observation.shape != self.next_observation.shape:
            raise ShapeError(
                f"observations have shape {self.observation.shape} and the next ones "
                f"{self.next_observation.shape}: both are [steps, entries]"
            )
        if self.action.ndim != 2 or len(self.action) != rows:
            raise ShapeError(
                f"actions have shape {self.action.shape} for {rows} steps: give [steps, entries]"
            )


def collect(env: Any, steps: int = 512, seed: int = 0) -> Transitions:
    """Step an environment with random actions.

    Args:
        env: a Gymnasium environment; it is reset, and left in the midst of an episode.
        steps: how many.
        seed: of the resets and of the actions.

    Raises:
        ConfigError: if ``steps`` is not positive.
        TaskError: if a space is not supported.
    """
    if steps < 1:
        raise ConfigError(f"steps is {steps}: collect at least one")
    sizes(env.observation_space, env.action_space)
    env.action_space.seed(seed)
    observation, _ = env.reset(seed=seed)
    rows: list[tuple[Any, ...]] = []
    episode = 0
    for _ in range(steps):
        action = env.action_space.sample()
        following, reward, terminated, truncated, _ = env.step(action)
        rows.append((observation, action, following, float(reward), episode))
        observation = following
        if terminated or truncated:
            episode += 1
            observation, _ = env.reset()
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    columns[1] = numbers(columns[1], env.action_space)
    return Transitions(*columns)
