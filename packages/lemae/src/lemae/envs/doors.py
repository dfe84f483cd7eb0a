"""Pass, Large-Pass and Secret-Room: doors that are open while an agent is near a switch."""

from __future__ import annotations

from typing import Any

import numpy as np

from lemae.envs.grid import Array, GridVectorEnv
from lemae.errors import ConfigError


class DoorsEnv(GridVectorEnv):
    """Rooms behind doors.

    All agents move first, through the doors as they were left by the step before; then the doors
    are set anew by the first switch, in the map's order, that any agent occupies. At the start all
    are closed, whoever stands where. Nobody is pushed out of a doorway that closes, but a move into
    another of its cells fails. With one agent, who could never open a door and cross it, a switch
    once touched stays occupied for the episode.

    The mode is the number of that switch; the number of switches if there is none.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        grid = self.grid_map
        self._none = len(grid.switches)
        self._start_mode = self._none
        self._codes = np.array([*(switch.opens for switch in grid.switches), 0])
        closed = (grid.doors & ~self._codes[:, None, None]) != 0
        free = [~self._padded(grid.walls | shut, True) for shut in closed]
        self._free = np.concatenate(free)
        self._switch = self._padded(grid.occupied(), self._none)

    def _move(self, steps: Array) -> None:
        target = self._cells + steps
        free = self._free.take(target + self._mode * self._area)
        self._cells = np.where(free, target, self._cells)
        occupied = self._switch.take(self._cells).min(axis=0)
        self._mode = np.minimum(occupied, self._mode) if self.n_agents == 1 else occupied

    def _write_rest(self, rest: Array) -> None:
        rest[:, 0] = self._codes.take(self._mode)

    def _read_rest(self, rest: Array) -> Array:
        same = rest == self._codes
        if not same.any(axis=1).all():
            code = rest[~same.any(axis=1)][0, 0]
            known = sorted(set(self._codes.tolist()))
            raise ConfigError(f"states have doors {code}, which never occurs: give one of {known}")
        return np.asarray(same.argmax(axis=1))
