"""What stands where on the grid of a task: plain data, read by the rules and by the drawing.

Coordinates are (x, y) with x to the right and y downwards, from 0; arrays are indexed ``[y, x]``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Switch:
    """What opens doors while an agent is near it.

    Attributes:
        x: column.
        y: row.
        radius: an agent at most so far away, as the crow flies, occupies the switch; in cells.
        opens: bits of the doors that it opens.
    """

    x: int
    y: int
    radius: float
    opens: int


@dataclass(frozen=True, eq=False)
class GridMap:
    """One map of ``size`` by ``size`` cells.

    Attributes:
        size: cells per side, G.
        starts: cell of every agent at the start; none where starts are drawn at random.
        walls: cells that nobody ever enters, bool ``[G, G]``.
        doors: the bit of the door in each cell, 0 where there is none, int64 ``[G, G]``.
        switches: in order of precedence: of those occupied at once only the first counts.
        water: bits of the rivers in each cell, int64 ``[G, G]``.
        goal: cells in which the task is done, bool ``[G, G]``: all agents in them, or the centre
            of the box.
        box: cell of the centre of a box of 3 by 3 cells at the start, or None.
    """

    size: int
    starts: tuple[tuple[int, int], ...] = ()
    walls: Array = field(default_factory=lambda: np.zeros(0, bool))
    doors: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    switches: tuple[Switch, ...] = ()
    water: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    goal: Array = field(default_factory=lambda: np.zeros(0, bool))
    box: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for name in ("walls", "doors", "water", "goal"):
            grid = getattr(self, name)
            if not grid.size:
                grid = np.zeros((self.size, self.size), grid.dtype)
                object.__setattr__(self, name, grid)
            grid.setflags(write=False)

    @property
    def n_rest(self) -> int:
        """Numbers of the state behind the positions of the agents."""
        return 1 if self.switches else 2 if self.box else 0

    def occupied(self) -> Array:
        """The switch that an agent occupies in each cell, int64 ``[G, G]``.

        The first in order where there are several, ``len(switches)`` where there is none.
        """
        first = np.full((self.size, self.size), len(self.switches))
        y, x = np.indices(first.shape)
        for index in reversed(range(len(self.switches))):
            switch = self.switches[index]
            near = (x - switch.x) ** 2 + (y - switch.y) ** 2 <= switch.radius**2
            first[near] = index
        return first
