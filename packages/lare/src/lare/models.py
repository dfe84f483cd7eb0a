"""Models that learn the reward of a step from the returns of episodes."""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from lare.decoder import RewardDecoder
from lare.episodes import EpisodeBatch, EpisodeStore
from lare.errors import ConfigError
from lare.losses import rd, rrd_on, subset

Loss = Literal["rd", "rd-sum", "rrd", "rrd-unbiased"]


class RewardModel(Protocol):
    """What a :class:`lare.Relabeler` trains; a ``torch.nn.Module`` besides.

    It may also have ``closed_form`` with ``solve(store)``, which takes the place of steps on the
    loss and returns what is left of it, ``rewards_of_rows(store, rows, envs)``, where a reward
    depends on more than the factors of its step, and ``redraw(store, rows, envs, generator)``,
    where it wants other steps in a batch than those drawn.
    """

    def observe(self, factors: Tensor) -> None:
        """Learn the statistics of the inputs from new rows ``[..., D]``."""

    def loss(self, batch: EpisodeBatch, generator: torch.Generator) -> Tensor:
        """The loss on some episodes."""

    def rewards(self, factors: Tensor, mask: Tensor | None = None) -> Tensor:
        """Rewards of single steps ``[..., D]``, or of episodes ``[E, T, ..., D]`` with a mask."""


class Decomposition(nn.Module):
    """A decoder per step, fitted so that its rewards add up to the return.

    With several agents, ``factors`` are ``[E, T, agents, D]``: each agent gets a reward of its own,
    and their sum over the agents is what adds up.

    Args:
        decoder: from factors to rewards.
        loss: ``"rd"``, all steps; ``"rd-sum"``, the same on plain sums (as published for several
            agents); ``"rrd"`` and ``"rrd-unbiased"``, ``k`` random steps.
        k: steps per episode.
        penalty: of the closed form, for a decoder of kind ``"ridge"``.

    Reference: arXiv 2412.11120, objective; arXiv 2111.05024.
    """

    def __init__(
        self,
        decoder: RewardDecoder,
        loss: Loss = "rrd-unbiased",
        k: int = 64,
        *,
        penalty: float = 1e-3,
    ) -> None:
        super().__init__()
        if loss not in ("rd", "rd-sum", "rrd", "rrd-unbiased"):
            raise ConfigError(f'loss is {loss!r}: give "rd", "rd-sum", "rrd" or "rrd-unbiased"')
        if k < 1 or (k == 1 and loss == "rrd-unbiased"):
            raise ConfigError(f"k is {k}: draw at least 1 step per episode, 2 for rrd-unbiased")
        self.decoder = decoder
        self.kind = loss
        self.k = k
        self.penalty = penalty

    @property
    def closed_form(self) -> bool:
        """Whether :meth:`solve` takes the place of steps on the loss."""
        return self.decoder.closed_form

    def observe(self, factors: Tensor) -> None:
        """Learn the statistics of the inputs from new rows."""
        self.decoder.observe(factors)

    def rewards(self, factors: Tensor, mask: Tensor | None = None) -> Tensor:
        """Rewards ``[...]`` of steps ``[..., D]``; each stands for itself, so no mask is needed."""
        predicted: Tensor = self.decoder(factors)
        return predicted

    def loss(self, batch: EpisodeBatch, generator: torch.Generator) -> Tensor:
        """The loss on some episodes; a scalar with gradient."""
        if self.kind in ("rd", "rd-sum"):
            team = team_rewards(self.decoder(batch.factors))
            return rd(team, batch.returns, batch.mask, normalize=self.kind == "rd")
        steps, chosen = subset(batch.mask, self.k, generator)
        rows = torch.arange(len(steps), device=steps.device)[:, None]
        team = team_rewards(self.decoder(batch.factors[rows, steps]))
        lengths = batch.mask.sum(1)
        unbiased = self.kind == "rrd-unbiased"
        return rrd_on(team, batch.returns, chosen, lengths, unbiased=unbiased)

    def solve(self, store: EpisodeStore) -> float:
        """Fit the decoder to every stored episode; returns the mean loss."""
        agents = store.shape[0] if len(store.shape) == 2 else 1
        return self.decoder.fit(*store.sums(), agents=agents, penalty=self.penalty)


def team_rewards(rewards: Tensor) -> Tensor:
    """``[E, T]`` as it is, ``[E, T, agents]`` summed over the agents."""
    return rewards if rewards.ndim == 2 else rewards.sum(-1)
