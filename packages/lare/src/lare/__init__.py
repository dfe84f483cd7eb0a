"""A reward for every step, learned from the return of whole episodes.

A language model writes once which factors of a step matter (:class:`LatentReward`); a small
:class:`RewardDecoder` learns from returns what each is worth; a :class:`Relabeler` stands between
an environment and any RL algorithm. Nothing needs a key or a network but :func:`generate`.
"""

import importlib
from typing import TYPE_CHECKING, Any

from lare._version import __version__
from lare.errors import LareError

if TYPE_CHECKING:
    from lare import envs, losses
    from lare.decoder import RewardDecoder
    from lare.episodes import EpisodeStore
    from lare.features import RawFeatures
    from lare.generation import generate
    from lare.latent_reward import LatentReward
    from lare.models import Decomposition
    from lare.relabel import Relabeler
    from lare.task import Entry, TaskSpec
    from lare.transitions import Transitions, collect
    from lare.verification import VerificationReport, verify

__all__ = [
    "Decomposition",
    "Entry",
    "EpisodeStore",
    "LareError",
    "LatentReward",
    "RawFeatures",
    "Relabeler",
    "RewardDecoder",
    "TaskSpec",
    "Transitions",
    "VerificationReport",
    "__version__",
    "collect",
    "envs",
    "generate",
    "losses",
    "verify",
]

# Imported when first used: the command line answers --help without loading torch.
_HOMES = {
    "Decomposition": "models",
    "Entry": "task",
    "EpisodeStore": "episodes",
    "LatentReward": "latent_reward",
    "RawFeatures": "features",
    "Relabeler": "relabel",
    "RewardDecoder": "decoder",
    "TaskSpec": "task",
    "Transitions": "transitions",
    "VerificationReport": "verification",
    "collect": "transitions",
    "generate": "generation",
    "verify": "verification",
}


def __getattr__(name: str) -> Any:
    if name in ("envs", "losses"):
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
