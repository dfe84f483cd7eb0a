"""Environments of other people's modules: what they owe is checked, what they raise is told."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from numbers import Integral
from typing import Any

import numpy as np

from lemae.errors import LemaeError, ShapeError, TaskError
from lemae.task import TaskSpec

_SIZES = ("num_envs", "n_agents", "n_actions", "d", "episode_limit")


class ForeignEnv:
    """Stands in for an environment, of which it has all attributes.

    Args:
        task: what the user calls it.
        make: returns the environment.
        num_envs: copies that it should have, which ``make`` is called with.
        options: of ``make``.

    Raises:
        ShapeError: here and later, if it returns arrays of another shape than it says.
        TaskError: here and later, if it raises anything, or lacks something.
    """

    def __init__(
        self, task: str, make: Callable[..., Any], num_envs: int, options: Mapping[str, Any]
    ) -> None:
        self._task = task
        what = f"the call with num_envs {num_envs} and options {dict(options)}"
        self._env = self._ask(what, make, num_envs, **options)
        for name in _SIZES:
            size = self._ask(name, getattr, self._env, name, None)
            if not isinstance(size, Integral) or size < 1:
                raise TaskError(f"{self._whose} has {name} {size!r}: give a positive whole number")
        for name in ("reset", "step"):
            if not callable(getattr(self._env, name, None)):
                raise TaskError(
                    f"{self._whose} has no method {name}: see lemae.algos.VectorEnvLike"
                )
        if self._env.num_envs != num_envs:
            raise TaskError(
                f"{self._whose} has {self._env.num_envs} copies, and {num_envs} were asked for: "
                "make as many as the first argument says"
            )
        n_values = getattr(self._env, "n_values", None)
        if n_values is not None and self._ask("n_values", len, n_values) != self._env.d:
            raise TaskError(
                f"{self._whose} has n_values {n_values!r}: give one number for each of the "
                f"{self._env.d} indices of a state, or None"
            )
        spec = getattr(self._env, "task_spec", None)
        if not isinstance(spec, TaskSpec | None):
            raise TaskError(f"{self._whose} has task_spec {spec!r}: give a lemae.TaskSpec or None")
        for name in ("observations", "available"):  # which not every environment has
            if self._ask(name, hasattr, self._env, name):
                setattr(self, name, getattr(self, f"_{name}"))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._env, name)

    def reset(self, **options: Any) -> tuple[np.ndarray, Any]:
        """As of the environment."""
        states, info = self._ask("reset", lambda: _of(2, self._env.reset(**options)))
        return self._states(states), info

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, Mapping[str, Any]]:
        """As of the environment."""
        states, rewards, terminated, truncated, info = self._ask(
            "step", lambda: _of(5, self._env.step(actions))
        )
        copies = (self._env.num_envs,)
        if not isinstance(info, Mapping):
            raise TaskError(f"{self._whose} returns info {info!r} from step: give a dict")
        for name in ("success", "aborted"):
            if name in info:
                info = {**info, name: self._array(f"info[{name!r}]", info[name], copies, "b")}
        return (
            self._states(states),
            self._array("rewards", rewards, copies, "biuf"),
            self._array("terminated", terminated, copies, "b"),
            self._array("truncated", truncated, copies, "b"),
            info,
        )

    def _states(self, states: Any) -> np.ndarray:
        return self._array("states", states, (self._env.num_envs, self._env.d), "biuf")

    def _observations(self, states: np.ndarray) -> np.ndarray:
        found = self._ask("observations", self._env.observations, states)
        shape = (len(states), self._env.n_agents, *np.shape(found)[2:3])
        return self._array("observations", found, shape, "biuf")

    def _available(self) -> np.ndarray:
        shape = (self._env.num_envs, self._env.n_agents, self._env.n_actions)
        return self._array("available", self._ask("available", self._env.available), shape, "b")

    @property
    def _whose(self) -> str:
        return f"the environment of {self._task!r}"

    def _ask(self, what: str, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        try:
            return call(*arguments, **options)
        except LemaeError:
            raise
        except (Exception, SystemExit) as error:
            raise TaskError(f"{self._whose} failed in {what}: {_told(error)}") from error

    def _array(self, what: str, value: Any, shape: tuple[int, ...], kinds: str) -> np.ndarray:
        array: np.ndarray = self._ask(what, np.asarray, value)
        if array.shape != shape:
            raise ShapeError(f"{self._whose} gives {what} of shape {array.shape}, not {shape}")
        if array.dtype.kind not in kinds:
            wanted = "bool" if kinds == "b" else "numbers"
            raise TaskError(f"{self._whose} gives {what} of type {array.dtype}, not {wanted}")
        return array


def _of(count: int, values: Any) -> tuple[Any, ...]:
    found = tuple(values)
    if len(found) != count:
        raise TypeError(f"it returns {len(found)} values, not {count}")
    return found


def _told(error: BaseException) -> str:
    """Type and message of an error of foreign code, and the line that raised it."""
    *_, place = traceback.extract_tb(error.__traceback__)
    where = "" if place.filename == __file__ else f" ({place.filename}, line {place.lineno})"
    return f"{type(error).__name__}: {error}{where}"
