"""Whole episodes of every copy of a task, and who says how random they are."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any, Protocol

import numpy as np
from gymnasium.vector import AutoresetMode

from lemae._success import by_reward
from lemae._values import array
from lemae.errors import ConfigError, ShapeError, TaskError
from lemae.labels import check_chain


class VectorEnvLike(Protocol):
    """Copies of a task, stepped together; those of :func:`lemae.envs.make` are such.

    Two methods are optional: ``observations(states [N, d]) -> [N, n, o]`` where agents do not see
    the state, and ``available() -> bool [N, n, A]`` where not every action can be taken. So is the
    attribute ``n_values``, the number of values of each index of a state of whole numbers.

    An episode that succeeds ends. ``info`` of a step may hold two bool arrays ``[N]``: ``success``,
    needed where rewards are also positive in steps that do not terminate an episode; and
    ``aborted``, where an episode broke off for a reason that is not the task's, such as a lost
    connection. It is dropped and counted.
    """

    num_envs: int
    n_agents: int
    n_actions: int
    d: int
    episode_limit: int

    def reset(self, *, seed: int | None = None) -> tuple[np.ndarray, Mapping[str, Any]]:
        """Begin an episode in every copy: states ``[N, d]`` and info."""

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, Mapping[str, Any]]:
        """Take actions ``[N, n]``: states, rewards, terminated and truncated ``[N]``, info."""


class Actor(Protocol):
    """Whoever chooses actions."""

    def reseed(self, seed: int) -> None:
        """Draw from the numbers of this seed from now on; called before every rollout."""

    def act(
        self,
        states: np.ndarray,
        observations: np.ndarray | None,
        available: np.ndarray | None,
        greedy: bool = False,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Choose actions.

        Args:
            states: ``[B, d]``.
            observations: ``[B, n, o]``; None where every agent sees the state.
            available: bool ``[B, n, A]``; None where every action can be taken.
            greedy: take the likeliest or best action.

        Returns:
            Actions, int64 ``[B, n]``, and their log-probabilities, float32 ``[B, n]``.
        """


class Explorer(Protocol):
    """Says how random each copy acts; :class:`lemae.KsmtExplorer` is one.

    Attributes:
        epsilon: float64 ``[N]``, share of uniformly random actions.
    """

    epsilon: np.ndarray

    def reset(self) -> None:
        """An episode begins in every copy."""

    def advance(self, events: np.ndarray) -> None:
        """Key states were met: int64 ``[E, 2]``, copy and key state."""

    def success(self) -> None:
        """The task was solved for the first time."""


class OnlineLabeler(Protocol):
    """Finds key states while episodes go on; :class:`lemae.Labeler` is one."""

    def reset(self, states: np.ndarray) -> None:
        """An episode begins in every copy, at states ``[N, d]``."""

    def step(self, states: np.ndarray, active: np.ndarray | None = None) -> np.ndarray:
        """Read the next states; returns what was met, int64 ``[E, 2]``, copy and key state."""

    def chain(self, env: int) -> tuple[tuple[int, int], ...]:
        """What the episode of a copy met so far."""


class ActionMixer(Protocol):
    """Replaces actions by random ones; :class:`lemae.RandomActions` is one."""

    def reset(self) -> None:
        """An episode begins in every copy."""

    def mix(
        self, actions: np.ndarray, epsilon: np.ndarray, available: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Actions ``[N, n]``, each random with probability ``epsilon [N]``, and which are."""


class FixedEpsilon:
    """The same share of random actions in every copy.

    Args:
        n_envs: number of copies.
        epsilon: the share.
        after_success: the share once the task was solved; None keeps it.

    Attributes:
        epsilon: float64 ``[n_envs]``.

    Raises:
        ConfigError: if a share is no probability.
    """

    def __init__(self, n_envs: int, epsilon: float, after_success: float | None = None) -> None:
        for name, value in (("epsilon", epsilon), ("after_success", after_success)):
            if value is not None and not 0 <= value <= 1:
                raise ConfigError(f"{name} is {value}: give a number from 0 to 1")
        self.epsilon = np.full(n_envs, epsilon, np.float64)
        self._after_success = after_success

    def reset(self) -> None:
        """Nothing changes."""

    def advance(self, events: np.ndarray) -> None:
        """Nothing changes."""

    def success(self) -> None:
        """Take the share after success."""
        if self._after_success is not None:
            self.epsilon[:] = self._after_success


@dataclass(frozen=True)
class Episodes:
    """Whole episodes: T steps of the longest, B episodes, n agents, A actions.

    What stands after the end of an episode (steps ``t >= lengths[b]``, states after
    ``states[lengths[b], b]``) means nothing.

    Attributes:
        states: float ``[T + 1, B, d]``; ``states[lengths[b], b]`` is the last.
        actions: int64 ``[T, B, n]``, as taken.
        rewards: float64 ``[T, B]``, of the environment: never changed.
        log_probs: float32 ``[T, B, n]``, of the policy's own actions.
        random: bool ``[T, B, n]``, where the action was drawn at random instead.
        epsilon: float32 ``[T, B]``, the probability of that.
        lengths: int64 ``[B]``.
        success: bool ``[B]``.
        terminated: bool ``[B]``; otherwise the episode was cut, and the last state has a value.
        chains: per episode, the key states met: pairs of state index and key state.
        observations: float ``[T + 1, B, n, o]``, None where every agent sees the state.
        available: bool ``[T + 1, B, n, A]``, None where every action can be taken.
    """

    states: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    log_probs: np.ndarray
    random: np.ndarray
    epsilon: np.ndarray
    lengths: np.ndarray
    success: np.ndarray
    terminated: np.ndarray
    chains: list[tuple[tuple[int, int], ...]]
    observations: np.ndarray | None = None
    available: np.ndarray | None = None

    def __len__(self) -> int:
        """B, the number of episodes."""
        return len(self.lengths)

    @property
    def steps(self) -> int:
        """Steps of all episodes together."""
        return int(self.lengths.sum())

    @property
    def valid(self) -> np.ndarray:
        """Where a step belongs to its episode, bool ``[T, B]``."""
        return np.arange(len(self.actions))[:, None] < self.lengths

    def steps_to_success(self) -> int | None:
        """Steps of all copies until the first success, that step included; None without one."""
        if not self.success.any():
            return None
        first = self.lengths[self.success].min()
        return int(np.minimum(self.lengths, first).sum())

    def checked(self, n_agents: int | None = None, n_actions: int | None = None) -> Episodes:
        """These episodes, seen as what the class says, if they are that.

        Args:
            n_agents: n; None for any.
            n_actions: A; None for any.

        Raises:
            ShapeError: if an array has another shape.
            ConfigError: if it holds other values, or a chain is of no such episode.
        """
        steps, count, team = self.actions.shape
        team = team if n_agents is None else n_agents
        shapes: dict[str, tuple[Any, tuple[int | None, ...]]] = {
            "states": (None, (steps + 1, count, None)),
            "actions": (np.int64, (steps, count, team)),
            "rewards": (None, (steps, count)),
            "log_probs": (None, (steps, count, team)),
            "random": (bool, (steps, count, team)),
            "epsilon": (None, (steps, count)),
            "lengths": (np.int64, (count,)),
            "success": (bool, (count,)),
            "terminated": (bool, (count,)),
        }
        if self.observations is not None:
            shapes["observations"] = (None, (steps + 1, count, team, None))
        if self.available is not None:
            shapes["available"] = (bool, (steps + 1, count, team, n_actions))
        chains = [tuple((index(t), index(k)) for t, k in chain) for chain in self.chains]
        seen = Episodes(
            chains=chains,
            **{
                name: array(name, getattr(self, name), shape, dtype, copy=False)
                for name, (dtype, shape) in shapes.items()
            },
        )
        array("lengths", seen.lengths, (count,), np.int64, 0, steps)
        last = math.inf if n_actions is None else n_actions - 1
        array("actions", seen.actions[seen.valid], (None, team), np.int64, 0, last)
        for chain, length in zip(chains, seen.lengths.tolist(), strict=True):
            check_chain(chain, length, 1 + max((k for _, k in chain), default=0))
        return seen

    def select(self, episodes: np.ndarray) -> Episodes:
        """Some of the episodes, copied.

        Args:
            episodes: bool ``[B]``, or numbers of episodes.
        """
        chosen = np.arange(len(self))[episodes]
        longest = int(self.lengths[chosen].max(initial=0))

        def cut(column: np.ndarray | None, extra: int = 0) -> Any:
            return None if column is None else column[: longest + extra, chosen]

        return Episodes(
            cut(self.states, 1),
            cut(self.actions),
            cut(self.rewards),
            cut(self.log_probs),
            cut(self.random),
            cut(self.epsilon),
            self.lengths[chosen],
            self.success[chosen],
            self.terminated[chosen],
            [self.chains[episode] for episode in chosen],
            cut(self.observations, 1),
            cut(self.available, 1),
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Episodes]) -> Episodes:
        """All episodes of several rollouts, side by side in order.

        Raises:
            ShapeError: without a part.
        """
        if not parts:
            raise ShapeError("there are no episodes to put side by side: give at least one part")
        longest = max(len(part.actions) for part in parts)

        def column(name: str, extra: int = 0) -> Any:
            arrays = [getattr(part, name) for part in parts]
            if arrays[0] is None:
                return None
            gaps = [longest + extra - len(array) for array in arrays]
            padded = [
                np.pad(array, [(0, gap), *[(0, 0)] * (array.ndim - 1)])
                for array, gap in zip(arrays, gaps, strict=True)
            ]
            return np.concatenate(padded, 1)

        def row(name: str) -> Any:
            return np.concatenate([getattr(part, name) for part in parts])

        return cls(
            column("states", 1),
            column("actions"),
            column("rewards"),
            column("log_probs"),
            column("random"),
            column("epsilon"),
            row("lengths"),
            row("success"),
            row("terminated"),
            [chain for part in parts for chain in part.chains],
            column("observations", 1),
            column("available", 1),
        )


class Collector:
    """Plays whole episodes in every copy of an environment.

    Args:
        env: the copies. It is reset before every rollout, and must not reset itself.
        labeler: finds key states; None without.

    Attributes:
        labeling_s: seconds spent so far on labels and on the explorer.
        aborted: episodes dropped so far, because they broke off.

    Raises:
        ConfigError: if the environment resets copies by itself.
    """

    def __init__(self, env: VectorEnvLike, labeler: OnlineLabeler | None = None) -> None:
        mode = (getattr(env, "metadata", None) or {}).get("autoreset_mode")
        if mode not in (None, AutoresetMode.DISABLED) or getattr(env, "autoreset", False):
            raise ConfigError(
                "the environment resets copies by itself, so that the last state of an episode is "
                "lost: make it with autoreset=False (in Gymnasium autoreset_mode=DISABLED)"
            )
        self.env = env
        self.labeler = labeler
        self.labeling_s = 0.0
        self.aborted = 0

    def collect(
        self,
        actor: Actor,
        *,
        seed: int,
        explorer: Explorer | None = None,
        mixer: ActionMixer | None = None,
        greedy: bool = False,
    ) -> Episodes:
        """Play one episode in every copy.

        Args:
            actor: chooses actions; reseeded.
            seed: of the starts and of the actor; explorer and mixer have seeds of their own.
            explorer: says how random each copy acts; told of key states and of success.
            mixer: draws random actions; needs an explorer.
            greedy: take the likeliest or best action.

        Returns:
            The episodes that were not aborted, which may be none.

        Raises:
            ConfigError: if there is a mixer without explorer, or rewards do not tell success and
                the environment's info does not either.
            ShapeError: if the environment returns states of another shape than it says.
            TaskError: if an episode does not end within the environment's limit, whole numbers as
                states are followed by others, or a state, an observation or a reward is not finite.
        """
        if mixer is not None and explorer is None:
            raise ConfigError("a mixer of random actions needs an explorer: give explorer=")
        env = self.env
        actor.reseed(seed)
        state, _ = env.reset(seed=seed)
        if state.shape != (env.num_envs, env.d):
            raise ShapeError(
                f"the environment's states have shape {state.shape}, it says "
                f"({env.num_envs}, {env.d}): d must be the length of a state"
            )
        record = _Record(env, state.dtype)
        for part in (explorer, mixer):
            if part is not None:
                part.reset()
        if self.labeler is not None:
            self.labeler.reset(state)
        record.see(0, env, state)
        active = np.ones(env.num_envs, bool)
        step = 0
        while active.any():
            if step == env.episode_limit:
                raise TaskError(
                    f"{int(active.sum())} episodes went on after episode_limit="
                    f"{env.episode_limit} steps: the environment must end or truncate them"
                )
            actions, log_probs = actor.act(
                state, record.observation(step), record.can(step), greedy
            )
            if explorer is not None:
                record.epsilon[step] = explorer.epsilon
                if mixer is not None:
                    actions, record.random[step] = mixer.mix(
                        actions, explorer.epsilon, record.can(step)
                    )
            state, reward, terminated, truncated, info = env.step(actions)
            record.actions[step] = actions
            record.log_probs[step] = log_probs
            step += 1
            record.see(step, env, state)
            won = record.outcome(step, active, reward, terminated, truncated, info)
            self._label(state, active, explorer, won=won)
            np.equal(record.lengths, 0, out=active)
        self.aborted += int(record.aborted.sum())
        copies = range(env.num_envs)
        chains = [() if self.labeler is None else self.labeler.chain(copy) for copy in copies]
        return record.episodes(step, chains)

    def _label(
        self, state: np.ndarray, active: np.ndarray, explorer: Explorer | None, *, won: bool
    ) -> None:
        """Find key states, and tell the explorer."""
        begin = time.perf_counter()
        if self.labeler is not None:
            events = self.labeler.step(state, active)
            if explorer is not None and len(events):
                explorer.advance(events)
        if won and explorer is not None:
            explorer.success()
        self.labeling_s += time.perf_counter() - begin


class _Record:
    """What a rollout writes down, step by step, in arrays as long as the longest episode."""

    def __init__(self, env: VectorEnvLike, dtype: np.dtype[Any]) -> None:
        limit, copies, agents = env.episode_limit, env.num_envs, env.n_agents
        self.states = np.empty((limit + 1, copies, env.d), dtype)
        self.actions = np.empty((limit, copies, agents), np.int64)
        self.rewards = np.zeros((limit, copies))
        self.log_probs = np.empty((limit, copies, agents), np.float32)
        self.random = np.zeros((limit, copies, agents), bool)
        self.epsilon = np.zeros((limit, copies), np.float32)
        self.lengths = np.zeros(copies, np.int64)  # 0 while the episode goes on
        self.success, self.terminated, self.aborted = (np.zeros(copies, bool) for _ in range(3))
        self.observations: list[np.ndarray] = []
        self.available: list[np.ndarray] = []

    def see(self, step: int, env: VectorEnvLike, state: np.ndarray) -> None:
        """Write down what the agents see before the step of this number."""
        if not np.can_cast(state.dtype, self.states.dtype, "same_kind"):
            raise TaskError(
                f"the environment's states were {self.states.dtype} at reset and are {state.dtype} "
                "now, which would be cut: give states of one dtype"
            )
        self.states[step] = state
        if hasattr(env, "observations"):
            self.observations.append(np.array(env.observations(state)))
        if hasattr(env, "available"):
            self.available.append(np.array(env.available()))

    def observation(self, step: int) -> np.ndarray | None:
        return self.observations[step] if self.observations else None

    def can(self, step: int) -> np.ndarray | None:
        return self.available[step] if self.available else None

    def outcome(
        self,
        step: int,
        active: np.ndarray,
        reward: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        info: Mapping[str, Any],
    ) -> bool:
        """Write down what ``step`` steps led to; whether an episode succeeded."""
        self.rewards[step - 1] = np.where(active, reward, 0.0)
        ended = terminated | truncated
        if "aborted" in info:
            aborted = active & info["aborted"]
            self.aborted |= aborted
            ended |= aborted
        ended &= active
        going = active & ~self.aborted
        if "success" in info:
            success = going & info["success"]
        else:
            success = by_reward(going & (reward > 0), terminated, 'put "success" into info')
        if not ended.any():
            return False
        self.lengths[ended] = step
        self.terminated |= ended & terminated
        won = ended & success
        self.success |= won
        return bool(won.any())

    def episodes(self, steps: int, chains: list[tuple[tuple[int, int], ...]]) -> Episodes:
        """All but the aborted episodes; arrays no longer than needed."""
        played = Episodes(
            self.states[: steps + 1],
            self.actions[:steps],
            self.rewards[:steps],
            self.log_probs[:steps],
            self.random[:steps],
            self.epsilon[:steps],
            self.lengths,
            self.success,
            self.terminated,
            chains,
            np.stack(self.observations) if self.observations else None,
            np.stack(self.available) if self.available else None,
        )
        kept = played.select(~self.aborted)
        for name in ("states", "observations", "rewards"):
            _check_finite(name, getattr(kept, name), kept.lengths)
        return kept


def _check_finite(name: str, values: np.ndarray | None, lengths: np.ndarray) -> None:
    """Refuse what a learner would make a broken policy of; behind an end anything may stand."""
    if values is None or np.isfinite(values).all():
        return
    steps = np.arange(len(values))[:, None]
    played = steps < lengths if name == "rewards" else steps <= lengths
    for place in map(tuple, np.argwhere(~np.isfinite(values))):
        if played[place[:2]]:
            raise TaskError(
                f"the environment's {name} hold {values[place]}, at step {place[0]} of an episode: "
                "give finite numbers"
            )
