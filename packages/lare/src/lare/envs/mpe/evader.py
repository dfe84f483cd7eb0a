"""The script that moves the preys of cooperative Predator-Prey.

Ours, in place of the publication's trained networks, and deterministic: a prey accelerates fully
in the direction in which the predators push it, each with the inverse of its distance, the
nearest most; beyond 80 % of the way from the centre to the border of the starting square it is
also pushed back inwards, harder the further out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_BORDER = 0.8  # share of the radius within which the border is not felt
_PUSH_BACK = 20.0  # push per unit beyond it; a predator at distance d pushes with 1 / d
_NEAREST = 1e-6  # distances below do not raise the push further


def escape_direction(preys: Array, predators: Array, radius: float) -> Array:
    """Direction in which each prey accelerates.

    Args:
        preys: Positions, float of shape (..., P, 2).
        predators: Positions, float of shape (..., M, 2), the same leading axes.
        radius: Half the side of the starting square.

    Returns:
        Unit vectors of shape (..., P, 2); zero where all pushes cancel exactly.
    """
    away = preys[..., :, None, :] - predators[..., None, :, :]
    squares = np.maximum((away * away).sum(-1, keepdims=True), _NEAREST**2)
    outside = np.maximum(np.abs(preys) - _BORDER * radius, 0.0)
    push = (away / squares).sum(-2) - _PUSH_BACK * outside * np.sign(preys)
    norm = np.sqrt((push * push).sum(-1, keepdims=True))
    return np.asarray(push / np.where(norm > 0, norm, 1.0))
