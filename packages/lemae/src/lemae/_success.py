"""What counts as success where an environment does not say it."""

from __future__ import annotations

import numpy as np

from lemae.errors import ConfigError


def by_reward(paid: np.ndarray, terminated: np.ndarray, remedy: str) -> np.ndarray:
    """Steps that reached the goal: those that paid and terminated their episode.

    A reward on the way, or at a truncation, is not the sparse reward for success. Taken for it, it
    would end exploration and prune the memory for good.

    Args:
        paid: bool, where a step of an episode had a positive reward.
        terminated: bool of the same shape, where it terminated the episode.
        remedy: what to do instead, for the message.

    Raises:
        ConfigError: if a step paid and did not terminate its episode.
    """
    if (paid & ~terminated).any():
        raise ConfigError(
            "a reward is positive in a step that does not terminate its episode, so that rewards "
            f"do not tell success: {remedy}"
        )
    return paid
