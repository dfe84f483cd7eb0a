"""What a task is about, and what each number of its observation and action means."""

from __future__ import annotations

import difflib
import inspect
import json
import math
import os
import re
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lare._kit.files import write_text_atomic
from lare.errors import TaskError

if TYPE_CHECKING:
    import gymnasium
    from gymnasium.spaces import Space

_DATA = "tasks"


@dataclass(frozen=True)
class Entry:
    """One number of an observation or action.

    Attributes:
        name: what it is, in words.
        unit: such as ``"m/s"``; empty without one.
        low: smallest value, None if unbounded.
        high: largest value, None if unbounded.
    """

    name: str
    unit: str = ""
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        if self.low is not None and self.high is not None and self.low > self.high:
            raise TaskError(f"{self.name}: low is {self.low} and high {self.high}: swap them")

    def __str__(self) -> str:
        """One line for a reader: name, unit, range."""
        unit = f" ({self.unit})" if self.unit else ""
        if self.low is None and self.high is None:
            return f"{self.name}{unit}"
        low = "-inf" if self.low is None else f"{self.low:g}"
        high = "inf" if self.high is None else f"{self.high:g}"
        return f"{self.name}{unit}, from {low} to {high}"


@dataclass(frozen=True)
class TaskSpec:
    """A task in words, entry by entry: all that the language model is told.

    Attributes:
        name: id of the task, such as ``"Pendulum-v1"``.
        description: body, goal, what is penalised; not the formula of the reward.
        observation: meaning of each entry, in order.
        action: meaning of each entry, in order. A discrete action with n choices is given to
            functions as n numbers, 1 at the chosen one; then these are the choices.
        discrete: whether the actions are such choices.
        agents: number of agents that share the function, each with its own observation.
        horizon: steps of an episode, None if unknown.

    Example:
        >>> task = TaskSpec(
        ...     "Cart",
        ...     "Bring a cart to the origin and let it rest there, with little force.",
        ...     observation=(Entry("position", "m"), Entry("velocity", "m/s")),
        ...     action=(Entry("force", "N", -1, 1),),
        ... )
        >>> print(task.observation_text())
        observation[:, 0]: position (m)
        observation[:, 1]: velocity (m/s)
    """

    name: str
    description: str
    observation: tuple[Entry, ...]
    action: tuple[Entry, ...] = ()
    discrete: bool = False
    agents: int = 1
    horizon: int | None = None

    def __post_init__(self) -> None:
        if not self.name or not self.description.strip():
            raise TaskError("a task needs a name and a description in words")
        if not self.observation:
            raise TaskError(f"{self.name}: name the entries of the observation, one Entry each")
        for what in ("observation", "action"):
            entries = getattr(self, what)
            if not isinstance(entries, (tuple, list)) or not all(
                isinstance(entry, Entry) for entry in entries
            ):
                raise TaskError(
                    f"{self.name}: {what} is {entries!r}: give a tuple, one Entry per number"
                )
            object.__setattr__(self, what, tuple(entries))
        if self.agents < 1:
            raise TaskError(f"{self.name}: agents is {self.agents}, at least 1 is needed")

    @classmethod
    def shipped(cls, name: str) -> TaskSpec:
        """Read one of the tasks that come with the package; see :func:`shipped_tasks`.

        Args:
            name: its id. Other versions of an environment are named in the error where they differ.

        Raises:
            TaskError: if there is none of that name; near ones are listed.
        """
        path = resources.files("lare") / _DATA / f"{name}.json"
        if name not in shipped_tasks():
            near = difflib.get_close_matches(name, shipped_tasks(), n=3, cutoff=0.4)
            hint = f"; near it are {', '.join(near)}" if near else ""
            raise TaskError(
                f"no task {name!r} is shipped{hint}: build a TaskSpec, or take "
                "TaskSpec.from_env(env)"
            )
        return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))

    @classmethod
    def from_env(
        cls,
        env: gymnasium.Env[Any, Any],
        description: str | None = None,
        *,
        observation: tuple[Entry, ...] | None = None,
        action: tuple[Entry, ...] | None = None,
    ) -> TaskSpec:
        """Describe an environment: as shipped for its id, or from its own documentation.

        Args:
            env: a Gymnasium environment with a one-dimensional Box observation and a Box or
                Discrete action.
            description: in words; None takes the environment's docstring without what it says
                about rewards.
            observation: meaning of each entry; None takes the names that the environment gives
                (``observation_structure``), or "entry 0" and so on, which tells a language model
                little.
            action: meaning of each entry or choice.

        Raises:
            TaskError: if a space is not supported, or nothing describes the environment.
        """
        unwrapped = env.unwrapped
        name = env.spec.id if env.spec is not None else type(unwrapped).__name__
        size, n_actions, discrete = sizes(env.observation_space, env.action_space)
        if name in shipped_tasks() and description is None and observation is None:
            known = cls.shipped(name)
            horizon = env.spec.max_episode_steps if env.spec is not None else None
            known.check(env.observation_space, env.action_space)
            return replace(known, horizon=horizon or known.horizon)
        text = description or _without_reward(inspect.getdoc(type(unwrapped)) or "")
        if not text.strip():
            raise TaskError(
                f"{name} has no docstring to describe it: pass description=, what the body is, "
                "what is to be reached and what is penalised"
            )
        task = cls(
            name,
            text,
            observation=observation or _entries(env.observation_space, size, "entry"),
            action=action
            or _entries(env.action_space, n_actions, "choice" if discrete else "entry"),
            discrete=discrete,
            horizon=env.spec.max_episode_steps if env.spec is not None else None,
        )
        task.check(env.observation_space, env.action_space)
        return task

    def check(self, observation_space: Space[Any], action_space: Space[Any]) -> None:
        """Compare with the spaces of an environment.

        Raises:
            TaskError: if a count differs, or a space is not supported.
        """
        size, n_actions, discrete = sizes(observation_space, action_space)
        if size != len(self.observation):
            raise TaskError(
                f"{self.name} describes {len(self.observation)} entries of the observation, the "
                f"environment has {size}: another version of it may order them otherwise, so "
                "describe this one"
            )
        if self.action and (n_actions, discrete) != (len(self.action), self.discrete):
            kind = "discrete choices" if discrete else "entries"
            mine = "discrete choices" if self.discrete else "entries"
            raise TaskError(
                f"{self.name} describes an action of {len(self.action)} {mine}, the environment "
                f"has {n_actions} {kind}"
            )

    def observation_text(self) -> str:
        """The observation, one line per entry."""
        return "\n".join(
            f"observation[:, {i}]: {entry}" for i, entry in enumerate(self.observation)
        )

    def action_text(self) -> str:
        """The action, one line per entry or choice."""
        suffix = " (1 where chosen, else 0)" if self.discrete else ""
        return "\n".join(f"action[:, {i}]: {e}{suffix}" for i, e in enumerate(self.action))

    def as_dict(self) -> dict[str, Any]:
        """The task in JSON's types."""
        return asdict(self)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it as JSON, for the option ``--spec`` of the command line."""
        return write_text_atomic(Path(path), json.dumps(self.as_dict(), indent=1) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TaskSpec:
        """The reverse of :meth:`save`.

        Raises:
            TaskError: if the file is missing, or does not describe a task.
        """
        try:
            return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise TaskError(
                f"{path} does not describe a task ({error}): write it with TaskSpec.save"
            ) from error

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> TaskSpec:
        """The reverse of :meth:`as_dict`."""
        data = dict(data)
        for key in ("observation", "action"):
            data[key] = tuple(Entry(**entry) for entry in data.get(key, ()))
        return cls(**data)


def shipped_tasks() -> list[str]:
    """Ids of the tasks whose description comes with the package."""
    folder = resources.files("lare") / _DATA
    return sorted(p.name[: -len(".json")] for p in folder.iterdir() if p.name.endswith(".json"))


def sizes(observation_space: Space[Any], action_space: Space[Any]) -> tuple[int, int, bool]:
    """Count what a function gets: observation entries, action numbers, whether these are choices.

    Raises:
        TaskError: if a space is neither a one-dimensional Box nor (for actions) Discrete.
    """
    from gymnasium.spaces import Box, Discrete

    if not isinstance(observation_space, Box) or len(observation_space.shape) != 1:
        raise TaskError(
            f"the observation space is {observation_space}: latent reward functions read a "
            "one-dimensional Box. Wrap the environment in gymnasium.wrappers.FlattenObservation "
            "for Dict and Tuple, or pass a feature map as features= for images"
        )
    if isinstance(action_space, Discrete):
        return observation_space.shape[0], int(action_space.n), True
    if isinstance(action_space, Box) and len(action_space.shape) == 1:
        return observation_space.shape[0], action_space.shape[0], False
    raise TaskError(
        f"the action space is {action_space}: a one-dimensional Box or Discrete is supported. "
        "Wrap the environment so that its actions are one of these"
    )


def numbers(actions: Any, action_space: Space[Any]) -> np.ndarray:
    """Actions as functions read them: float32 ``[B, A]``, discrete ones as 1 at the choice."""
    from gymnasium.spaces import Discrete

    actions = np.asarray(actions)
    if isinstance(action_space, Discrete):
        chosen = actions.reshape(-1).astype(np.int64) - int(action_space.start)
        choices: np.ndarray = np.eye(int(action_space.n), dtype=np.float32)[chosen]
        return choices
    rows: np.ndarray = actions.astype(np.float32, copy=False).reshape(len(actions), -1)
    return rows


def _entries(space: Any, count: int, word: str) -> tuple[Entry, ...]:
    low = getattr(space, "low", None)
    high = getattr(space, "high", None)

    def bound(values: Any, index: int) -> float | None:
        if values is None or not math.isfinite(values[index]):
            return None
        return float(values[index])

    return tuple(Entry(f"{word} {i}", "", bound(low, i), bound(high, i)) for i in range(count))


def _without_reward(text: str) -> str:
    """A docstring without what it says about rewards: the model is to find that out by itself.

    Sections on rewards, arguments (which name weights of the reward) and versions go, with their
    subsections; of the rest, lines that speak of rewards.
    """
    kept: list[str] = []
    skipped = 0  # level of the section that is left out, 0 for none
    for line in text.splitlines():
        level = len(line) - len(line.lstrip("#"))
        if level and (not skipped or level <= skipped):
            unwanted = re.search("reward|argument|version|reference", line, re.IGNORECASE)
            skipped = level if unwanted else 0
        if not skipped and "reward" not in line.lower():
            kept.append(line)
    return "\n".join(kept).strip()
