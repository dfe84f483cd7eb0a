"""The named grid tasks: their maps, and what is told about them.

Numbers are those of the published environments (arXiv 2107.11444, code of CMAE) where these exist:
Pass, Secret-Room and Push-Box. Ours are Large-Pass beyond its size (the law of Pass at 50 cells),
all of River but its idea, and the tasks for one agent. What agents cannot know is not told: where
switches are, how near one has to be, and which room of Secret-Room is the target.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lemae._values import whole
from lemae.envs.grid import Array, Blueprint
from lemae.envs.maps import GridMap, Switch
from lemae.errors import ConfigError
from lemae.task import StateEntry, TaskSpec

ACTIONS = (
    "up: y decreases by 1",
    "down: y increases by 1",
    "left: x decreases by 1",
    "right: x increases by 1",
)
EPISODE_LIMIT = 300
_SIZES = (10, 1000)

_COORDINATES = "x counts columns from 0 at the left, y counts rows from 0 at the top."


def pass_(
    name: str, n_agents: int, *, size: int = 30, episode_limit: int | None = None
) -> Blueprint:
    """Pass: two rooms, one door, a switch in each room.

    Args:
        name: of the task.
        n_agents: 2, or 1 for the single-agent task.
        size: cells per side, G. Everything scales with it: the published task has 30,
            Large-Pass 50.
        episode_limit: steps; None is 300, or ``6 * size`` if that is more.
    """
    size = whole("size", size, lowest=_SIZES[0], highest=_SIZES[1])
    limit = _limit(episode_limit, max(EPISODE_LIMIT, 6 * size))
    unit, middle, far = size // 10, size // 2, 8 * size // 10
    rows, columns = _indices(size)
    doorway = (columns == middle) & (np.abs(rows - middle) <= unit)
    starts = ((unit + 1, unit + 1), (unit, unit))[:n_agents]
    goal_x = -(-(size + 2) // 2)  # the first whole number of at least G / 2 + 1
    radius = 1.5 * unit
    grid = GridMap(
        size=size,
        starts=starts,
        walls=(columns == middle) & ~doorway,
        doors=doorway.astype(np.int64),
        switches=(Switch(unit, far, radius, opens=1), Switch(far, unit, radius, opens=1)),
        goal=columns >= goal_x,
    )
    who = "Both agents start" if n_agents == 2 else "The agent starts"
    description = (
        f"A wall with one door divides a grid into a left and a right room. {who} in the left "
        "room. Each room has one switch, which nobody can see; where in the room it is, is not "
        f"known. A working switch opens the door. {_switches(n_agents)} At the start the door is "
        f"closed, which makes it a wall. {_moves(n_agents)} {_caught(n_agents)}The task is done "
        f"when {_all(n_agents)} in the right room."
    )
    configuration = (
        f"The grid has {size} x {size} cells. {_COORDINATES} The wall is the column x = {middle}; "
        f"the door is its cells with y from {middle - unit} to {middle + unit}. "
        f"{_start_text(starts)} The task is done when {_all(n_agents)} at x >= {goal_x}."
    )
    door = StateEntry("door", 0, 1, text="1 if the door is open, 0 if it is closed")
    task = _task(name, description, configuration, size, n_agents, (door,), limit)
    return Blueprint(task, grid, {"size": size, "episode_limit": limit})


def large_pass(name: str, n_agents: int, *, episode_limit: int | None = None) -> Blueprint:
    """Large-Pass: Pass with 50 cells per side.

    Args:
        name: of the task.
        n_agents: 2, or 1 for the single-agent task.
        episode_limit: steps; None is 300.
    """
    blueprint = pass_(name, n_agents, size=50, episode_limit=episode_limit)
    return Blueprint(
        blueprint.task, blueprint.grid, {"episode_limit": blueprint.task.episode_limit}
    )


_ROOM_ROWS = {1: (0, 7), 2: (9, 15), 3: (17, 24)}  # first and last row of the rooms at the right
_DOOR_ROWS = {1: 4, 2: 12, 3: 20}  # middle rows of the doors


def secret_room(
    name: str,
    n_agents: int,
    *,
    target_room: int = 1,
    compat: str | None = None,
    episode_limit: int = EPISODE_LIMIT,
) -> Blueprint:
    """Secret-Room: one of three rooms behind three doors is the target; nothing tells which.

    Args:
        name: of the task.
        n_agents: 2, or 1 for the single-agent task.
        target_room: 1 (top), 2 or 3.
        compat: ``"cmae"``: the target of CMAE's code, that is room 1 without its column x = 13,
            and with the row y = 9, which is in room 2. ``"exact"``: the room, all of it and nothing
            else. None is ``"cmae"`` for room 1, the published comparison, and ``"exact"`` else.
        episode_limit: steps.
    """
    target = whole("target_room", target_room, lowest=1, highest=3)
    compat = ("cmae" if target == 1 else "exact") if compat is None else compat
    if compat not in ("cmae", "exact"):
        raise ConfigError(f'compat is {compat!r}: give "cmae" or "exact"')
    if compat == "cmae" and target != 1:
        raise ConfigError(
            f'compat is "cmae" and target_room {target}: the code of CMAE knows room 1 alone; give '
            'compat="exact"'
        )
    limit = _limit(episode_limit, EPISODE_LIMIT)
    size, middle = 25, 12
    rows, columns = _indices(size)
    doors = np.zeros((size, size), np.int64)
    for room, row in _DOOR_ROWS.items():
        doors[row - 1 : row + 2, middle] = 8 >> room
    walls = (columns == middle) | ((columns > middle) & ((rows == 8) | (rows == 16)))
    first, last = _ROOM_ROWS[target]
    exact = (columns > middle) & (rows >= first) & (rows <= last)
    starts = ((3, 3), (2, 2))[:n_agents]
    grid = GridMap(
        size=size,
        starts=starts,
        walls=walls & (doors == 0),
        doors=doors,
        switches=(
            Switch(5, 20, 1.5, opens=7),
            *(Switch(20, row, 1.5, opens=8 >> room) for room, row in _DOOR_ROWS.items()),
        ),
        goal=(columns >= 14) & (rows <= 9) if compat == "cmae" else exact,
    )
    who = "Both agents start" if n_agents == 2 else "The agent starts"
    description = (
        "A grid has a left room and, one above the other, three right rooms. Between the left room "
        f"and each right room is a door. {who} in the left room. One of the right rooms is the "
        "target; which one, is not known. Each room has one switch, which nobody can see; where in "
        "the room it is, is not known. When it works, the switch of the left room opens all doors, "
        f"that of a right room only its own door. {_switches(n_agents)} If several work at once, "
        "only the first of them counts: left room, then right rooms 1, 2, 3. At the start all "
        f"doors are closed, which makes them walls. {_moves(n_agents)} {_caught(n_agents)}The task "
        f"is done when {_all(n_agents)} in the target room."
    )
    places = " ".join(
        f"Right room {room} has x from {middle + 1} to {size - 1} and y from {low} to {high}; its "
        f"door, door {room}, is x = {middle} with y from {row - 1} to {row + 1}."
        for (room, (low, high)), row in zip(_ROOM_ROWS.items(), _DOOR_ROWS.values(), strict=True)
    )
    configuration = (
        f"The grid has {size} x {size} cells. {_COORDINATES} The left room has x from 0 to "
        f"{middle - 1}. {places} {_start_text(starts)}"
    )
    code = StateEntry(
        "doors", 0, 7, text="4 if door 1 is open, plus 2 if door 2 is open, plus 1 if door 3 is"
    )
    task = _task(name, description, configuration, size, n_agents, (code,), limit)
    options = {"target_room": target, "compat": compat, "episode_limit": limit}
    return Blueprint(task, grid, options)


def push_box(name: str, n_agents: int, *, episode_limit: int = EPISODE_LIMIT) -> Blueprint:
    """Push-Box: move a box, too heavy for one of two agents, to any side of the grid.

    Args:
        name: of the task.
        n_agents: 2, or 1 for the single-agent task, in which one agent is enough.
        episode_limit: steps.
    """
    limit = _limit(episode_limit, EPISODE_LIMIT)
    size, middle = 15, 7
    rows, columns = _indices(size)
    starts = ((11, 11), (9, 9))[:n_agents]
    border = np.abs(np.stack([rows, columns]) - middle).max(axis=0) == middle - 1
    grid = GridMap(size=size, starts=starts, goal=border, box=(middle, middle))
    force = (
        "The box moves one cell only if both agents push it in the same direction in the same step"
        if n_agents == 2
        else "The box moves one cell when the agent pushes it"
    )
    followers = "the agents move" if n_agents == 2 else "the agent moves"
    description = (
        "A heavy box of 3 x 3 cells stands on a grid. An agent pushes the box by standing directly "
        f"at one of its sides and moving towards it. {force}, and {followers} on behind it. "
        f"Otherwise the box is a wall. {_moves(n_agents)} The task is "
        "done when the box touches any side of the grid."
    )
    configuration = (
        f"The grid has {size} x {size} cells. {_COORDINATES} The centre of the box starts at "
        f"({middle}, {middle}). {_start_text(starts)} The task is done when the centre of the box "
        f"has x or y equal to 1 or {size - 2}."
    )
    box = tuple(
        StateEntry(f"box {axis}", 1, size - 2, unit="cells", text="of its centre")
        for axis in ("x", "y")
    )
    task = _task(name, description, configuration, size, n_agents, box, limit)
    return Blueprint(task, grid, {"episode_limit": limit})


def river(name: str, n_agents: int, *, episode_limit: int = EPISODE_LIMIT) -> Blueprint:
    """River: the first agent can be in the water only with the help of the second.

    Args:
        name: of the task.
        n_agents: 2.
        episode_limit: steps.
    """
    limit = _limit(episode_limit, EPISODE_LIMIT)
    size, middle = 30, 15
    rows, columns = _indices(size)
    water = (columns == middle) + 2 * (rows == middle)
    grid = GridMap(
        size=size,
        walls=(columns < middle) & (rows > middle),
        water=water.astype(np.int64),
        goal=(columns > middle) & (rows > middle),
    )
    description = (
        "Two rivers cross and divide a grid into four quarters; the lower left one is a mountain, "
        "which nobody can enter. Agent 0 cannot swim: it can move onto a cell of a river only if "
        "agent 1 stands in the same river before the step; out of the water it can always go. "
        "Agent 1 swims everywhere. Both start somewhere in the upper left quarter, elsewhere in "
        f"every episode. {_moves(n_agents)} A move into the mountain, or one that agent 0 cannot "
        "do, counts as a move into a wall. The task is done when both agents are in the lower "
        "right quarter."
    )
    configuration = (
        f"The grid has {size} x {size} cells. {_COORDINATES} One river is the column x = {middle}, "
        f"the other the row y = {middle}; their common cell belongs to both. The mountain has "
        f"x < {middle} and y > {middle}. The agents start at x and y from 0 to 9. The task is done "
        f"when both agents are at x > {middle} and y > {middle}."
    )
    task = _task(name, description, configuration, size, n_agents, (), limit)
    return Blueprint(task, grid, {"episode_limit": limit})


def _limit(episode_limit: int | None, default: int) -> int:
    return whole("episode_limit", default if episode_limit is None else episode_limit)


def _indices(size: int) -> tuple[Array, Array]:
    rows, columns = np.indices((size, size))
    return rows, columns


def _moves(n_agents: int) -> str:
    who, sharing = (
        ("Every agent", " Agents may share a cell.") if n_agents == 2 else ("The agent", "")
    )
    return (
        f"{who} moves one cell per step: up, down, left or right. A move off the grid or into a "
        f"wall does nothing.{sharing}"
    )


def _switches(n_agents: int) -> str:
    if n_agents == 2:
        return "A switch works only while an agent is near it."
    return "A switch works from when the agent is first near it until the end of the episode."


def _caught(n_agents: int) -> str:
    if n_agents == 1:  # whose doors do not close
        return ""
    return (
        "An agent that stands in a doorway when the door closes stays there and can step out "
        "sideways. "
    )


def _all(n_agents: int) -> str:
    return "both agents are" if n_agents == 2 else "the agent is"


def _start_text(starts: tuple[tuple[int, int], ...]) -> str:
    return " ".join(f"Agent {agent} starts at {cell}." for agent, cell in enumerate(starts))


def _task(
    name: str,
    description: str,
    configuration: str,
    size: int,
    n_agents: int,
    rest: tuple[StateEntry, ...],
    episode_limit: int,
) -> TaskSpec:
    positions: list[Any] = [
        StateEntry(f"agent {agent} {axis}", 0, size - 1, unit="cells")
        for agent in range(n_agents)
        for axis in ("x", "y")
    ]
    state = (*positions, *rest)
    return TaskSpec(name, description, configuration, state, n_agents, ACTIONS, episode_limit)
