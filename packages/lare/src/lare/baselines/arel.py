"""Agent-temporal attention for reward redistribution (AREL)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lare.baselines._attention import Block, TeamEmbedding, masked, over_time
from lare.episodes import EpisodeBatch
from lare.errors import ConfigError


class AREL(nn.Module):
    """Rewards the team at every step, from all agents' steps so far.

    Blocks of attention alternate between an agent's earlier steps and the agents at a step. The sum
    over the agents gives one reward per step; the order of the agents does not matter, nor what
    comes later. The loss is the squared gap of the rewards' sum to the return, plus a multiple of
    their variance within an episode.

    The team's reward is paid in equal parts: every agent gets one ``n_agents``-th, so that the sum
    over the agents is the team's reward.

    Args:
        n_features: D.
        n_agents: of the team.
        hidden: width.
        depth: pairs of blocks.
        heads: of the attention, each of width ``hidden // heads``.
        variance_weight: of the variance.
        standardize: rows from which the inputs' mean and scale are learned; 0 for none, as
            published.

    Raises:
        ConfigError: if a size is not positive, or ``variance_weight`` negative.

    Time is encoded by waves, which know no longest episode; normalization stands before each layer.

    Reference: arXiv 2412.11120, baseline AREL (next observations, width 128, 3 pairs, 3 heads,
    weight 20).
    """

    def __init__(
        self,
        n_features: int,
        n_agents: int,
        *,
        hidden: int = 128,
        depth: int = 3,
        heads: int = 3,
        variance_weight: float = 20.0,
        standardize: int = 10_000,
    ) -> None:
        super().__init__()
        if depth < 1 or variance_weight < 0:
            raise ConfigError(
                f"depth={depth}, variance_weight={variance_weight}: give a depth of at least 1 and "
                "a weight of at least 0"
            )
        self.n_agents = n_agents
        self.variance_weight = variance_weight
        self.embedding = TeamEmbedding(n_features, n_agents, hidden, heads, standardize)
        self.time_blocks = nn.ModuleList(Block(hidden, heads) for _ in range(depth))
        self.agent_blocks = nn.ModuleList(Block(hidden, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(hidden)
        self.head = nn.Linear(hidden, 1)

    def observe(self, factors: Tensor) -> None:
        """Learn the statistics of the inputs from new rows ``[..., D]``."""
        self.embedding.standardizer.observe(factors)

    def team(self, factors: Tensor, mask: Tensor | None = None) -> Tensor:
        """Rewards of the team.

        Args:
            factors: ``[E, T, agents, D]``, padded at the end of an episode.
            mask: bool ``[E, T]``, True at steps; None where all are.

        Returns:
            ``[E, T]``, 0 where there is no step.
        """
        vectors = self.embedding(factors)
        for time_block, agent_block in zip(self.time_blocks, self.agent_blocks, strict=True):
            vectors = agent_block(over_time(time_block, vectors))
        return masked(self.head(self.norm(vectors).sum(2)).squeeze(-1), mask)

    def rewards(self, factors: Tensor, mask: Tensor | None = None) -> Tensor:
        """Equal parts of :meth:`team` for all agents, ``[E, T, agents]``."""
        parts = self.team(factors, mask) / self.n_agents
        return parts[..., None].repeat(1, 1, self.n_agents)

    def loss(self, batch: EpisodeBatch, generator: torch.Generator) -> Tensor:
        """The loss on some episodes; a scalar with gradient. Nothing is drawn."""
        rewards = self.team(batch.factors, batch.mask)
        gaps = rewards.sum(1) - batch.returns
        spread = variance(rewards, batch.mask)
        return gaps.square().mean() + self.variance_weight * spread.mean()


def variance(rewards: Tensor, mask: Tensor) -> Tensor:
    """Unbiased variance over the steps of each episode.

    Args:
        rewards: ``[E, T]``.
        mask: bool ``[E, T]``, at least one step per episode.

    Returns:
        ``[E]``, 0 for an episode of one step.
    """
    lengths = mask.sum(1)
    means = (rewards * mask).sum(1) / lengths
    deviations = (rewards - means[:, None]) * mask
    return deviations.square().sum(1) / (lengths - 1).clamp(min=1)
