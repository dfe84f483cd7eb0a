"""A task by its id: what it is about, and real steps of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lare.envs import VectorizedMPE, task_ids
from lare.errors import TaskError
from lare.task import TaskSpec, shipped_tasks
from lare.transitions import Transitions, collect


def task(name: str, spec: Path | None = None) -> TaskSpec:
    """Describe a shipped task, or a Gymnasium environment by its own documentation.

    Args:
        name: id of the task or environment.
        spec: a file of :meth:`TaskSpec.save`, which describes it instead.

    Raises:
        TaskError: if there is none of that name, or the file does not describe one.
    """
    if spec is not None:
        return TaskSpec.load(spec)
    return TaskSpec.shipped(name) if name in shipped_tasks() else TaskSpec.from_env(_env(name))


def steps(name: str, seed: int = 0, count: int = 512) -> Transitions:
    """Collect real steps under random actions; of a multi-agent task, one row per agent.

    Raises:
        TaskError: if there is no task of that name.
    """
    for known in task_ids():
        for role in ("", "-predator", "-prey"):
            if name == known + role:
                return _agents(known, role[1:] or None, seed, count)
    return collect(_env(name), count, seed)


def _agents(name: str, role: str | None, seed: int, count: int) -> Transitions:
    """Steps of the agents of one role (None for the only one), each agent a row."""
    env = VectorizedMPE(name, 1, seed=seed)
    agents = env.roles[role] if role is not None else list(range(env.n_agents))
    generator = np.random.default_rng(seed)
    rows: list[tuple[Any, ...]] = []
    episode = 0
    observation = env.reset()
    while len(rows) * len(agents) < count:
        actions = generator.integers(env.n_actions, size=(1, env.n_agents))
        following, rewards, terminated, truncated, _ = env.step(actions)
        chosen = np.eye(env.n_actions, dtype=np.float32)[actions[0, agents]]
        numbers = np.full(len(agents), episode)
        rows.append(
            (observation[0, agents], chosen, following[0, agents], rewards[0, agents], numbers)
        )
        observation = following
        if terminated[0] or truncated[0]:
            episode += 1
            observation = env.reset()
    return Transitions(*(np.concatenate(column)[:count] for column in zip(*rows, strict=True)))


def _env(name: str) -> Any:
    import gymnasium

    try:
        return gymnasium.make(name)
    except (gymnasium.error.Error, ImportError) as error:
        raise TaskError(
            f"{name!r} is neither a shipped task ({', '.join(shipped_tasks())}) nor a Gymnasium "
            f"environment that can be made here ({error}). One that a module of this folder "
            "registers is module:Id"
        ) from error
    except Exception as error:
        if ":" not in name:
            raise
        raise TaskError(f"{name!r} cannot be made: {type(error).__name__}: {error}") from error
