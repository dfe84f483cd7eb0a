"""Hindsight experience replay: what was reached later in the episode was the goal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lemae._seeds import Purpose, generator
from lemae._values import alike, reading, real, whole
from lemae.algos.rollout import Episodes
from lemae.instances import l1


class HerBonus:
    """Pays every step for getting nearer to a state that its episode reached later.

    Each step draws one of the states after it, all equally likely (the strategy "future"), and
    earns how much nearer it came to it, in Manhattan distance over the whole state: the intrinsic
    reward of LEMAE, with goals that nobody named. The policy is not told the goal, as in LEMAE.

    Args:
        beta: weight of the bonus, not negative; in a training run that of its settings.
        seed: of the goals.

    Raises:
        ConfigError: if the weight is negative or not finite.

    Reference: arXiv 1707.01495, section 4.5; arXiv 2410.02511, baseline HER.
    """

    def __init__(self, *, beta: float = 0.1, seed: int = 0) -> None:
        self.beta, self.seed = real("beta", beta), seed
        self._drawn = 0

    def observe(self, episodes: Episodes) -> None:
        """Nothing is learned."""

    def bonus(self, episodes: Episodes) -> np.ndarray:
        """What to add to the rewards of episodes: float64 ``[T, B]``; goals are drawn anew."""
        rng = generator(Purpose.RELABELING, self.seed, self._drawn)
        self._drawn += 1
        states = episodes.states
        t, episode = np.nonzero(episodes.valid)
        goals = states[later_times(t, episodes.lengths[episode], rng), episode].astype(np.float64)
        found = np.zeros(episodes.rewards.shape)
        found[t, episode] = l1(states[t, episode], goals) - l1(states[t + 1, episode], goals)
        return self.beta * found

    def state_dict(self) -> dict[str, Any]:
        """How many batches were drawn for."""
        return {"drawn": self._drawn}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken, bit for bit.

        Raises:
            StateError: if it is not what that method returns; nothing is changed then.
        """
        with reading("this bonus"):
            alike("the state", state, self.state_dict())
            self._drawn = whole("drawn", state["drawn"], lowest=0)


def later_times(t: np.ndarray, lengths: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One of the times ``t + 1`` to ``length`` per step, all equally likely.

    Args:
        t: int64 ``[M]``, times of steps.
        lengths: int64 ``[M]``, of their episodes, above ``t``.
        rng: of the draws.
    """
    left = lengths - t
    drawn: np.ndarray = t + 1 + np.minimum((rng.random(len(t)) * left).astype(np.int64), left - 1)
    return drawn
