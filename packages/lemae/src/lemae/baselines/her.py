"""Hindsight experience replay: what was reached later in the episode was the goal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lemae._seeds import Purpose, generator
from lemae.algos.rollout import Episodes
from lemae.errors import ConfigError, ShapeError
from lemae.instances import l1
from lemae.labels import Chain, check_episodes
from lemae.shir import Relabeled


class HerRelabeler:
    """Rewards every step for getting nearer to a state that its episode reached later.

    Takes the place of a :class:`lemae.ShirRelabeler`, or is used as a bonus, with goals that nobody
    named: each step draws one of the states after it, all equally likely (the strategy "future"),
    and earns how much nearer it came to it, in Manhattan distance over the whole state. The policy
    is not told the goal, as in LEMAE.

    Args:
        alpha: weight of the environment's reward, above 0.
        beta: weight of the intrinsic reward, not negative.
        seed: of the goals.

    Raises:
        ConfigError: if a weight is out of range.

    Reference: arXiv 1707.01495, section 4.5; arXiv 2410.02511, baseline HER.
    """

    def __init__(self, *, alpha: float = 10.0, beta: float = 0.1, seed: int = 0) -> None:
        if not (alpha > 0 and beta >= 0):
            raise ConfigError(
                f"alpha={alpha}, beta={beta}: alpha must be positive and beta not negative"
            )
        self.alpha, self.beta, self.seed = alpha, beta, seed
        self._drawn = 0

    def observe(self, states: Any, chains: Sequence[Chain] = ()) -> None:
        """Nothing is learned, of states or of episodes."""

    def bonus(self, episodes: Episodes) -> np.ndarray:
        """What to add to the scaled rewards of episodes: float64 ``[T, B]``, with its weight."""
        relabeled = self.relabel(episodes.states, episodes.rewards, episodes.lengths)
        return self.beta * relabeled.intrinsic

    def relabel(
        self,
        states: Any,
        rewards: Any,
        lengths: Any,
        success: Any = None,
        chains: Sequence[Chain] = (),
        memory: Any = None,
    ) -> Relabeled:
        """Rewards of a batch of episodes; no argument is changed.

        Args:
            states: ``[T+1, B, d]``.
            rewards: ``[T, B]``, the environment's own.
            lengths: int ``[B]``.
            success: not read, as are ``chains`` and ``memory``.
            chains: see ``success``.
            memory: see ``success``.

        Returns:
            New rewards, intrinsic rewards, and as ``goals`` the index in time of each step's goal;
            -1 behind the end of an episode.

        Raises:
            ShapeError: if the shapes do not fit each other.
        """
        states, raw = np.asarray(states), np.asarray(rewards, np.float64)
        lengths = np.asarray(lengths, np.int64)
        check_episodes(states, lengths)
        if raw.shape != (len(states) - 1, len(lengths)):
            raise ShapeError(
                f"rewards have shape {raw.shape}, the states {states.shape}: give one per step"
            )
        rng = generator(Purpose.RELABELING, self.seed, self._drawn)
        self._drawn += 1
        t, env = np.nonzero(np.arange(len(states) - 1)[:, None] < lengths)
        left = lengths[env] - t
        drawn = t + 1 + np.minimum((rng.random(len(t)) * left).astype(np.int64), left - 1)
        wanted = states[drawn, env].astype(np.float64)
        paid, intrinsic = np.zeros(raw.shape), np.zeros(raw.shape)
        goals = np.full(raw.shape, -1)
        paid[t, env] = raw[t, env]
        intrinsic[t, env] = l1(states[t, env], wanted) - l1(states[t + 1, env], wanted)
        goals[t, env] = drawn
        return Relabeled(self.alpha * paid + self.beta * intrinsic, intrinsic, goals)

    def state_dict(self) -> dict[str, Any]:
        """How many batches were drawn for."""
        return {"drawn": self._drawn}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken, bit for bit."""
        self._drawn = state["drawn"]
