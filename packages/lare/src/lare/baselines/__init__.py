"""Earlier ways to share out a return, as models that a :class:`lare.Relabeler` trains.

One agent, rows ``[..., D]``: :class:`InformationBottleneck`, :class:`Diaster`,
:class:`ReturnGuidance`. Several agents, episodes ``[E, T, agents, D]``: :class:`AREL`,
:class:`STAS`; the bottleneck and :class:`DirectReward` take both. Each is written from
its paper, and its docstring says where it departs from what was published.
"""

from lare.baselines.arel import AREL
from lare.baselines.diaster import Diaster
from lare.baselines.direct import DirectReward
from lare.baselines.ircr import ReturnGuidance
from lare.baselines.stas import STAS
from lare.baselines.vib import InformationBottleneck

__all__ = ["AREL", "STAS", "Diaster", "DirectReward", "InformationBottleneck", "ReturnGuidance"]
