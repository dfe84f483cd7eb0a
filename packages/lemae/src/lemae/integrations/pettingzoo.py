"""PettingZoo: any parallel environment with discrete actions, in the interface of this package.

Needs no extra: the environment that is given brings PettingZoo along. (The grid tasks in
PettingZoo's form are :class:`lemae.envs.ParallelGrid`; this is the way back, for other tasks.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from gymnasium import spaces

from lemae._success import by_reward
from lemae.errors import ConfigError, TaskError
from lemae.integrations._team import Array, Outcome, TeamVectorEnv
from lemae.task import StateEntry, TaskSpec

#: From the state ``[d]`` after a step, its rewards and its infos, by agent, to whether the goal is
#: reached.
Success: TypeAlias = Callable[[Array, Mapping[str, float], Mapping[str, Mapping[str, Any]]], bool]
#: From an environment to its global state, an array of whatever shape.
GlobalState: TypeAlias = Callable[[Any], Any]


class ParallelEnv(Protocol):
    """What is used of a PettingZoo parallel environment, and ``state()`` where it has that."""

    possible_agents: list[str]
    agents: list[str]

    def reset(self, seed: int | None = None) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """Observations and infos by agent."""

    def step(self, actions: dict[str, int]) -> tuple[Mapping[str, Any], ...]:
        """Observations, rewards, terminations, truncations and infos by agent."""

    def observation_space(self, agent: str) -> Any:
        """Space of an agent's observations."""

    def action_space(self, agent: str) -> Any:
        """Space of an agent's actions."""

    def close(self) -> None:
        """Release what it holds."""


class ParallelVectorEnv(TeamVectorEnv):
    """Copies of a parallel environment, stepped one after the other.

    Agents are numbered as in ``possible_agents``. Observations are flattened; those of agents that
    see less than others end in zeros, and those of agents that have left are zeros. Masks are read
    from observations ``{"observation": ..., "action_mask": ...}`` or from infos
    ``{"action_mask": ...}``. Agents with fewer actions than others cannot take the rest; those that
    have left can take action 0 only, which nobody is told.

    An episode ends when it has ended for all agents: by termination if one of them terminated in
    the last step, else by truncation.

    Args:
        copies: environments of one kind.
        episode_limit: steps; None takes the environment's ``max_cycles``.
        state: gives the global state; None calls ``state()``, and joins the agents' observations
            where that is not implemented.
        success: says whether the goal is reached; None takes ``"success"`` or ``"battle_won"`` of
            the infos, true for any agent, where they have it, and else a positive reward of the
            team in the step that terminates the episode. Where rewards are also positive in other
            steps, give a function.
        team_reward: ``"mean"`` or ``"sum"`` of the rewards of the agents that acted.
        task_spec: what anyone is told about the task; None makes one out of the spaces, where they
            have bounds and the state is the environment's own or joined.
        description: goal and rules in plain words, for the ``task_spec`` that is made. A language
            model has to be told them; baselines do without.

    Attributes:
        copies: as given.
        possible_agents: names of the agents.

    Raises:
        ConfigError: if there is no copy, nobody knows the episode limit, or actions are not
            discrete.
        TaskError: if ``task_spec`` is of another task, or there is a description and no bounds.
    """

    def __init__(
        self,
        copies: Sequence[ParallelEnv],
        *,
        episode_limit: int | None = None,
        state: GlobalState | None = None,
        success: Success | None = None,
        team_reward: Literal["mean", "sum"] = "mean",
        task_spec: TaskSpec | None = None,
        description: str = "",
    ) -> None:
        if not copies:
            raise ConfigError("copies is empty: give at least one environment")
        if team_reward not in ("mean", "sum"):
            raise ConfigError(f"team_reward is {team_reward!r}: give 'mean' or 'sum'")
        first = copies[0]
        self.copies = list(copies)
        self.possible_agents = list(first.possible_agents)
        self._total = np.mean if team_reward == "mean" else np.sum
        self._reached = success
        self._seen = [_without_mask(first.observation_space(who)) for who in self.possible_agents]
        self._acted = [_discrete(first, who) for who in self.possible_agents]
        observations, _ = first.reset()
        self._state_of = state or (_own_state if _has_state(first) else None)
        limit = _limit(first) if episode_limit is None else episode_limit
        if task_spec is None:
            task_spec = self._described(first, limit, description, of_state=state is None)
        elif description:
            raise ConfigError("description and task_spec are given: the latter has its own")
        super().__init__(
            len(copies),
            len(self.possible_agents),
            max(int(space.n) for space in self._acted),
            len(self._global_state(first, self._flat(observations))),
            max(spaces.flatdim(space) for space in self._seen),
            limit,
            task_spec,
        )

    def _described(
        self, env: ParallelEnv, limit: int, description: str, *, of_state: bool
    ) -> TaskSpec | None:
        """What the spaces tell of the task; None if they do not tell the range of each number."""
        entries = self._entries(env) if of_state else None
        if entries is None:
            if description:
                raise TaskError(
                    "there is a description, and the state has no bounds that the spaces tell: "
                    "give task_spec=, with the range of each number"
                )
            return None
        return TaskSpec(
            name=str(getattr(env, "metadata", {}).get("name", type(env).__name__)),
            description=description,
            configuration="",
            state=tuple(entries),
            n_agents=len(self.possible_agents),
            actions=tuple(f"action {i}" for i in range(max(int(one.n) for one in self._acted))),
            episode_limit=limit,
        )

    def _entries(self, env: ParallelEnv) -> list[StateEntry] | None:
        if self._state_of is not None:
            space = getattr(env, "state_space", None)
            return None if space is None else _entries("state", space)
        parts = [
            _entries(f"{who} observation", space, or_zero=True)
            for who, space in zip(self.possible_agents, self._seen, strict=True)
        ]
        if any(part is None for part in parts):
            return None
        return [entry for part in parts if part is not None for entry in part]

    def close_extras(self, **kwargs: Any) -> None:
        """Close all copies; called by ``close()``."""
        for env in self.copies:
            env.close()

    def _begin(self, copies: Array, seed: int | None) -> None:
        seeds: list[Any] = [None] * self.num_envs
        if seed is not None:
            seeds = np.random.SeedSequence(seed).generate_state(self.num_envs).tolist()
        for copy in copies:
            observations, infos = self.copies[copy].reset(seed=seeds[copy])
            self._see(copy, observations, infos)

    def _advance(self, actions: Array, active: Array) -> Outcome:
        self._check_available(actions, active)
        reward = np.zeros(self.num_envs)
        terminated, truncated, success = np.zeros((3, self.num_envs), bool)
        for copy in np.flatnonzero(active):
            env, acting = self.copies[copy], list(self.copies[copy].agents)
            numbers = zip(self.possible_agents, self._acted, actions[copy].tolist(), strict=True)
            chosen = {who: int(space.start) + number for who, space, number in numbers}
            observations, rewards, ends, cuts, infos = env.step(
                {who: chosen[who] for who in acting}
            )
            self._see(copy, observations, infos)
            reward[copy] = self._total([rewards[who] for who in acting])
            if all(ends[who] or cuts[who] for who in acting):
                terminated[copy] = any(ends[who] for who in acting)
                truncated[copy] = not terminated[copy]
            said = _said(infos)
            if self._reached is not None:
                success[copy] = self._reached(self._states[copy].copy(), rewards, infos)
            elif said is not None:
                success[copy] = said
            else:
                success[copy] = by_reward(reward[copy] > 0, terminated[copy], _REMEDY)
        return Outcome(reward, terminated, success, truncated)

    def _see(self, copy: Any, observations: Mapping[str, Any], infos: Mapping[str, Any]) -> None:
        """Write down what the agents of a copy see and can do."""
        env, flat = self.copies[copy], self._flat(observations)
        self._states[copy] = self._global_state(env, flat)
        self._observations[copy] = 0
        self._available[copy] = False
        for i, (who, space) in enumerate(zip(self.possible_agents, self._acted, strict=True)):
            self._observations[copy, i, : len(flat[i])] = flat[i]
            if who in env.agents:
                mask = _mask(observations[who], infos.get(who, {}))
                self._available[copy, i, : int(space.n)] = True if mask is None else mask
            else:
                self._available[copy, i, 0] = True

    def _flat(self, observations: Mapping[str, Any]) -> list[Array]:
        """Observation of each agent in one row, zeros if it has none."""
        rows = []
        for who, space in zip(self.possible_agents, self._seen, strict=True):
            if who in observations:
                seen = observations[who]
                seen = seen["observation"] if _is_masked(seen) else seen
                rows.append(np.asarray(spaces.flatten(space, seen), np.float32))
            else:
                rows.append(np.zeros(spaces.flatdim(space), np.float32))
        return rows

    def _global_state(self, env: ParallelEnv, flat: list[Array]) -> Array:
        if self._state_of is None:
            return np.concatenate(flat)
        return np.asarray(self._state_of(env), np.float32).reshape(-1)


def wrap(copies: ParallelEnv | Sequence[ParallelEnv], **options: Any) -> ParallelVectorEnv:
    """Give parallel environments the interface of :func:`lemae.envs.make`.

    Args:
        copies: one, or several of one kind.
        **options: of :class:`ParallelVectorEnv`.

    Example:
        >>> from mpe2 import simple_spread_v3
        >>> copies = [simple_spread_v3.parallel_env(max_cycles=25) for _ in range(4)]
        >>> env = wrap(copies, success=lambda state, rewards, infos: min(rewards.values()) > -0.1)
        >>> state, info = env.reset(seed=0)
        >>> state.shape
        (4, 54)
    """
    return ParallelVectorEnv(copies if isinstance(copies, Sequence) else [copies], **options)


def _entries(name: str, space: Any, *, or_zero: bool = False) -> list[StateEntry] | None:
    """The numbers of a space, flattened; None if one has no bounds.

    Args:
        name: of the whole; its numbers are numbered.
        space: of Gymnasium.
        or_zero: zeros stand for whoever has left.
    """
    flat = spaces.flatten_space(space)
    if not (isinstance(flat, spaces.Box) and flat.is_bounded()):
        return None
    lows, highs = flat.low.reshape(-1).tolist(), flat.high.reshape(-1).tolist()
    if or_zero:
        lows, highs = [min(low, 0) for low in lows], [max(high, 0) for high in highs]
    whole = not np.issubdtype(flat.dtype, np.floating)
    return [
        StateEntry(f"{name} {i}", low, high, integer=whole)
        for i, (low, high) in enumerate(zip(lows, highs, strict=True))
    ]


def _is_masked(observation: Any) -> bool:
    """Whether an observation, or the space of one, comes with a mask."""
    names = {"observation", "action_mask"}
    return isinstance(observation, Mapping) and set(observation.keys()) == names


def _without_mask(space: Any) -> Any:
    return space["observation"] if _is_masked(space) else space


def _mask(observation: Any, info: Mapping[str, Any]) -> Array | None:
    """Which actions an agent can take, where that is said."""
    holder = observation if _is_masked(observation) else info
    return np.asarray(holder["action_mask"]) > 0 if "action_mask" in holder else None


def _discrete(env: ParallelEnv, who: str) -> Any:
    """Space of an agent's actions.

    Raises:
        ConfigError: if it is not discrete.
    """
    space = env.action_space(who)
    if not isinstance(space, spaces.Discrete):
        raise ConfigError(
            f"the actions of {who} are {space}: this package needs discrete actions, so discretize "
            "them first"
        )
    return space


_REMEDY = "give success=, which says of a step whether the goal is reached"


def _said(infos: Mapping[str, Mapping[str, Any]]) -> bool | None:
    """Whether the infos of a step tell of success; None if they say nothing."""
    names = ("success", "battle_won")
    said = [bool(info[name]) for info in infos.values() for name in names if name in info]
    return any(said) if said else None


def _own_state(env: Any) -> Any:
    return env.state()


def _has_state(env: Any) -> bool:
    """Whether the environment, in an episode, has a global state of its own."""
    try:
        env.state()
    except (NotImplementedError, AttributeError):
        return False
    return True


def _limit(env: Any) -> int:
    """Steps of an episode by the environment's own account.

    Raises:
        ConfigError: if it gives none.
    """
    limit = getattr(getattr(env, "unwrapped", env), "max_cycles", None)
    if limit is None:
        raise ConfigError("the environment has no max_cycles: give episode_limit=")
    return int(limit)
