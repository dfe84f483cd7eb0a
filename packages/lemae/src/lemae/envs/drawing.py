"""Pictures of maps, agents and visits, without a graphics library."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lemae.envs.maps import GridMap
from lemae.errors import ConfigError, ShapeError

Array = NDArray[Any]

_FLOOR = (250, 250, 248)
_WALL = (70, 74, 82)
_WATER = (150, 195, 235)
_GOAL = (205, 235, 205)
_SWITCH = (250, 225, 150)
_DOOR = {False: (160, 90, 50), True: (225, 195, 165)}  # closed, open
_BOX = (205, 150, 85)
_AGENTS = ((40, 90, 200), (215, 60, 60))
_RADII = (0.45, 0.25)  # of the discs, in cells: the second shows on top of the first
_HEAT = np.array([(255, 240, 200), (250, 160, 70), (200, 40, 50), (90, 10, 70)], float)


def render(
    env_or_map: Any,
    states: ArrayLike | None = None,
    visits: ArrayLike | None = None,
    *,
    cell_px: int = 12,
) -> NDArray[np.uint8]:
    """Draw a map with what is on it.

    Walls are dark, water blue, closed doors brown and open ones pale, the neighbourhood of a switch
    yellow, the goal green, the box ochre; agent 0 is a blue disc, agent 1 a smaller red one. Cells
    that were visited go from cream to dark red with the logarithm of the number. Secrets of the
    task are drawn: pictures are for people.

    Args:
        env_or_map: an environment of :func:`~lemae.envs.make`, or its ``grid_map``.
        states: ``[d]``, or ``[k, d]`` for the agents of k states, such as a whole episode; doors
            and box are those of the last one. None: no agents, doors closed.
        visits: numbers ``[G, G]`` by row and column, as from :func:`count_visits`.
        cell_px: side of a cell, pixels.

    Returns:
        uint8 ``[G * cell_px, G * cell_px, 3]``.

    Raises:
        ShapeError: for states or visits that do not fit the map.
        ConfigError: for something that has no map, or visits below 0.

    Example:
        >>> import lemae
        >>> env = lemae.envs.make("pass")
        >>> states, _ = env.reset()
        >>> render(env, states[0]).shape
        (360, 360, 3)
    """
    grid = _map_of(env_or_map)
    side = int(cell_px)
    if side < 1:
        raise ConfigError(f"cell_px is {cell_px}: give at least one pixel")
    cells, rest = (None, None) if states is None else _split(grid, states)
    picture = np.repeat(np.repeat(_colors(grid, rest, visits), side, axis=0), side, axis=1)
    if cells is not None:
        for agent in range(cells.shape[1]):
            for x, y in np.unique(cells[:, agent], axis=0):
                _disc(picture, x, y, side, agent)
    return picture


def count_visits(env_or_map: Any, states: ArrayLike, *, agent: int | None = None) -> Array:
    """Count how often agents were in each cell.

    Args:
        env_or_map: an environment of :func:`~lemae.envs.make`, or its ``grid_map``.
        states: ``[..., d]``.
        agent: count only this one; None counts all.

    Returns:
        int64 ``[G, G]``, by row and column. Cost: one pass over the states.

    Raises:
        ShapeError: for states that do not fit the map.
        ConfigError: for an agent that does not exist.
    """
    grid = _map_of(env_or_map)
    given = np.asarray(states)
    cells, _ = _split(grid, given.reshape(-1, given.shape[-1]) if given.ndim else given)
    if agent is not None:
        if not 0 <= agent < cells.shape[1]:
            raise ConfigError(f"agent is {agent}: give a number from 0 to {cells.shape[1] - 1}")
        cells = cells[:, [agent]]
    flat = cells[..., 1] * grid.size + cells[..., 0]
    counts = np.bincount(flat.reshape(-1), minlength=grid.size**2)
    return counts.reshape(grid.size, grid.size)


def _map_of(env_or_map: Any) -> GridMap:
    unwrapped = getattr(env_or_map, "unwrapped", env_or_map)
    grid = getattr(unwrapped, "grid_map", unwrapped)
    if not isinstance(grid, GridMap):
        raise ConfigError(
            f"{type(env_or_map).__name__} has no grid map: give an environment of lemae.envs, or "
            "its grid_map"
        )
    return grid


def _split(grid: GridMap, states: ArrayLike) -> tuple[Array, Array]:
    """Cells of the agents, int64 ``[k, n, 2]``, and the rest of the last state."""
    given = np.asarray(states)
    rows = given[None] if given.ndim == 1 else given
    width = rows.shape[-1] - grid.n_rest if rows.ndim == 2 else 0
    if width not in (2, 4) or not len(rows):
        raise ShapeError(
            f"states have shape {given.shape}: give [{4 + grid.n_rest}], or [k, {4 + grid.n_rest}] "
            f"({2 + grid.n_rest} numbers with one agent)"
        )
    cells = rows[:, :width].astype(np.int64).reshape(len(rows), -1, 2)
    if cells.min() < 0 or cells.max() >= grid.size:
        raise ShapeError(f"states leave the grid of {grid.size} by {grid.size} cells")
    return cells, rows[-1, width:].astype(np.int64)


def _colors(grid: GridMap, rest: Array | None, visits: ArrayLike | None) -> NDArray[np.uint8]:
    """Color of every cell, uint8 ``[G, G, 3]``."""
    colors = np.full((grid.size, grid.size, 3), _FLOOR, np.uint8)
    if grid.box is None:  # else it is the border that the box must touch, not a place to be
        colors[grid.goal] = _GOAL
    colors[grid.water != 0] = _WATER
    colors[grid.occupied() < len(grid.switches)] = _SWITCH
    colors[grid.walls] = _WALL
    open_doors = int(rest[0]) if rest is not None and grid.switches else 0
    for is_open, color in _DOOR.items():
        colors[(grid.doors != 0) & ((grid.doors & open_doors != 0) == is_open)] = color
    if visits is not None:
        heat = _heat(grid, visits)
        colors[heat > 0] = _ramp(heat[heat > 0])
    if grid.box is not None:
        x, y = grid.box if rest is None else rest
        colors[y - 1 : y + 2, x - 1 : x + 2] = _BOX
    return colors


def _heat(grid: GridMap, visits: ArrayLike) -> Array:
    """Visits on a logarithmic scale from 0 to 1."""
    counts = np.asarray(visits, dtype=np.float64)
    if counts.shape != (grid.size, grid.size):
        raise ShapeError(f"visits have shape {counts.shape}: give {(grid.size, grid.size)}")
    if not (counts >= 0).all():
        raise ConfigError("visits hold numbers below 0 or nan: give counts")
    heat = np.log1p(counts)
    return np.asarray(heat / max(heat.max(), 1e-300))


def _ramp(heat: Array) -> Array:
    stops = np.linspace(0, 1, len(_HEAT))
    channels = [np.interp(heat, stops, _HEAT[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).astype(np.uint8)


def _disc(picture: NDArray[np.uint8], x: int, y: int, side: int, agent: int) -> None:
    middles = (np.arange(side) + 0.5) / side - 0.5
    inside = middles[:, None] ** 2 + middles**2 <= _RADII[agent] ** 2
    picture[y * side : (y + 1) * side, x * side : (x + 1) * side][inside] = _AGENTS[agent]
