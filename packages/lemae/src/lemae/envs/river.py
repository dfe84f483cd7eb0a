"""River: two rivers that the first agent enters only while the second stands in them."""

from __future__ import annotations

from typing import Any

import numpy as np

from lemae.envs.grid import Array, GridVectorEnv

_ALICE, _BOB = 0, 1
_START_SIDE = 10  # cells of the square in the upper left corner in which everyone starts


class RiverEnv(GridVectorEnv):
    """Two rivers, a mountain, and random starts.

    Alice moves first. Her move onto a cell of a river succeeds only if Bob, where his last move
    took him, stands in the same river; she may always leave the water. Where the rivers cross, a
    cell belongs to both. Bob goes where he likes, but for the mountain.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._water = self._padded(self.grid_map.water, 0)

    def _move(self, steps: Array) -> None:
        target = self._cells + steps
        free = ~self._walls.take(target)
        ahead = self._water.take(target[_ALICE])
        free[_ALICE] &= (ahead == 0) | (ahead & self._water.take(self._cells[_BOB]) != 0)
        self._cells = np.where(free, target, self._cells)

    def _start_cells(self, count: int) -> Array:
        return self._cell(self.np_random.integers(0, _START_SIDE, (self.n_agents, count, 2)))
