"""A picture of a particle world, without a graphics library."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lare.envs.mpe.tasks import MPETask

_SIDE = 400  # pixels
_TEAM_COLORS = ((90, 90, 217), (90, 217, 90), (217, 90, 90))
_LANDMARK_COLOR = (64, 64, 64)


def draw(task: MPETask, positions: NDArray[Any]) -> NDArray[np.uint8]:
    """Draw every entity as a disc, landmarks below agents, y upwards.

    Args:
        task: The task, for sizes and groups.
        positions: float of shape (entities, 2). The picture widens when one leaves the square in
            which episodes start.

    Returns:
        uint8 of shape (400, 400, 3).
    """
    extent = max(task.radius, float(np.abs(positions).max())) + max(task.sizes)
    middles = ((np.arange(_SIDE) + 0.5) / _SIDE * 2 - 1) * extent
    picture = np.full((_SIDE, _SIDE, 3), 255, np.uint8)
    colors = [_TEAM_COLORS[i % 3] for i, team in enumerate(task.teams) for _ in range(team.count)]
    colors += [_LANDMARK_COLOR] * task.n_landmarks
    for (x, y), size, color in reversed(list(zip(positions, task.sizes, colors, strict=True))):
        inside = (middles[None, :] - x) ** 2 + (-middles[:, None] - y) ** 2 <= size**2
        picture[inside] = color
    return picture
