"""Environments with episodic reward: wrappers for any environment, and multi-agent tasks.

Names are imported when first used. :class:`ParallelMPE` needs the extra ``[mpe]``; all the others
need gymnasium and NumPy alone.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lare.envs.episodic import EpisodicReward, EpisodicRewardVector
    from lare.envs.mpe.layout import layout
    from lare.envs.mpe.pettingzoo import ParallelMPE
    from lare.envs.mpe.tasks import MPETask, Reward, Team, View, get_task, task_ids
    from lare.envs.mpe.vectorized import VectorizedMPE

__all__ = [
    "EpisodicReward",
    "EpisodicRewardVector",
    "MPETask",
    "ParallelMPE",
    "Reward",
    "Team",
    "VectorizedMPE",
    "View",
    "get_task",
    "layout",
    "task_ids",
]

_HOMES = {
    "EpisodicReward": "episodic",
    "EpisodicRewardVector": "episodic",
    "MPETask": "mpe.tasks",
    "ParallelMPE": "mpe.pettingzoo",
    "Reward": "mpe.tasks",
    "Team": "mpe.tasks",
    "VectorizedMPE": "mpe.vectorized",
    "View": "mpe.tasks",
    "get_task": "mpe.tasks",
    "layout": "mpe.layout",
    "task_ids": "mpe.tasks",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
