"""Checks of what a caller hands to either simulator."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lare.envs.mpe.tasks import ACTION_MEANINGS, MPETask
from lare.errors import ConfigError

Array = NDArray[Any]

_REQUIRED = ("positions", "velocities")
_OPTIONAL = ("returns", "step", "rng")


def count(name: str, value: Any) -> int:
    """``value`` if it is a whole number of at least 1."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < 1:
        raise ConfigError(f"{name} is {value!r}: give a whole number of at least 1")
    return int(value)


def is_episodic(reward: str) -> bool:
    """Whether the kind of reward is the episodic one."""
    if reward not in ("dense", "episodic"):
        raise ConfigError(f'reward is {reward!r}: give "dense" or "episodic"')
    return reward == "episodic"


def started(step: int | None) -> int:
    """The number of steps taken in this episode."""
    if step is None:
        raise ConfigError("no episode has been started: call reset() first")
    return step


def running(step: int | None, horizon: int) -> int:
    """The same, refusing an episode that is over."""
    if started(step) >= horizon:
        raise ConfigError(f"the episode ended after its {horizon} steps: call reset()")
    return started(step)


def actions(values: ArrayLike, shape: tuple[int, ...]) -> Array:
    """Actions as whole numbers of the given shape."""
    chosen = np.asarray(values)
    if chosen.shape != shape or chosen.dtype.kind not in "iu":
        raise ConfigError(
            f"actions have shape {chosen.shape} and type {chosen.dtype}: give whole numbers of "
            f"shape {shape}"
        )
    if chosen.min() < 0 or chosen.max() >= len(ACTION_MEANINGS):
        bad = chosen[(chosen < 0) | (chosen >= len(ACTION_MEANINGS))][0]
        meanings = ", ".join(f"{i} {word}" for i, word in enumerate(ACTION_MEANINGS))
        raise ConfigError(f"actions contain {bad}: choose from {meanings}")
    return chosen


def solid_pairs(task: MPETask) -> Array:
    """Which agent is pushed by which entity, bool (agents, entities)."""
    pushes = ~np.eye(task.n_movers, task.n_entities, dtype=bool)
    pushes[:, task.n_movers :] = task.solid_landmarks
    return pushes


def state(task: MPETask, given: dict[str, Any], copies: tuple[int, ...]) -> dict[str, Any]:
    """A complete state of float64 arrays; ``copies`` are the leading axes."""
    missing = [key for key in _REQUIRED if key not in given]
    unknown = [key for key in given if key not in _REQUIRED + _OPTIONAL]
    if missing or unknown:
        raise ConfigError(
            f"the state lacks {missing} and has unknown {unknown}: its keys are "
            f"{', '.join(_REQUIRED + _OPTIONAL)}, the first two required"
        )
    shapes = {
        "positions": (*copies, task.n_entities, 2),
        "velocities": (*copies, task.n_movers, 2),
        "returns": (*copies, len(task.roles)),
    }
    checked: dict[str, Any] = {
        key: _finite(key, given.get(key, np.zeros(shape)), shape) for key, shape in shapes.items()
    }
    step = given.get("step", 0)
    if not isinstance(step, int | np.integer) or not 0 <= step <= task.horizon:
        raise ConfigError(f"step is {step!r}: give a whole number from 0 to {task.horizon}")
    places = checked["positions"]
    same = (places[..., : task.n_movers, None, :] == places[..., None, :, :]).all(-1)
    if (same & solid_pairs(task)).any():
        raise ConfigError("positions put two solid entities in exactly the same place: move one")
    rng = {"rng": given["rng"]} if "rng" in given else {}
    return {**checked, "step": int(step), **rng}


def _finite(name: str, values: Any, shape: tuple[int, ...]) -> Array:
    array = np.array(values, dtype=np.float64)
    if array.shape != shape or not np.isfinite(array).all():
        raise ConfigError(f"{name} have shape {array.shape}: give finite numbers of shape {shape}")
    return array
