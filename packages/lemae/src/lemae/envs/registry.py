"""Tasks by name, here and in Gymnasium's registry."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import gymnasium

from lemae._suggest import suggest
from lemae.envs import tasks
from lemae.envs.doors import DoorsEnv
from lemae.envs.grid import Blueprint, GridVectorEnv
from lemae.envs.push_box import PushBoxEnv
from lemae.envs.river import RiverEnv
from lemae.errors import ConfigError, TaskError

# Name: what builds the task, the class with its rules, and the number of agents.
_TASKS: dict[str, tuple[Callable[..., Blueprint], type[GridVectorEnv], int]] = {
    "pass": (tasks.pass_, DoorsEnv, 2),
    "large-pass": (tasks.large_pass, DoorsEnv, 2),
    "secret-room": (tasks.secret_room, DoorsEnv, 2),
    "push-box": (tasks.push_box, PushBoxEnv, 2),
    "river": (tasks.river, RiverEnv, 2),
    "pass-single": (tasks.pass_, DoorsEnv, 1),
    "large-pass-single": (tasks.large_pass, DoorsEnv, 1),
    "secret-room-single": (tasks.secret_room, DoorsEnv, 1),
    "push-box-single": (tasks.push_box, PushBoxEnv, 1),
}


def names() -> tuple[str, ...]:
    """The names of all grid tasks, those for one agent last."""
    return tuple(_TASKS)


def make(
    name: str,
    num_envs: int = 1,
    *,
    autoreset: bool = False,
    seed: int | None = None,
    render_mode: str | None = None,
    **options: Any,
) -> GridVectorEnv:
    """Make copies of a grid task.

    Options, by task: all take ``episode_limit``; Pass takes ``size`` (cells per side, 30 as
    published; everything else scales with it, the episode limit from 50 cells up), Secret-Room
    ``target_room`` (1, 2 or 3) and ``compat`` (``"cmae"`` or ``"exact"``).
    See :mod:`lemae.envs.tasks`.

    Args:
        name: one of :func:`names`; those that end in ``-single`` have one agent.
        num_envs: N, the number of copies.
        autoreset: start the next episode of a copy in the step that ends one.
        seed: of the random starts (River); None is random.
        render_mode: None, or ``"rgb_array"`` for the method ``render``.
        **options: of the task.

    Returns:
        A vector environment of Gymnasium's kind.

    Raises:
        TaskError: for an unknown name; the message lists near matches.
        ConfigError: for an option that the task does not take, or a bad value.

    Example:
        >>> env = make("secret-room", num_envs=2, target_room=3)
        >>> state, info = env.reset(seed=0)
        >>> state.tolist()
        [[3.0, 3.0, 2.0, 2.0, 0.0], [3.0, 3.0, 2.0, 2.0, 0.0]]
        >>> state, reward, terminated, truncated, info = env.step([[1, 3], [0, 2]])
        >>> state.tolist()
        [[3.0, 4.0, 3.0, 2.0, 0.0], [3.0, 2.0, 1.0, 2.0, 0.0]]
    """
    if name not in _TASKS:
        raise TaskError(
            f"there is no grid task {name!r}: {suggest(name, _TASKS)}. One of your own is "
            "module:Class"
        )
    build, rules, n_agents = _TASKS[name]
    known = [
        parameter.name
        for parameter in inspect.signature(build).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY
    ]
    for option in options:
        if option not in known:
            raise ConfigError(f"{name} has no option {option!r}: {suggest(option, known)}")
    blueprint = build(name, n_agents, **options)
    return rules(blueprint, num_envs, autoreset=autoreset, seed=seed, render_mode=render_mode)


def gymnasium_id(name: str) -> str:
    """The name of a task in Gymnasium's registry, such as ``lemae/Large-Pass-v0``."""
    return f"lemae/{name.title()}-v0"


def register() -> None:
    """Enter all tasks into Gymnasium's registry; importing :mod:`lemae.envs` does it.

    ``gymnasium.make_vec("lemae/Pass-v0", num_envs=64)`` is then :func:`make`, and
    ``gymnasium.make("lemae/Pass-v0")`` one copy; both take the options of :func:`make`. In a
    program that does not import this module, write ``"lemae.envs:lemae/Pass-v0"``.
    """
    for name in _TASKS:
        if gymnasium_id(name) not in gymnasium.registry:
            gymnasium.register(
                gymnasium_id(name),
                entry_point="lemae.envs.single:GridEnv",
                vector_entry_point="lemae.envs.registry:make",
                kwargs={"name": name},
            )
