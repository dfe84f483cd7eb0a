"""The multi-agent particle tasks, as data: who is in them, what they see, what they earn.

Both simulators, the layouts and the tests read these records; no other module knows a task by name.
All lengths are in the world's unit, all speeds in units per second; a step lasts 0.1 s.

What the published description fixes (number of agents, observation sizes, radii, rewards) is kept.
What it leaves open is ours, and results depend on it:

* A task's radius is half the side of the square in which everything starts, uniformly at random.
* Sizes, accelerations and speed limits are those of mpe2's ``simple_spread`` and ``simple_tag``;
  Triangle Area has agents of mpe2's default size 0.05 and obstacles that push back.
* Predator-Prey shows each predator the nearest 3, 4 or 6 obstacles, always 5 other predators, and
  the nearest 2, 3 or 5 preys with their velocities: sizes 28, 34 and 46.
* Competitive Predator-Prey shows both roles everybody's relative position and no velocities but
  their own: 24 entries for either, then the agent's number as 8 further entries (one-hot).
* Preys of the cooperative tasks follow a script (:mod:`lare.envs.mpe.evader`) where the publication
  uses trained, frozen networks: its numbers and ours do not compare.
* Nobody pays for leaving the starting square. The script turns around at its border.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from lare.errors import ConfigError

LANDMARK = "landmark"
ACTION_MEANINGS = ("stay", "left", "right", "down", "up")
ACTION_DIRECTIONS = np.array([[0.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [0.0, -1.0], [0.0, 1.0]])
ACTION_DIRECTIONS.setflags(write=False)


@dataclass(frozen=True)
class View:
    """Members of one group as an agent sees them: their positions relative to its own.

    Attributes:
        group: A team's name, or ``"landmark"``. An agent never sees itself.
        count: How many of them.
        order: ``"nearest"`` first, equal distances by index; ``"index"``: always the same order;
            ``"xy"``: by rising x, equal x by y, then by index.
        velocities: Whether their velocities follow after the positions of all views.
    """

    group: str
    count: int
    order: Literal["nearest", "index", "xy"] = "nearest"
    velocities: bool = False


@dataclass(frozen=True)
class Reward:
    """What an agent earns per step, from the positions after the step.

    ``constant + distance * d + contact * n + area * A``: ``d`` is the distance to the nearest
    member of ``nearest``, ``n`` the number of members of ``touching`` nearer than the sum of the
    two sizes, and ``A`` the area of the triangle of the first three agents. An agent touches itself
    if ``touching`` is its own team.

    Attributes:
        constant: Paid always.
        distance: Factor of the distance.
        nearest: The group whose nearest member counts; None: no distance.
        contact: Factor of the number of contacts.
        touching: The group with which contacts count; None: no contacts.
        area: Factor of the triangle's area.
    """

    constant: float = 0.0
    distance: float = 0.0
    nearest: str | None = None
    contact: float = 0.0
    touching: str | None = None
    area: float = 0.0


@dataclass(frozen=True)
class Team:
    """Agents of one role.

    Attributes:
        name: The role.
        count: Number of agents.
        size: Radius of an agent.
        acceleration: Of an action, in units per second squared.
        max_speed: Speed limit; None: only damping limits the speed.
        views: What an agent sees besides its own velocity and position.
        reward: What an agent earns.
        flees: None for agents that learn; a scripted team names the team it runs from.
    """

    name: str
    count: int
    size: float
    acceleration: float = 5.0
    max_speed: float | None = None
    views: tuple[View, ...] = ()
    reward: Reward = Reward()
    flees: str | None = None


@dataclass(frozen=True)
class MPETask:
    """One task. Entities are numbered team by team, then the landmarks.

    Attributes:
        id: Its name.
        radius: Half the side of the square in which all entities start.
        teams: Learning teams first, scripted ones behind them.
        n_landmarks: Number of landmarks; they never move.
        landmark_size: Radius of a landmark.
        solid_landmarks: Whether landmarks push agents away.
        shared_reward: Whether every agent of a team earns the sum of the team's rewards. The team's
            return counts that sum once.
        agent_id: Whether the agent's number ends its observation, one-hot.
        horizon: Steps per episode.

    Raises:
        ConfigError: if the parts do not fit together.
    """

    id: str
    radius: float
    teams: tuple[Team, ...]
    n_landmarks: int
    landmark_size: float = 0.05
    solid_landmarks: bool = False
    shared_reward: bool = False
    agent_id: bool = False
    horizon: int = 25

    def __post_init__(self) -> None:
        scripted = [team.flees is not None for team in self.teams]
        if not self.teams or scripted[0] or scripted != sorted(scripted):
            raise ConfigError(f"{self.id}: list learning teams first, at least one")
        if min(self.n_landmarks, self.horizon, *(team.count for team in self.teams)) < 1:
            raise ConfigError(f"{self.id}: counts and the horizon must be at least 1")
        for team in self.teams:
            self._check_groups(team)
        sizes = {team.name: self.observation_size(team.name) for team in self.learners}
        if len(set(sizes.values())) > 1:
            raise ConfigError(f"{self.id}: observation sizes {sizes} must agree between teams")

    def _check_groups(self, team: Team) -> None:
        named = (team.reward.nearest, team.reward.touching, team.flees)
        for group in filter(None, named):
            self.group(group)
        for view in team.views:
            members = self.group(view.group)
            visible = members.stop - members.start - (view.group == team.name)
            if not 1 <= view.count <= visible:
                raise ConfigError(
                    f"{self.id}: a view of {view.count} from {visible} of group {view.group!r}"
                )
            if view.velocities and view.group == LANDMARK:
                raise ConfigError(f"{self.id}: landmarks have no velocities to see")
        if team.reward.area and self.n_movers < 3:
            raise ConfigError(f"{self.id}: a triangle needs 3 agents, not {self.n_movers}")

    @property
    def learners(self) -> tuple[Team, ...]:
        """The teams that learn."""
        return tuple(team for team in self.teams if team.flees is None)

    @cached_property
    def n_agents(self) -> int:
        """N, the number of learning agents."""
        return sum(team.count for team in self.learners)

    @cached_property
    def n_movers(self) -> int:
        """Number of agents, scripted ones included."""
        return sum(team.count for team in self.teams)

    @cached_property
    def n_entities(self) -> int:
        """Number of agents and landmarks."""
        return self.n_movers + self.n_landmarks

    @cached_property
    def agent_names(self) -> tuple[str, ...]:
        """Names of all agents, learning ones first."""
        return tuple(f"{team.name}_{i}" for team in self.teams for i in range(team.count))

    @property
    def roles(self) -> dict[str, list[int]]:
        """Indices of the learning agents by role."""
        return {
            team.name: list(range(self.group(team.name).start, self.group(team.name).stop))
            for team in self.learners
        }

    @cached_property
    def sizes(self) -> tuple[float, ...]:
        """Radius of every entity."""
        agents = [team.size for team in self.teams for _ in range(team.count)]
        return (*agents, *[self.landmark_size] * self.n_landmarks)

    def group(self, name: str) -> slice:
        """Indices of a group's entities.

        Args:
            name: A team, or ``"landmark"``.

        Raises:
            ConfigError: if there is no such group; lists those there are.
        """
        start = 0
        for team in self.teams:
            if team.name == name:
                return slice(start, start + team.count)
            start += team.count
        if name == LANDMARK:
            return slice(start, start + self.n_landmarks)
        groups = ", ".join([team.name for team in self.teams] + [LANDMARK])
        raise ConfigError(f"{self.id} has no group {name!r}: choose from {groups}")

    def team(self, role: str | None = None) -> Team:
        """The learning team of a role, the first one for None.

        Raises:
            ConfigError: if nobody learns in that role.
        """
        for team in self.learners:
            if role in (None, team.name):
                return team
        known = ", ".join(team.name for team in self.learners)
        raise ConfigError(f"{self.id} has no learning role {role!r}: choose from {known}")

    def observation_size(self, role: str | None = None) -> int:
        """Entries of an observation (of either role: all roles see equally many)."""
        views = self.team(role).views
        seen = sum(view.count * (4 if view.velocities else 2) for view in views)
        return 4 + seen + self.n_agents * self.agent_id


def _navigation(count: int, radius: float) -> MPETask:
    """Cooperative Navigation: be at a landmark, touch nobody.

    Every agent touches itself, which takes the constant 1 away again.
    """
    agent = Team(
        "agent",
        count,
        size=0.15,
        views=(View(LANDMARK, 6), View("agent", 5)),
        reward=Reward(
            constant=1.0, distance=-1.0, nearest=LANDMARK, contact=-1.0, touching="agent"
        ),
    )
    return MPETask(f"cooperative-navigation-{count}", radius, (agent,), n_landmarks=count)


def _predator(count: int, views: tuple[View, ...]) -> Team:
    reward = Reward(distance=-0.1, nearest="prey", contact=10.0, touching="prey")
    return Team("predator", count, 0.075, 3.0, 1.0, views, reward)


def _pursuit(predators: int, preys: int, obstacles: int, seen: int, radius: float) -> MPETask:
    """Cooperative Predator-Prey: predators learn to catch scripted preys."""
    obstacles_seen = {2: 3, 3: 4, 5: 6}[seen]
    views = (
        View(LANDMARK, obstacles_seen),
        View("predator", 5),
        View("prey", seen, velocities=True),
    )
    prey = Team("prey", preys, 0.05, 4.0, 1.3, flees="predator")
    return MPETask(
        f"predator-prey-{predators}",
        radius,
        (_predator(predators, views), prey),
        n_landmarks=obstacles,
        landmark_size=0.2,
        solid_landmarks=True,
    )


def _competition() -> MPETask:
    """Competitive Predator-Prey: six predators and two preys, all of which learn."""
    predator = _predator(6, (View(LANDMARK, 3), View("predator", 5), View("prey", 2)))
    prey = Team(
        "prey",
        2,
        0.05,
        4.0,
        1.3,
        views=(View(LANDMARK, 3), View("predator", 6), View("prey", 1)),
        reward=Reward(contact=-10.0, touching="predator"),
    )
    return MPETask(
        "competitive-predator-prey-6",
        1.5,
        (predator, prey),
        n_landmarks=3,
        landmark_size=0.2,
        solid_landmarks=True,
        agent_id=True,
    )


def _triangle() -> MPETask:
    """Triangle Area: three agents span a large triangle and hit no obstacle."""
    agent = Team(
        "agent",
        3,
        size=0.05,
        views=(View(LANDMARK, 3, "index"), View("agent", 2, "xy")),
        reward=Reward(contact=-1.0, touching=LANDMARK, area=0.1),
    )
    return MPETask(
        "triangle-area-3",
        1.5,
        (agent,),
        n_landmarks=3,
        landmark_size=0.4,
        solid_landmarks=True,
        shared_reward=True,
    )


_TASKS = {
    task.id: task
    for task in (
        _navigation(6, 1.5),
        _navigation(15, 2.2),
        _navigation(30, 3.0),
        _pursuit(6, 2, 3, seen=2, radius=1.5),
        _pursuit(15, 5, 5, seen=3, radius=1.0),
        _pursuit(30, 10, 10, seen=5, radius=1.0),
        _competition(),
        _triangle(),
    )
}


def task_ids() -> tuple[str, ...]:
    """The ids of all tasks."""
    return tuple(_TASKS)


def get_task(task: str | MPETask) -> MPETask:
    """Look a task up.

    Args:
        task: An id, or a task of your own, which is returned as it is.

    Returns:
        The task.

    Raises:
        ConfigError: if there is no such id; the message lists near matches, or else all ids.

    Example:
        >>> get_task("predator-prey-15").observation_size()
        34
    """
    if isinstance(task, MPETask):
        return task
    if task not in _TASKS:
        near = difflib.get_close_matches(str(task), _TASKS, n=3)
        raise ConfigError(
            f"there is no task {task!r}: "
            + (f"did you mean {' or '.join(near)}?" if near else f"choose from {', '.join(_TASKS)}")
        )
    return _TASKS[task]
