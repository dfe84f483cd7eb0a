"""What counts as success where an environment does not say it."""

from __future__ import annotations

from typing import Any

import numpy as np

from lemae.errors import ConfigError


def by_reward(paid: Any, terminated: Any, remedy: str) -> Any:
    """Steps that reached the goal: those that paid and terminated their episode.

    A reward on the way, or at a truncation, is not the sparse reward for success. Taken for it, it
    would end exploration and prune the memory for good.

    Args:
        paid: bool array of any shape, where a step of an episode had a positive reward.
        terminated: bool of the same shape, where it terminated the episode.
        remedy: what to do instead, for the message.

    Returns:
        bool of the same shape.

    Raises:
        ConfigError: if a step paid and did not terminate its episode.
    """
    if np.any(paid & ~terminated):
        raise ConfigError(
            "a reward is positive in a step that does not terminate its episode, so that rewards "
            f"do not tell success: {remedy}"
        )
    return paid
