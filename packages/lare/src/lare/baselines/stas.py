"""Spatial-temporal return decomposition by approximate Shapley values (STAS)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lare.baselines._attention import Attention, Block, TeamEmbedding, masked, over_time
from lare.episodes import EpisodeBatch
from lare.errors import ConfigError


class STAS(nn.Module):
    """Rewards each agent at each step by what it adds to random coalitions.

    Blocks of attention over an agent's earlier steps come first. Then the agents of a step read
    each other: agent i reads itself and, with probability one half each, the others, and the
    results for a few such coalitions are averaged. A linear layer turns them into rewards, whose
    sum over steps and agents is fitted to the return. Nothing later than a step enters its rewards.

    Coalitions are drawn anew for every loss, per episode. Rewards are read with coalitions drawn
    once, which are part of the state: the same steps always get the same rewards, whatever stands
    beside them in the batch. These few coalitions treat the agents alike only roughly.

    Args:
        n_features: D; observation, and action where it is to be read, side by side.
        n_agents: of the team.
        hidden: width.
        layers: blocks of attention over time.
        heads: of the attention, each of width ``hidden // heads``.
        samples: coalitions that are averaged.
        standardize: rows from which the inputs' mean and scale are learned; 0 for none, as
            published.
        seed: of the coalitions that rewards are read with.

    Raises:
        ConfigError: if a size is not positive.

    Time is encoded by waves, which know no longest episode; normalization stands before each layer.

    Reference: arXiv 2412.11120, baseline STAS (width 128, 3 layers, 4 heads, 5 samples).
    """

    coalitions: Tensor

    def __init__(
        self,
        n_features: int,
        n_agents: int,
        *,
        hidden: int = 128,
        layers: int = 3,
        heads: int = 4,
        samples: int = 5,
        standardize: int = 10_000,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if min(layers, samples) < 1:
            raise ConfigError(f"layers={layers}, samples={samples}: give at least 1 of each")
        self.n_agents = n_agents
        self.samples = samples
        self.embedding = TeamEmbedding(n_features, n_agents, hidden, heads, standardize)
        self.time_blocks = nn.ModuleList(Block(hidden, heads) for _ in range(layers))
        self.agent_norm = nn.LayerNorm(hidden)
        self.agent_attention = Attention(hidden, heads)
        self.norm = nn.LayerNorm(hidden)
        self.head = nn.Linear(hidden, 1)
        self.register_buffer("coalitions", self.draw(1, torch.Generator().manual_seed(seed)))

    def draw(self, episodes: int, generator: torch.Generator) -> Tensor:
        """Draw coalitions.

        Returns:
            bool ``[samples, episodes, agents, agents]``, True where the row's agent reads the
            column's; always on the diagonal. On the generator's device.
        """
        shape = (self.samples, episodes, self.n_agents, self.n_agents)
        device = generator.device
        drawn = torch.rand(shape, generator=generator, device=device) < 0.5
        return drawn | torch.eye(self.n_agents, dtype=torch.bool, device=device)

    def observe(self, factors: Tensor) -> None:
        """Learn the statistics of the inputs from new rows ``[..., D]``."""
        self.embedding.standardizer.observe(factors)

    def score(self, factors: Tensor, coalitions: Tensor) -> Tensor:
        """Rewards ``[E, T, agents]`` under given coalitions.

        Args:
            factors: ``[E, T, agents, D]``.
            coalitions: bool ``[samples, E or 1, agents, agents]``, see :meth:`draw`.
        """
        vectors = self.embedding(factors)
        for block in self.time_blocks:
            vectors = over_time(block, vectors)
        # Room for the steps: an episode's coalitions hold at all of them.
        masks = coalitions[:, :, None]
        vectors = vectors + self.agent_attention(self.agent_norm(vectors), masks=masks)
        rewards: Tensor = self.head(self.norm(vectors))
        return rewards.squeeze(-1)

    def rewards(self, factors: Tensor, mask: Tensor | None = None) -> Tensor:
        """Rewards of whole episodes.

        Args:
            factors: ``[E, T, agents, D]``, padded at the end of an episode.
            mask: bool ``[E, T]``, True at steps; None where all are.

        Returns:
            ``[E, T, agents]``, 0 where there is no step.
        """
        return masked(self.score(factors, self.coalitions), mask)

    def loss(self, batch: EpisodeBatch, generator: torch.Generator) -> Tensor:
        """The loss on some episodes; a scalar with gradient.

        ``generator``, on the device of the batch, draws the coalitions.
        """
        coalitions = self.draw(len(batch.factors), generator)
        rewards = masked(self.score(batch.factors, coalitions), batch.mask)
        return (rewards.sum((1, 2)) - batch.returns).square().mean()
