"""Other ways to find a sparse reward, on the same learners and with the same aids.

:func:`create` makes what adds to the rewards of episodes: ``alpha * reward + bonus``. CMAE is a
learner of its own, :class:`CMAE`.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from lemae._suggest import suggest
from lemae.errors import ConfigError
from lemae.task import TaskSpec

if TYPE_CHECKING:
    import numpy as np

    from lemae.algos.rollout import Episodes
    from lemae.baselines.cmae import CMAE, CMAESettings
    from lemae.baselines.count import CountBonus
    from lemae.baselines.dense import DenseRewards
    from lemae.baselines.discriminator import DiscriminatorBonus
    from lemae.baselines.her import HerBonus
    from lemae.baselines.llm_reward import RewardBonus, RewardFunction
    from lemae.baselines.reward_generation import generate_reward
    from lemae.baselines.rnd import RandomDistillation

__all__ = [
    "BASELINES",
    "CMAE",
    "Baseline",
    "Bonus",
    "CMAESettings",
    "CountBonus",
    "DenseRewards",
    "DiscriminatorBonus",
    "HerBonus",
    "RandomDistillation",
    "RewardBonus",
    "RewardFunction",
    "create",
    "generate_reward",
    "names",
]

# Imported when first used: the command line lists the names without loading torch.
_HOMES = {
    "CMAE": "cmae",
    "CMAESettings": "cmae",
    "CountBonus": "count",
    "DenseRewards": "dense",
    "DiscriminatorBonus": "discriminator",
    "HerBonus": "her",
    "NoBonus": "dense",
    "RandomDistillation": "rnd",
    "RewardBonus": "llm_reward",
    "RewardFunction": "llm_reward",
    "generate_reward": "reward_generation",
}


class Bonus(Protocol):
    """What a baseline adds to the rewards."""

    def observe(self, episodes: Episodes) -> None:
        """Take note of new episodes: of each once, before its bonus is asked for."""

    def bonus(self, episodes: Episodes) -> np.ndarray:
        """For episodes, new or replayed, by what is known now: float64 ``[T, B]``.

        It is 0 behind the end of an episode, and has its weight in it.
        """

    def state_dict(self) -> dict[str, Any]:
        """Everything learned: tensors, arrays and plain values."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken, bit for bit."""


@dataclass(frozen=True)
class Baseline:
    """One of them.

    Attributes:
        text: what it does, in a line.
        home: name of its class; what this takes by keyword are the options.
        build: from the class, the environment, the key states, the seed, and options.
        more: further options.
    """

    text: str
    home: str
    build: Callable[..., Bonus]
    more: tuple[str, ...] = ()

    def options(self) -> list[str]:
        """Names of the options."""
        parameters = inspect.signature(_load(self.home)).parameters.values()
        own = [
            parameter.name for parameter in parameters if parameter.default is not parameter.empty
        ]
        return sorted({*own, *self.more} - {"seed"})


def _for_task(home: Any, env: Any, key_states: Any, seed: int, **options: Any) -> Bonus:
    task = env if isinstance(env, TaskSpec) else getattr(env, "task_spec", None)
    if not isinstance(task, TaskSpec):
        raise ConfigError(
            "the ranges of the state are not known: give an environment with a task_spec, or a "
            "TaskSpec"
        )
    made: Bonus = home.for_task(task, seed=seed, **options)
    return made


def _her(home: Any, env: Any, key_states: Any, seed: int, **options: Any) -> Bonus:
    made: Bonus = home(seed=seed, **options)
    return made


def _discriminator(home: Any, env: Any, key_states: Any, seed: int, **options: Any) -> Bonus:
    if key_states is None:
        raise ConfigError('"discriminator" pays for key states: give key_states=')
    made: Bonus = home(**options)  # episodes come with their chains
    return made


def _llm_reward(
    home: Any, env: Any, key_states: Any, seed: int, *, path: Any = None, **options: Any
) -> Bonus:
    if path is None:
        raise ConfigError(
            '"llm-reward" needs a reward function: give path=, a .py file or a folder that '
            "lemae.baselines.generate_reward wrote"
        )
    made: Bonus = home(_load("RewardFunction").from_path(path), **options)
    return made


def _dense(home: Any, env: Any, key_states: Any, seed: int) -> Bonus:
    made: Bonus = home(env)
    return made


BASELINES = {
    "count": Baseline(
        "pays for rare cells of the state space, agent by agent", "CountBonus", _for_task, ("bins",)
    ),
    "dense": Baseline("the environment's own dense reward, an upper bound", "NoBonus", _dense),
    "discriminator": Baseline(
        "pays for each key state met, not for the way there", "DiscriminatorBonus", _discriminator
    ),
    "her": Baseline(
        "pays for getting nearer to later states of the same episode", "HerBonus", _her
    ),
    "llm-reward": Baseline(
        "pays what a function written by a language model says",
        "RewardBonus",
        _llm_reward,
        ("path",),
    ),
    "rnd": Baseline(
        "pays for states that a network has not learned to predict", "RandomDistillation", _for_task
    ),
}


def names() -> tuple[str, ...]:
    """The names of all baselines."""
    return tuple(BASELINES)


def create(name: str, env: Any, key_states: Any = None, *, seed: int = 0, **options: Any) -> Bonus:
    """Make a baseline by its name.

    Args:
        name: one of :func:`names`.
        env: the environment, or its :class:`lemae.TaskSpec` (``"dense"`` needs the environment).
        key_states: for ``"discriminator"``.
        seed: of all that is random in it.
        options: of ``"count"`` :class:`CountBonus` and ``bins``, of ``"rnd"``
            :class:`RandomDistillation`, of ``"her"`` :class:`HerBonus`, of ``"discriminator"``
            ``scale``, of ``"llm-reward"`` ``path``, a ``.py`` file or a saved folder, and
            ``scale``.

    Raises:
        ConfigError: if the name or an option is unknown, or something that it needs is missing.
    """
    if name not in BASELINES:
        raise ConfigError(f"there is no baseline {name!r}: {suggest(name, names())}")
    baseline = BASELINES[name]
    known = baseline.options()
    for option in options:
        if option not in known:
            raise ConfigError(f"{name!r} has no option {option!r}: {suggest(option, known)}")
    return baseline.build(_load(baseline.home), env, key_states, seed, **options)


def _load(name: str) -> Any:
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = _load(name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
