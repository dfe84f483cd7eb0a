"""What bonuses for rare states have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np

from lemae._values import flag, reading, real
from lemae.algos.rollout import Episodes


class NoveltyBonus(ABC):
    """Pays for reaching states that were rarely reached before.

    Args:
        scale: of the bonus.
        until_success: pay nothing any more once an episode succeeded.

    Raises:
        ConfigError: if the scale is negative or not finite.
    """

    def __init__(self, scale: float, *, until_success: bool) -> None:
        self.scale = real("scale", scale)
        self.until_success = until_success
        self.solved = False

    def observe(self, episodes: Episodes) -> None:
        """Take note of episodes: of each once, before its bonus is asked for."""
        self.solved |= bool(episodes.success.any())
        if episodes.steps and not (self.solved and self.until_success):
            self.learn(episodes.states[1:][episodes.valid])

    def bonus(self, episodes: Episodes) -> np.ndarray:
        """What to add to the rewards of episodes, new or replayed, by what is known now.

        Returns:
            float64 ``[T, B]``, of the states that the steps led to; 0 behind the end of an episode.
        """
        found = np.zeros(episodes.rewards.shape)
        if episodes.steps and not (self.solved and self.until_success):
            valid = episodes.valid
            found[valid] = self.scale * self.novelty(episodes.states[1:][valid])
        return found

    @abstractmethod
    def learn(self, states: np.ndarray) -> None:
        """Take note of states ``[M, d]``."""

    @abstractmethod
    def novelty(self, states: np.ndarray) -> np.ndarray:
        """How rare states ``[M, d]`` are, ``[M]``, before ``scale``."""

    def state_dict(self) -> dict[str, Any]:
        """Whether the task was solved; subclasses add what they learned."""
        return {"solved": self.solved}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken, bit for bit.

        Raises:
            StateError: if it was taken of a bonus with other arguments, or is not what that method
                returns; nothing is changed then.
        """
        with reading("this bonus"):
            solved = flag("solved", state["solved"])
            self._load_learned(state)
        self.solved = solved

    @abstractmethod
    def _load_learned(self, state: Mapping[str, Any]) -> None:
        """Take up what a subclass added, all of it or, with any error, nothing."""
