"""Key states named by a language model lead multi-agent exploration to sparse rewards."""

import importlib
from typing import TYPE_CHECKING, Any

from lemae._version import __version__
from lemae.errors import LemaeError

if TYPE_CHECKING:
    from lemae import envs
    from lemae.checks import CheckReport, check
    from lemae.explore import KsmtExplorer, RandomActions
    from lemae.generation import generate
    from lemae.instances import InstanceBank
    from lemae.key_states import KeyState, KeyStateSet
    from lemae.ksmt import KSMT, ChainMemory, DagMemory
    from lemae.labels import Labeler, label, order
    from lemae.shir import ShirRelabeler
    from lemae.task import StateEntry, TaskSpec

__all__ = [
    "KSMT",
    "ChainMemory",
    "CheckReport",
    "DagMemory",
    "InstanceBank",
    "KeyState",
    "KeyStateSet",
    "KsmtExplorer",
    "Labeler",
    "LemaeError",
    "RandomActions",
    "ShirRelabeler",
    "StateEntry",
    "TaskSpec",
    "__version__",
    "check",
    "envs",
    "generate",
    "label",
    "order",
]

# Imported when first used: the command line answers --help without loading torch.
_HOMES = {
    "KSMT": "ksmt",
    "ChainMemory": "ksmt",
    "CheckReport": "checks",
    "DagMemory": "ksmt",
    "InstanceBank": "instances",
    "KeyState": "key_states",
    "KeyStateSet": "key_states",
    "KsmtExplorer": "explore",
    "Labeler": "labels",
    "RandomActions": "explore",
    "ShirRelabeler": "shir",
    "StateEntry": "task",
    "TaskSpec": "task",
    "check": "checks",
    "generate": "generation",
    "label": "labels",
    "order": "labels",
}


def __getattr__(name: str) -> Any:
    if name == "envs":
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
