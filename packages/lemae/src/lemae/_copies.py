"""Which environment copies a call means, and what they do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lemae._arrays import as_array
from lemae.errors import ConfigError, ShapeError


def selected(envs: Any, n_envs: int) -> np.ndarray:
    """Numbers of the copies meant by ``envs``.

    Args:
        envs: None for all, a bool mask ``[N]``, or numbers of copies.
        n_envs: N.

    Returns:
        int64, ascending for None and for a mask, else as given.

    Raises:
        ConfigError: if it is neither, or a number is no copy.
    """
    if envs is None:
        return np.arange(n_envs)
    given = as_array(envs)
    given = given if given.size else given.astype(np.int64)  # [] is of floats to NumPy
    if given.dtype == bool and given.shape == (n_envs,):
        return np.flatnonzero(given)
    if given.dtype.kind not in "iu" or given.ndim > 1:
        raise ConfigError(
            f"envs have shape {given.shape} and type {given.dtype}: give a list of numbers, or a "
            f"bool for each of the {n_envs} copies"
        )
    numbers = given.astype(np.int64).reshape(-1)
    if numbers.size and not 0 <= numbers.min() <= numbers.max() < n_envs:
        raise ConfigError(f"envs are {numbers.tolist()}: the copies are 0 to {n_envs - 1}")
    return numbers


def to_reset(
    envs: Any, n_envs: int, *, started: bool, options: Mapping[str, Any] | None = None
) -> np.ndarray:
    """Numbers of the copies that a reset is for.

    Args:
        envs: as for :func:`selected`.
        n_envs: N.
        started: whether all copies have been reset before.
        options: ``{"reset_mask": mask}``, gymnasium's way to say the same as ``envs``; the mask is
            bool ``[N]`` there and no list of numbers.

    Raises:
        ConfigError: also for other options, and for a first reset that leaves copies out.
    """
    if options:
        if envs is not None or set(options) != {"reset_mask"}:
            raise ConfigError(
                f'options are {sorted(options)}: give {{"reset_mask": mask}}, or envs instead'
            )
        envs = as_array(options["reset_mask"])
        if envs.dtype != bool or envs.shape != (n_envs,):
            raise ConfigError(
                f"reset_mask has shape {envs.shape} and type {envs.dtype}: give a bool for each of "
                f"the {n_envs} copies, or the numbers of copies as envs"
            )
    copies = selected(envs, n_envs)
    if not started and len(np.unique(copies)) < n_envs:
        raise ConfigError("no copy has been started: reset all of them first")
    return copies


def checked_actions(
    actions: Any, shape: tuple[int, int], n_actions: int, meaning: str = ""
) -> np.ndarray:
    """Actions ``[N, n]`` that can be.

    Args:
        actions: as given.
        shape: (N, n).
        n_actions: A, of each agent.
        meaning: what they do, for the message.

    Raises:
        ShapeError: for another shape.
        ConfigError: for actions that do not exist.
    """
    chosen = as_array(actions)
    if chosen.shape != shape:
        raise ShapeError(f"actions have shape {chosen.shape}: give one per copy and agent, {shape}")
    if chosen.dtype.kind not in "iu":
        raise ConfigError(f"actions have type {chosen.dtype}: give whole numbers")
    if chosen.min() < 0 or chosen.max() >= n_actions:
        bad = chosen[(chosen < 0) | (chosen >= n_actions)][0]
        raise ConfigError(f"actions hold {bad}: give {meaning or f'0 to {n_actions - 1}'}")
    return chosen
