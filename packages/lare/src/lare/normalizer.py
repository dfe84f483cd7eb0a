"""Rewards of a size that a critic learns quickly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from lare.episodes import EpisodeStore

T = TypeVar("T", Tensor, np.ndarray)

#: Rows after which the size of the rewards is settled, and rows that it is measured on.
SETTLED, MEASURED = 10_000, 4096


class Normalizer:
    """Shifts and scales rewards without changing which policy is best.

    The scale is the standard deviation of the predicted rewards over stored steps. It is measured
    anew whenever the number of steps or of updates has doubled, up to 10 000 of each, and stays
    then. The shift is the mean reward per step of the first episodes. It does not follow later
    ones, since the value of every state would move with it, and it is given up at the first episode
    that terminates: where episodes can end early, a constant per step is paid for living longer and
    does change the best policy.

    Attributes:
        shift: subtracted first.
        scale: divided by then.
    """

    def __init__(self) -> None:
        self.shift = 0.0
        self.scale = 1.0
        self._terminates = False
        self._measured_at = (0, 0)  # steps and updates

    def terminated(self) -> None:
        """Take note that an episode terminated: from now on nothing is subtracted."""
        self._terminates = True
        self.shift = 0.0

    def __call__(self, rewards: T) -> T:
        """Return ``(rewards - shift) / scale``, for arrays and tensors."""
        return (rewards - self.shift) / self.scale

    @torch.no_grad()
    def observe(
        self,
        store: EpisodeStore,
        rewards: Callable[[Tensor], Tensor],
        updates: int,
        device: torch.device,
    ) -> None:
        """Measure, if it is time to.

        Args:
            store: with at least one whole episode.
            rewards: from factors to predicted rewards.
            updates: of the model so far; one that is trained changes with them.
            device: of the predictions.
        """
        steps = store.added * store.n_envs
        now = min(steps, SETTLED), min(updates, SETTLED)
        pairs = zip(now, self._measured_at, strict=True)
        if not any(new >= 2 * old and new > old for new, old in pairs):
            return
        if not any(self._measured_at) and not self._terminates:
            episodes = store.episodes
            self.shift = sum(e.total for e in episodes) / sum(e.length for e in episodes)
        self._measured_at = now
        written = min(store.added, store.capacity)
        chosen = torch.linspace(0, written - 1, min(written, MEASURED)).long()
        deviation = float(rewards(store.factors[chosen].to(device)).std(correction=0))
        # A decoder that says the same of every step has no scale yet.
        self.scale = deviation if deviation > 1e-8 else 1.0

    def state_dict(self) -> dict[str, Any]:
        """Shift, scale and what they rest on."""
        return {**vars(self), "_measured_at": list(self._measured_at)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved state."""
        vars(self).update(state)
        self._measured_at = tuple(state["_measured_at"])
