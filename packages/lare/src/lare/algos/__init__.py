"""A compact PPO with shared parameters for the multi-agent tasks of :mod:`lare.envs`."""

from lare.algos.credit import DecompositionSettings
from lare.algos.mpe import MPESettings, evaluate, load_policies, method_names, train
from lare.algos.policy import ActorCritic
from lare.algos.ppo import PPO, PPOSettings, advantages

__all__ = [
    "PPO",
    "ActorCritic",
    "DecompositionSettings",
    "MPESettings",
    "PPOSettings",
    "advantages",
    "evaluate",
    "load_policies",
    "method_names",
    "train",
]
