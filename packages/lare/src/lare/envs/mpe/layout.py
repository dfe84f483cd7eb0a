"""What each entry of an observation means, as rows from which a text can be generated."""

from __future__ import annotations

import math
from typing import Any

from lare.envs.mpe.tasks import LANDMARK, MPETask, Team, View, get_task

_AXES = "xy"
_FIXED = {"index": "always in the same order", "xy": "in order of x, then y"}


def layout(task: str | MPETask, role: str | None = None) -> list[dict[str, Any]]:
    """Describe an observation, one row per entry.

    Args:
        task: A task or its id.
        role: The role that sees it; by default the first. Roles of one task differ in names only.

    Returns:
        Rows with the keys ``index`` (int), ``name`` (str), ``unit`` (str, empty for pure numbers),
        ``low`` and ``high`` (float; infinite where nothing bounds the entry). Bounds hold up to
        the rounding of float32.

    Raises:
        ConfigError: for an unknown task or role.

    Example:
        >>> entry = layout("triangle-area-3")[4]
        >>> entry["name"]
        'x of obstacle 1 relative to the agent (always in the same order)'
    """
    task = get_task(task)
    team = task.team(role)
    speeds = {t.name: math.inf if t.max_speed is None else t.max_speed for t in task.teams}
    entries = _pair("own velocity in {}", "length/s", speeds[team.name])
    entries += _pair("own position, {}", "length", math.inf)
    for view in team.views:
        for rank in range(1, view.count + 1):
            entries += _pair(_position(task, team, view, rank), "length", math.inf)
    for view in team.views:
        for rank in range(1, view.count + 1) if view.velocities else ():
            name = f"velocity in {{}} of {_who(task, team, view)} {rank}{_order(view)}"
            entries += _pair(name, "length/s", speeds[view.group])
    if task.agent_id:
        names = task.agent_names[: task.n_agents]
        entries += [(f"1 if the agent is {name}, else 0", "", 0.0, 1.0) for name in names]
    return [
        {"index": i, "name": name, "unit": unit, "low": low, "high": high}
        for i, (name, unit, low, high) in enumerate(entries)
    ]


def _pair(name: str, unit: str, bound: float) -> list[tuple[str, str, float, float]]:
    return [(name.format(axis), unit, -bound, bound) for axis in _AXES]


def _position(task: MPETask, team: Team, view: View, rank: int) -> str:
    return f"{{}} of {_who(task, team, view)} {rank} relative to the agent{_order(view)}"


def _who(task: MPETask, team: Team, view: View) -> str:
    """The group in words; solid landmarks that nobody is to reach are obstacles."""
    if view.group == LANDMARK:
        return "landmark" if not task.solid_landmarks else "obstacle"
    return f"other {view.group}" if view.group == team.name else view.group


def _order(view: View) -> str:
    return f" ({_FIXED.get(view.order, 'nearest first')})"
