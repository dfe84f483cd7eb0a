"""What a reward model sees of a step: a latent reward, or the raw numbers."""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np


class Features(Protocol):
    """Turns steps into rows of numbers; :class:`lare.LatentReward` is one."""

    def __call__(
        self,
        observation: np.ndarray,
        action: np.ndarray | None = None,
        next_observation: np.ndarray | None = None,
    ) -> np.ndarray:
        """Compute float32 ``[B, D]`` from ``[B, S]``, ``[B, A]`` and ``[B, S]``."""
        ...


class RawFeatures:
    """The raw numbers, which the methods before latent rewards read.

    Args:
        parts: which numbers stand side by side. ``"change"`` is the observation minus the next one.

    Reference: arXiv 2111.05024 (observation, action, change); for several agents arXiv 2412.11120
    uses the next observation alone.
    """

    Part = Literal["observation", "action", "next_observation", "change"]

    def __init__(self, parts: tuple[Part, ...] = ("observation", "action", "change")) -> None:
        self.parts = parts

    def __call__(
        self,
        observation: np.ndarray,
        action: np.ndarray | None = None,
        next_observation: np.ndarray | None = None,
    ) -> np.ndarray:
        """Put the parts side by side, float32 ``[B, D]``."""
        values = {"observation": observation, "action": action}
        values["next_observation"] = next_observation
        if next_observation is not None:
            values["change"] = observation - next_observation
        rows = [np.asarray(values[part], dtype=np.float32) for part in self.parts]
        return np.concatenate(rows, axis=1)
