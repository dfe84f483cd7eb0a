"""A bonus for every key state met, and nothing on the way there."""

from __future__ import annotations

import numpy as np

from lemae._values import real
from lemae.algos.rollout import Episodes
from lemae.baselines.fixed import FixedBonus


class DiscriminatorBonus(FixedBonus):
    """Pays for the step after which a key state is first true in its episode.

    What is left of LEMAE without distances, memory and plans. The variant of ELLM in the paper
    comes down to the same: it pays where the function says that the goal is reached.

    Reads the chains of episodes, which a :class:`~lemae.algos.rollout.Collector` with a labeler
    writes.

    Args:
        scale: paid per key state.

    Raises:
        ConfigError: if the scale is negative or not finite.

    Reference: arXiv 2410.02511, baseline ELLM; arXiv 2302.06692.
    """

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = real("scale", scale)

    def bonus(self, episodes: Episodes) -> np.ndarray:
        """What to add to the rewards of episodes: float64 ``[T, B]``."""
        found = np.zeros(episodes.rewards.shape)
        for episode, chain in enumerate(episodes.chains):
            for t, _ in chain:
                found[t - 1, episode] += self.scale
        return found
