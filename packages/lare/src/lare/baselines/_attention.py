"""Attention over the steps of an episode, or over the agents at a step."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from lare.decoder import Standardizer
from lare.errors import ConfigError, ShapeError


class Attention(nn.Module):
    """Self-attention along the last but one dimension.

    Args:
        hidden: size of the last dimension.
        heads: each of width ``hidden // heads``.
    """

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        inner = hidden // heads * heads
        self.queries_keys_values = nn.Linear(hidden, 3 * inner)
        self.output = nn.Linear(inner, hidden)

    def forward(
        self, inputs: Tensor, *, causal: bool = False, masks: Tensor | None = None
    ) -> Tensor:
        """Attend.

        Args:
            inputs: ``[..., L, hidden]``.
            causal: let a place read itself and those before it only.
            masks: bool ``[S, ..., L, L]``, True where the row's place may read the column's; the
                results under the S masks are averaged. None: every place reads all.

        Returns:
            Of the shape of ``inputs``.
        """
        parts = self.queries_keys_values(inputs).unflatten(-1, (3, self.heads, -1))
        # To [..., heads, L, width] each.
        query, key, value = (part.transpose(-3, -2) for part in parts.unbind(-3))
        if masks is None:
            read = scaled_dot_product_attention(query, key, value, is_causal=causal)
        else:
            # One after the other: side by side they would need S copies of keys and values.
            under = [
                scaled_dot_product_attention(query, key, value, attn_mask=mask.unsqueeze(-3))
                for mask in masks
            ]
            read = torch.stack(under).mean(0)
        attended: Tensor = self.output(read.transpose(-3, -2).flatten(-2))
        return attended


class Block(nn.Module):
    """Attention and two linear layers, each after a normalization and beside a shortcut."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.first_norm = nn.LayerNorm(hidden)
        self.attention = Attention(hidden, heads)
        self.second_norm = nn.LayerNorm(hidden)
        self.layers = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, hidden))

    def forward(self, inputs: Tensor, *, causal: bool = False) -> Tensor:
        """``[..., L, hidden]`` to the same shape; ``causal`` as in :class:`Attention`."""
        inputs = inputs + self.attention(self.first_norm(inputs), causal=causal)
        outputs: Tensor = inputs + self.layers(self.second_norm(inputs))
        return outputs


def over_time(block: nn.Module, inputs: Tensor) -> Tensor:
    """A :class:`Block` over each agent's earlier steps; ``inputs``: ``[E, T, agents, hidden]``."""
    outputs: Tensor = block(inputs.transpose(1, 2), causal=True)
    return outputs.transpose(1, 2)


class TeamEmbedding(nn.Module):
    """From the numbers of every agent and step to vectors that know their time.

    One linear layer reads all of an agent's numbers. For observation and action side by side this
    is the sum of an embedding of each.

    Args:
        n_features: D.
        n_agents: of the team.
        hidden: size of the vectors.
        heads: of the attention that follows; checked here for all models.
        standardize: rows from which the inputs' mean and scale are learned; 0 for none.

    Raises:
        ConfigError: if a size is not positive, or there are more heads than ``hidden``.
    """

    def __init__(
        self, n_features: int, n_agents: int, hidden: int, heads: int, standardize: int
    ) -> None:
        super().__init__()
        if min(n_features, n_agents, hidden, heads) < 1 or heads > hidden or standardize < 0:
            raise ConfigError(
                f"n_features={n_features}, n_agents={n_agents}, hidden={hidden}, heads={heads}, "
                f"standardize={standardize}: sizes are at least 1, heads at most hidden, "
                "standardize at least 0"
            )
        self.shape = (n_agents, n_features)
        self.standardizer = Standardizer(n_features, standardize)
        self.linear = nn.Linear(n_features, hidden)

    def forward(self, factors: Tensor) -> Tensor:
        """``[E, T, agents, D]`` to ``[E, T, agents, hidden]``.

        Raises:
            ShapeError: if the shape is another.
        """
        if factors.ndim != 4 or factors.shape[2:] != self.shape:
            raise ShapeError(
                f"the factors have shape {tuple(factors.shape)}: give whole episodes "
                f"[episodes, time, agents, numbers] with the last two {self.shape}"
            )
        embedded: Tensor = self.linear(self.standardizer(factors))
        return embedded + waves(factors.shape[1], embedded)[:, None]


def waves(steps: int, like: Tensor) -> Tensor:
    """Sines and cosines of the time, ``[steps, like.shape[-1]]``, for episodes of any length.

    Reference: arXiv 1706.03762, section 3.5.
    """
    size = like.shape[-1]
    places = torch.arange(size, device=like.device)
    rates = 10_000.0 ** (-(places - places % 2) / size)
    angles = torch.arange(steps, device=like.device)[:, None] * rates
    return torch.where(places % 2 == 0, angles.sin(), angles.cos()).to(like)


def masked(rewards: Tensor, mask: Tensor | None) -> Tensor:
    """Rewards ``[E, T, ...]`` with 0 where the episode has no step; ``mask``: bool ``[E, T]``."""
    if mask is None:
        return rewards
    shape = (*mask.shape, *[1] * (rewards.ndim - 2))
    return rewards.masked_fill(~mask.reshape(shape), 0.0)
