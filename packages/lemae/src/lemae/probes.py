"""States to try key states on: real ones, and ones that no random walk would find soon."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemae._seeds import Purpose, generator
from lemae.errors import ConfigError, ShapeError, TaskError
from lemae.task import TaskSpec

Array = NDArray[Any]

RESETS = 64  # first states that are drawn
KEEP = 5 / 6  # chance that a random action is kept: random walks that get somewhere


@dataclass(frozen=True)
class Probes:
    """States, by the way they were found.

    Attributes:
        reset: first states of episodes, float64 ``[R, d]``; different from each other.
        rollout: states under random actions, ``[M, d]``.
        made: real states with one index pushed to a bound, to 0 or anywhere, and states with every
            index anywhere within its range, ``[P, d]``.
        lows: smallest value per index, observed and declared, ``[d]``.
        highs: largest value.
    """

    reset: Array
    rollout: Array
    made: Array
    lows: Array
    highs: Array

    @property
    def states(self) -> Array:
        """All of them, float64 ``[R + M + P, d]``, the reset states first."""
        return np.concatenate([self.reset, self.rollout, self.made])

    @property
    def d(self) -> int:
        """Length of a state."""
        return int(self.made.shape[1])

    def __len__(self) -> int:
        return len(self.reset) + len(self.rollout) + len(self.made)


def probes(
    env_or_task: Any, n: int = 2048, seed: int = 0, *, task: TaskSpec | None = None
) -> Probes:
    """Collect states of an environment, or make some up from the description of a task.

    Args:
        env_or_task: an environment with N copies (``num_envs``, ``n_agents``, ``n_actions``,
            ``reset``, ``step``, and ``available`` where not every action is possible), which is
            reset and left in the midst of episodes; or a :class:`TaskSpec`, which gives no real
            states.
        n: number of states from rollouts; about as many are made.
        seed: of the resets, the actions and the made ones.
        task: ranges of the state; by default the environment's own ``task_spec``, else what is
            observed.

    Raises:
        ConfigError: if ``n`` is not positive.
        TaskError: if the environment lacks something, or its states do not fit the task.
    """
    if n < 1:
        raise ConfigError(f"n is {n}: give at least 1")
    rng = generator(Purpose.KEY_STATES, seed)
    if isinstance(env_or_task, TaskSpec):
        nothing = np.empty((0, env_or_task.d))
        return _completed(nothing, nothing, env_or_task, n, rng)
    task = task or getattr(env_or_task, "task_spec", None)
    try:
        reset = _resets(env_or_task, rng)
        rollout = _rollout(env_or_task, n, rng)
    except AttributeError as error:
        raise TaskError(
            f"{error}: give an environment with num_envs, n_agents, n_actions, reset and step, or "
            "a TaskSpec"
        ) from error
    if task is not None and task.d != reset.shape[1]:
        raise TaskError(
            f"the task {task.name!r} describes {task.d} indices, the states of the environment "
            f"have {reset.shape[1]}"
        )
    return _completed(reset, rollout, task, n, rng)


def given(states: Any, task: TaskSpec | None = None) -> Probes:
    """Take states that somebody has, instead of collecting them.

    Args:
        states: ``[N, d]``, at least one.
        task: ranges of the state; by default what is in ``states``.

    Raises:
        ShapeError: if it is no such array, or does not fit the task.
    """
    array = np.array(states, np.float64)
    if array.ndim != 2 or not array.size:
        raise ShapeError(f"the states have shape {array.shape}: give [states, indices]")
    if task is not None and task.d != array.shape[1]:
        raise ShapeError(
            f"the states have {array.shape[1]} numbers, the task {task.d}: give states of the task"
        )
    lows, highs, _ = _ranges(array, task)
    nothing = np.empty((0, array.shape[1]))
    return Probes(nothing, array, nothing, lows, highs)


def _resets(env: Any, rng: np.random.Generator) -> Array:
    states = [
        np.array(env.reset(seed=int(rng.integers(2**31)))[0], np.float64)
        for _ in range(max(RESETS // env.num_envs, 1))
    ]
    return np.unique(np.concatenate(states), axis=0)


def _rollout(env: Any, n: int, rng: np.random.Generator) -> Array:
    """States under random actions, each kept for some steps."""
    shape = (env.num_envs, env.n_agents)
    state, _ = env.reset(seed=int(rng.integers(2**31)))
    available = getattr(env, "available", None)
    actions = rng.integers(env.n_actions, size=shape)
    active = np.ones(env.num_envs, dtype=bool)
    states: list[Array] = []
    while sum(map(len, states)) < n:
        renewed = rng.random(shape) > KEEP
        actions = np.where(renewed, rng.integers(env.n_actions, size=shape), actions)
        if available is not None:
            actions = _possible(actions, available(), rng)
        state, _, terminated, truncated, _ = env.step(actions)
        states.append(np.array(state, np.float64)[active])
        if getattr(env, "autoreset", False):
            continue
        active &= ~(np.asarray(terminated) | np.asarray(truncated))
        if not active.any():  # together: not every environment can begin anew in some copies only
            env.reset()
            active[:] = True
    return np.concatenate(states)[:n]


def _possible(actions: Array, available: Array, rng: np.random.Generator) -> Array:
    """The actions, or random available ones where they are not."""
    chance = rng.random(available.shape) * available
    ok = np.take_along_axis(available, actions[..., None], axis=-1)[..., 0]
    return np.where(ok, actions, chance.argmax(axis=-1))


def _completed(
    reset: Array, rollout: Array, task: TaskSpec | None, n: int, rng: np.random.Generator
) -> Probes:
    real = np.concatenate([reset, rollout])
    lows, highs, whole = _ranges(real, task)
    d = len(lows)
    anywhere = _anywhere(rng, (max(n // 2, 1), d), lows, highs, whole)
    bases = real if len(real) else anywhere
    # Four values for each index, several times over where the state is short.
    times = max(n // (8 * d), 1)
    pushed = bases[rng.integers(len(bases), size=4 * d * times)]
    places = np.tile(np.repeat(np.arange(d), 4), times)
    values = np.stack([lows, highs, np.zeros(d), np.zeros(d)], axis=1)
    values = np.tile(values.reshape(-1), times)
    values[3::4] = _anywhere(rng, (times, d), lows, highs, whole).reshape(-1)
    pushed[np.arange(len(pushed)), places] = values
    return Probes(reset, rollout, np.concatenate([pushed, anywhere]), lows, highs)


def _ranges(real: Array, task: TaskSpec | None) -> tuple[Array, Array, Array]:
    """Smallest and largest values, and where all are whole."""
    if task is None:
        return real.min(axis=0), real.max(axis=0), (real == np.floor(real)).all(axis=0)
    lows, highs = task.lows, task.highs
    if len(real):
        lows, highs = np.minimum(lows, real.min(axis=0)), np.maximum(highs, real.max(axis=0))
    return lows, highs, task.integers


def _anywhere(
    rng: np.random.Generator, shape: tuple[int, ...], lows: Array, highs: Array, whole: Array
) -> Array:
    """Values within the ranges, whole where only whole ones occur."""
    part = rng.random(shape)
    values = lows * (1 - part) + (highs + whole) * part
    return np.where(whole, np.minimum(np.floor(values), highs), values)
