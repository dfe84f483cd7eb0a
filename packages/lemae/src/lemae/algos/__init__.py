"""Compact learners for teams, which play whole episodes in many copies of a task."""

from lemae.algos.evaluation import WinRates, evaluate
from lemae.algos.ippo import IPPO, IPPOSettings
from lemae.algos.qmix import QLearner, QSettings
from lemae.algos.replay import EpisodeReplay
from lemae.algos.rollout import Actor, Collector, Episodes, Explorer, FixedEpsilon, VectorEnvLike

__all__ = [
    "IPPO",
    "Actor",
    "Collector",
    "EpisodeReplay",
    "Episodes",
    "Explorer",
    "FixedEpsilon",
    "IPPOSettings",
    "QLearner",
    "QSettings",
    "VectorEnvLike",
    "WinRates",
    "evaluate",
]
