"""Whole episodes of every copy of a task, by role."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from lare.envs import VectorizedMPE


class Actor(Protocol):
    """Whoever chooses actions; :class:`lare.algos.ActorCritic` is one."""

    def act(self, observations: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Actions and their log-probabilities ``[...]`` for observations ``[..., S]``."""


@dataclass(frozen=True)
class Steps:
    """Whole episodes of one role: T steps, E episodes, n agents.

    Attributes:
        observations: float32 ``[T, E, n, S]``, before each step.
        actions: int64 ``[T, E, n]``.
        log_probabilities: float32 ``[T, E, n]``, of the actions.
        next_observations: float32 ``[T, E, n, S]``, after each step, of the same episode.
        true_rewards: float32 ``[T, E, n]``, what each agent earned.
        team_rewards: float32 ``[T, E]``, what the role earned; a shared reward counts once.
    """

    observations: Tensor
    actions: Tensor
    log_probabilities: Tensor
    next_observations: Tensor
    true_rewards: Tensor
    team_rewards: Tensor

    @property
    def returns(self) -> Tensor:
        """The role's return of each episode, float32 ``[E]``."""
        return self.team_rewards.sum(0)


def play(
    env: VectorizedMPE,
    actors: Mapping[str, Actor],
    generator: torch.Generator,
    *,
    seed: int,
    episodes: int = 1,
) -> dict[str, Steps]:
    """Play whole episodes in all copies.

    Args:
        env: with dense rewards.
        actors: one per role.
        generator: of the actions.
        seed: of the start positions.
        episodes: per copy, one after the other; they stand side by side in the result.

    Returns:
        The steps by role, E = copies times episodes.
    """
    env.reset(seed=seed)
    parts = [_episode(env, actors, generator) for _ in range(episodes)]
    if episodes == 1:
        return parts[0]
    return {role: _side_by_side([part[role] for part in parts]) for role in env.roles}


def _episode(
    env: VectorizedMPE, actors: Mapping[str, Actor], generator: torch.Generator
) -> dict[str, Steps]:
    shape = (env.horizon, env.n_envs, env.n_agents)
    seen = np.empty((env.horizon + 1, *shape[1:], env.observation_size), np.float32)
    actions = np.empty(shape, np.int64)
    log_probabilities = np.empty(shape, np.float32)
    rewards = np.empty(shape, np.float64)
    seen[0] = env.reset()
    for step in range(env.horizon):
        for role, members in _slices(env).items():
            drawn = actors[role].act(torch.from_numpy(seen[step][:, members]), generator)
            actions[step][:, members] = drawn[0].numpy()
            log_probabilities[step][:, members] = drawn[1].numpy()
        seen[step + 1], rewards[step], *_ = env.step(actions[step])
    arrays = (seen[:-1], actions, log_probabilities, seen[1:], rewards)
    return {role: _steps(env, members, *arrays) for role, members in _slices(env).items()}


def _slices(env: VectorizedMPE) -> dict[str, slice]:
    """The agents of each role, which stand side by side."""
    return {role: slice(rows[0], rows[-1] + 1) for role, rows in env.roles.items()}


def _steps(env: VectorizedMPE, members: slice, *arrays: np.ndarray) -> Steps:
    *columns, rewards = (array[:, :, members] for array in arrays)
    # A shared reward is the team's already, repeated for each agent.
    team = rewards[:, :, 0] if env.task.shared_reward else rewards.sum(-1)
    tensors = [torch.from_numpy(np.ascontiguousarray(column)) for column in columns]
    tensors += [torch.from_numpy(values).float() for values in (rewards, team)]
    return Steps(*tensors)


def _side_by_side(parts: list[Steps]) -> Steps:
    columns = [torch.cat([getattr(part, f.name) for part in parts], 1) for f in fields(Steps)]
    return Steps(*columns)
