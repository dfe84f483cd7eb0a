"""Grid tasks with a reward for success alone: Pass, Large-Pass, Secret-Room, Push-Box, River.

Importing this module enters them into Gymnasium's registry. :class:`ParallelGrid` needs the extra
``[pettingzoo]`` and is imported when first used; all the others need gymnasium and NumPy alone.
"""

import importlib
from typing import TYPE_CHECKING, Any

from lemae.envs.drawing import count_visits, render
from lemae.envs.grid import GridVectorEnv
from lemae.envs.maps import GridMap, Switch
from lemae.envs.registry import gymnasium_id, make, names, register
from lemae.envs.single import GridEnv

if TYPE_CHECKING:
    from lemae.envs.pettingzoo import ParallelGrid

__all__ = [
    "GridEnv",
    "GridMap",
    "GridVectorEnv",
    "ParallelGrid",
    "Switch",
    "count_visits",
    "gymnasium_id",
    "make",
    "names",
    "register",
    "render",
]

register()


def __getattr__(name: str) -> Any:
    if name != "ParallelGrid":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = importlib.import_module(f"{__name__}.pettingzoo").ParallelGrid
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
