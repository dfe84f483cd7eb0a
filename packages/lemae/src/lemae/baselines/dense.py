"""The upper bound: what could be learned if the environment paid for every bit of progress."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lemae.algos.rollout import Episodes, VectorEnvLike
from lemae.baselines.fixed import FixedBonus
from lemae.errors import ConfigError


class DenseRewards:
    """An environment that pays its dense reward in place of its sparse one.

    Everything else is the environment's, so that it can be given wherever that can be. Success
    stays what it was.

    Args:
        env: with ``info["dense_reward"]``, float ``[N]``, in every step; SMAX has it.

    Attributes:
        env: as given.
        sparse: False.
    """

    sparse = False

    def __init__(self, env: VectorEnvLike) -> None:
        self.env = env

    def __getattr__(self, name: str) -> Any:
        if name == "env":  # not there yet, as while it is copied
            raise AttributeError(name)
        return getattr(self.env, name)

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, Mapping[str, Any]]:
        """Take actions ``[N, n]``.

        Raises:
            ConfigError: if the environment has no dense reward.
        """
        state, sparse, terminated, truncated, info = self.env.step(actions)
        if "dense_reward" not in info:
            raise ConfigError(
                'the environment has no dense reward: a step\'s info["dense_reward"] is needed, as '
                "SMAX has it. Take another baseline"
            )
        dense = np.asarray(info["dense_reward"], np.float64)
        return state, dense, terminated, truncated, {"success": sparse > 0, **info}


class NoBonus(FixedBonus):
    """Adds nothing: the environment pays its dense reward itself.

    Args:
        env: whose attribute ``sparse`` is False, such as :class:`DenseRewards`.

    Raises:
        ConfigError: if the environment does not say that its reward is dense.
    """

    def __init__(self, env: Any) -> None:
        if getattr(env, "sparse", True):
            raise ConfigError(
                "the environment pays for success alone (its attribute sparse is not False): make "
                "it with sparse=False, as SMAX allows, or wrap one that reports "
                'info["dense_reward"] in lemae.baselines.DenseRewards. Grid tasks have none'
            )

    def bonus(self, episodes: Episodes) -> np.ndarray:
        """Zeros, float64 ``[T, B]``."""
        return np.zeros(episodes.rewards.shape)
