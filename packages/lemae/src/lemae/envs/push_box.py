"""Push-Box: a box that moves only if all agents push it the same way."""

from __future__ import annotations

from typing import Any

import numpy as np

from lemae.envs.grid import Array, GridVectorEnv


class PushBoxEnv(GridVectorEnv):
    """A solid box of 3 by 3 cells on an empty grid.

    An agent pushes by a move that would take it into the box. If all agents push in the same
    direction, the box moves one cell, and then the agents after it; else the box stays, and so does
    whoever ran into it. The mode is the cell of the box's centre.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        assert self.grid_map.box is not None
        self._start_mode = int(self._cell(np.array(self.grid_map.box)))
        apart = np.abs(self._xy[:, None] - self._xy).max(axis=-1)  # [centre of the box, cell]
        self._body = (apart <= 1).reshape(-1)
        self._free = ((apart > 1) & ~self._walls).reshape(-1)

    def _move(self, steps: Array) -> None:
        target = self._cells + steps
        pushing = self._body.take(target + self._mode * self._area)
        moved = pushing.all(axis=0) & (steps == steps[0]).all(axis=0)
        self._mode = self._mode + steps[0] * moved
        free = self._free.take(target + self._mode * self._area)
        self._cells = np.where(free, target, self._cells)

    def _done(self, cells: Array, mode: Array) -> Array:
        return np.asarray(self._goal.take(mode))

    def _solid(self, cells: Array, mode: Array) -> Array:
        return np.asarray(self._body.take(cells + mode * self._area))

    def _write_rest(self, rest: Array) -> None:
        rest[:] = self._xy.take(self._mode, axis=0)

    def _read_rest(self, rest: Array) -> Array:
        return self._cell(rest)
