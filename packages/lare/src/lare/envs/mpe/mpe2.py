"""One copy of a task in ``mpe2``'s world, agent by agent: what it sees and what it earns.

Written for reading, and apart from :mod:`lare.envs.mpe.vectorized`, which is checked against it.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lare.envs.mpe.evader import escape_direction
from lare.envs.mpe.tasks import MPETask, Team, View
from lare.errors import MissingExtraError

try:
    from mpe2._mpe_utils.core import Action, Agent, Landmark, World
except ImportError as error:
    raise MissingExtraError(
        'the particle world needs mpe2: pip install "lare-rl[mpe]"; '
        "lare.envs.VectorizedMPE has the same tasks without it"
    ) from error

Array = NDArray[Any]


def build_world(task: MPETask) -> Any:
    """Make an ``mpe2`` world of a task's entities, not yet placed.

    Args:
        task: The task.

    Returns:
        The world. Scripted agents act by themselves when it steps.
    """
    world = World()
    world.agents = [_agent(task, team) for team in task.teams for _ in range(team.count)]
    world.landmarks = [_landmark(task) for _ in range(task.n_landmarks)]
    for agent, name in zip(world.agents, task.agent_names, strict=True):
        agent.name = name
    return world


def _agent(task: MPETask, team: Team) -> Any:
    agent = Agent()
    agent.size, agent.accel, agent.max_speed = team.size, team.acceleration, team.max_speed
    agent.silent = True
    agent.action.u, agent.action.c = np.zeros(2), np.zeros(0)
    agent.state.c = np.zeros(0)
    if team.flees is not None:
        agent.action_callback = functools.partial(_flee, task, team.flees)
    return agent


def _landmark(task: MPETask) -> Any:
    landmark = Landmark()
    landmark.size, landmark.collide = task.landmark_size, task.solid_landmarks
    return landmark


def _flee(task: MPETask, feared: str, agent: Any, world: Any) -> Any:
    predators = np.array([other.state.p_pos for other in world.agents[task.group(feared)]])
    action = Action()
    heading = escape_direction(agent.state.p_pos[None], predators, task.radius)[0]
    action.u, action.c = heading * agent.accel, np.zeros(0)
    return action


def observe(task: MPETask, world: Any, index: int) -> Array:
    """What a learning agent sees.

    Args:
        task: The task of the world.
        world: The world.
        index: Number of the agent.

    Returns:
        float32 of shape (D,); ``layout(task, role)`` names the entries.
    """
    agent = world.agents[index]
    views = task.team(_role(task, index)).views
    seen = [(view, _seen(task, world, index, view)) for view in views]
    parts = [agent.state.p_vel, agent.state.p_pos]
    parts += [other.state.p_pos - agent.state.p_pos for _, others in seen for other in others]
    parts += [other.state.p_vel for view, others in seen if view.velocities for other in others]
    if task.agent_id:
        parts.append(np.eye(task.n_agents)[index])
    return np.concatenate(parts).astype(np.float32)


def reward(task: MPETask, world: Any, index: int) -> float:
    """What a learning agent earns for the present positions, before any sharing.

    Args:
        task: The task of the world.
        world: The world.
        index: Number of the agent.

    Returns:
        The reward.
    """
    agent, pay = world.agents[index], task.team(_role(task, index)).reward
    earned = pay.constant
    if pay.nearest is not None:
        group = world.entities[task.group(pay.nearest)]
        earned += pay.distance * min(_distance(agent, other) for other in group)
    if pay.touching is not None:
        group = world.entities[task.group(pay.touching)]
        touched = [other for other in group if _distance(agent, other) < agent.size + other.size]
        earned += pay.contact * len(touched)
    if pay.area:
        earned += pay.area * _triangle_area(*(a.state.p_pos for a in world.agents[:3]))
    return float(earned)


def _role(task: MPETask, index: int) -> str:
    return next(role for role, members in task.roles.items() if index in members)


def _seen(task: MPETask, world: Any, index: int, view: View) -> list[Any]:
    agent = world.agents[index]
    others = [other for other in world.entities[task.group(view.group)] if other is not agent]
    if view.order == "nearest":
        others.sort(key=lambda other: _distance(agent, other))  # stable: equal ones by index
    elif view.order == "xy":
        others.sort(key=lambda other: tuple(other.state.p_pos))
    return others[: view.count]


def _distance(one: Any, other: Any) -> float:
    x, y = other.state.p_pos - one.state.p_pos
    return float(np.sqrt(x * x + y * y))


def _triangle_area(a: Array, b: Array, c: Array) -> float:
    (x1, y1), (x2, y2) = b - a, c - a
    return abs(float(x1 * y2 - x2 * y1)) / 2
