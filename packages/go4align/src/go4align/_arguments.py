"""Checks of constructor arguments, each with an error that names argument, value and way out."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from go4align.errors import ConfigError


def whole(name: str, value: Any, least: int, most: int | None, what: str = "") -> int:
    """A whole number in a range, ends included."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ConfigError(f"{name} is {value!r}: give a whole number from {least} up")
    if value < least or (most is not None and value > most):
        limit = f"from {least} up" if most is None else f"from {least} to {what or most}"
        raise ConfigError(f"{name} is {value}: give a whole number {limit}")
    return int(value)


def number(
    name: str, value: Any, least: float, most: float | None, *, open_ends: bool = False
) -> None:
    """Check a finite number in a range."""
    good = not isinstance(value, bool) and isinstance(value, numbers.Real) and math.isfinite(value)
    if good and open_ends:
        good = least < value and (most is None or value < most)
    elif good:
        good = least <= value and (most is None or value <= most)
    if not good:
        between = f"of at least {least:g}" if most is None else f"between {least:g} and {most:g}"
        raise ConfigError(
            f"{name} is {value!r}: give a finite number {between}" + (", ends excluded" * open_ends)
        )


def one_of(name: str, value: Any, known: tuple[str, ...], more: str = "") -> None:
    """Check a word among known ones."""
    if value not in known:
        choices = ", ".join(f'"{item}"' for item in known)
        raise ConfigError(f"{name} is {value!r}: give one of {choices}" + (more and f" {more}"))


def task_names(tasks: Sequence[str] | None, n_tasks: int) -> tuple[str, ...]:
    """Names of the tasks; their numbers where none are given."""
    if tasks is None:
        return tuple(str(index) for index in range(n_tasks))
    names = tuple(tasks)
    if isinstance(tasks, str) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"tasks is {tasks!r}: give a sequence of names")
    if len(names) != n_tasks or len(set(names)) != n_tasks:
        raise ConfigError(
            f"tasks has {len(names)} names, {len(set(names))} of them different: expected "
            f"{n_tasks} different ones, as n_tasks says"
        )
    return names


def per_task(
    name: str, value: Any, n_tasks: int, *, positive: bool = False
) -> tuple[float, ...] | None:
    """One finite number per task, or one for all unless they must be positive."""
    if value is None:
        return None
    if isinstance(value, Tensor):
        value = value.tolist()
    try:
        numbers = torch.tensor(value, dtype=torch.float64, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"{name} is {value!r}: give {n_tasks} numbers") from error
    if numbers.ndim == 0 and not positive:
        numbers = numbers.expand(n_tasks)
    if numbers.shape != (n_tasks,) or not bool(numbers.isfinite().all()):
        raise ConfigError(
            f"{name} is {value!r}: give {n_tasks} finite numbers, one per task"
            + ("" if positive else ", or one for all")
        )
    if positive and not bool((numbers > 0).all()):
        raise ConfigError(f"{name} is {value!r}: all must be positive; use mask= to drop a task")
    return tuple(numbers.tolist())
